"""A run folder of fvae 0.1 (format 2) as one of today: its settings by part, its weights under today's names."""

import re
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator

from fvae.data import TOKENIZER_FILE
from fvae.documents import JSON, read_document
from fvae.errors import InputError
from fvae.files import need_new_folder, write_text
from fvae.recipes import RECIPES
from fvae.runs.config import run_config, write_config
from fvae.runs.model import FORMAT, ModelConfig, check_fit, read_weights, save
from fvae.runs.renamed import renamed

# Each old name's pieces, and what they may have become: the new name is the one that the model has.
RULES: list[tuple[str, Any]] = [
    (r"\.params\.net\.(?=[012]\.(weight|bias)$)", ".conditioner."),
    (r"\.params\.split\.net\.", ".conditioner.net."),
    (r"\.params\.(?=(mean|log_std)$)", ".flow.conditioner."),
    (r"\.params\.net\.", ".conditioner."),
    (r"\.params\.", ".conditioner."),
    (r"\.params\.params\.split\.net\.", ".conditioner.conditioner.net."),
    (r"\.params\.params\.", ".conditioner.conditioner."),
    (r"(flows\.\d+)\.flow\.flows", r"\1.flows"),
    (r"\.(conditioner|params)\.net\.", r".\1."),
    (r"^(.*?flows\.0\.)flow\.", r"\1"),
    (r"\.([012])\.(weight|bias)$", lambda m: f".{m[2]}_{int(m[1]) + 1}"),
]


def candidates(name: str) -> set[str]:
    """Every name of today that a weight of format 2 may have."""
    name = re.sub(r"^scale\.", "preprocess.", name).replace(".seen.", ".running.")
    found = {name}
    for _ in range(3):  # a name may have changed in three places
        found |= {re.sub(pattern, to, one) for one in found for pattern, to in RULES}
    return found


def check_old(found: int) -> int:
    """Refuse another format than 2; raises ``ValueError``."""
    if found != 2:
        raise ValueError(f"expected 2, of fvae 0.1, found {found}" + ", which needs no conversion" * (found == FORMAT))
    return found


class OldConfig(ModelConfig):
    """What config.json of format 2 says."""

    format: Annotated[int, AfterValidator(check_old)]


def convert(run: Path, out: Path) -> None:
    """Write the run of format 2 in ``run`` as one of today into the folder ``out``; checkpoints are left out.

    Raises ``InputError`` where ``run`` is none of format 2, or ``out`` is there already.
    """
    config = read_document(run / "config.json", OldConfig, JSON)
    need_new_folder(out)
    model = RECIPES[config.recipe](config.shape, **renamed(config.recipe, config.settings))
    model.modality = model.modality.load(config.model_extra or {}, run)
    path, ours, weights = run / "model.safetensors", model.state_dict(), dict[str, torch.Tensor]()
    for name, tensor in read_weights(path).items():
        fits = [n for n in candidates(name) if n in ours and n not in weights and ours[n].shape == tensor.shape]
        if len(fits) != 1 and not name.endswith(".back"):
            raise InputError(f"{path}: {name}: expected one weight that it is today, found {fits}")
        weights |= dict.fromkeys(fits, tensor)
    check_fit(path, weights, ours, f"{run}/config.json")
    model.load_state_dict(weights)
    save(model, out)
    for name in (TOKENIZER_FILE, "metrics.csv"):
        if (run / name).is_file():
            write_text(out / name, (run / name).read_text())
    if settings := run_config(run):
        write_config(out, settings | {"model": model.config["settings"]})
