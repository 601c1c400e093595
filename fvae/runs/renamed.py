"""Settings under the names that they had before 0.2: accepted, with a line that says so, until 1.0."""

from collections import defaultdict
from typing import Any

from fvae.recipes import RECIPES

F = {name: f"flow.{name}" for name in ("levels", "depth", "width", "mixing", "coupling", "actnorm")}
STRIDED = {"latent": "coder.size", "width": "coder.width", "levels": "coder.levels", "blocks": "coder.blocks"}
SQUEEZING = {name: f"coder.{name}" for name in ("squeezes", "blocks", "hidden", "block", "tanh")}
SIGMA_1 = {"sigma_1": "posterior.sigma", "sigma_1_kind": "posterior.std", "normalised": "posterior.normalize"}
SIGMA_2 = {
    "sigma_2": "decoder.sigma",
    "sigma_2_kind": "decoder.std",
    "sigma_2_least": "decoder.least",
    "bins": "decoder.likelihood",
    "pace": "decoder.lr_scale",
}
TEXT = {
    **{name: f"decoder.{name}" for name in ("skip", "layers", "heads", "dropout", "word_dropout", "softmax")},
    "decoder": "decoder.kind",
    "embedding": "decoder.embedding",
    "hidden": "decoder.hidden",
}
BY_RECIPE: dict[str, dict[str, str]] = {  # old name to new
    "nice": {"depth": "flow.depth", "width": "flow.width", "hidden": "flow.hidden"},
    "realnvp": F,
    "glow": F,
    "noisy_flow": F | {"flow": "flow.kind"},
    "vae": STRIDED | SIGMA_2,
    "cvae": STRIDED | SIGMA_2,
    "bn_vae": STRIDED | SIGMA_2 | {"form": "posterior.kind", "gamma": "posterior.gamma", "tau": "posterior.tau"},
    "f_vae": F | SQUEEZING | SIGMA_1 | SIGMA_2,
    "f_vae_general": F | SQUEEZING | SIGMA_2 | {"sigma_1": "sigma"},
    "f_vae_reduced": STRIDED | SIGMA_1 | SIGMA_2 | {"flow_depth": "flow.depth", "flow_width": "flow.width"},
    "text_vae": {
        **TEXT,
        "posterior": "posterior.kind",
        "gamma": "posterior.gamma",
        "tau": "posterior.tau",
        "std": "posterior.sigma",
        "prior": "flow.kind",
        "flow_depth": "flow.depth",
        "flow_width": "flow.width",
    },
    "language_model": TEXT,
}
MODEL = defaultdict[str, dict[str, str]](dict, BY_RECIPE)  # other recipes, which 0.1 had not, have no old names
VALUES = {  # of the new name, old value to new
    "decoder.std": {"gradient": "scalar", "closed": "optimal"},
    "decoder.likelihood": {"quantised": "discretized", "dequantised": "density"},
    "posterior.kind": {"fixed": "noise"},
    "flow.kind": {"normal": "none", "flow": "glow"},
}


def renamed(recipe: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings of before 0.2 as those of today, each under its part; others as they are."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        path = MODEL[recipe].get(name, name)
        part, _, last = path.rpartition(".")
        value = VALUES.get(path, {}).get(value, value) if isinstance(value, str) else value
        (found.setdefault(part, {}) if part else found)[last] = value
        if recipe == "text_vae" and name in ("embedding", "hidden"):  # one setting was the encoder's too
            found.setdefault("encoder", {})[last] = value
        if recipe in ("f_vae", "f_vae_reduced") and name == "pace":
            found.setdefault("posterior", {})["lr_scale"] = value
    if recipe == "text_vae" and found.get("flow", {}).get("kind") == "glow":
        found["flow"] = {"depth": 4, "width": 128} | found["flow"]
    kind = found.get("posterior", {}).get("kind") if recipe == "text_vae" else None
    if kind == "noise":
        found["posterior"] = {"sigma": 0.5, "std": "fixed"} | found["posterior"]
    if kind == "one-sided":
        found["posterior"] = {"gamma": 0.6} | found["posterior"]
    fields = RECIPES[recipe].settings.model_fields
    for part, values in found.items():
        if isinstance(values, dict) and part in fields:  # a choice had the settings of all
            kind = values.get("kind", fields[part].default.kind)
            choice = fields[part].annotation.choices()[kind]
            found[part] = {k: v for k, v in values.items() if k in choice.model_fields or k == "kind"}
    return found
