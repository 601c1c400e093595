"""A run folder of fvae 0.1 (format 2) as one of today: its settings by part, its weights under today's names."""

import json
import re
from pathlib import Path
from typing import Any

from fvae.data import TOKENIZER_FILE
from fvae.errors import InputError
from fvae.files import need_new_folder, write_text
from fvae.recipes import RECIPES
from fvae.runs.config import run_config, write_config
from fvae.runs.model import read_weights, save
from fvae.runs.renamed import renamed

# Each old name's pieces, and what they may have become: the new name is the one that the model has.
RULES = [
    (r"\.params\.net\.(?=[012]\.(weight|bias)$)", ".conditioner."),
    (r"\.params\.split\.net\.", ".conditioner.net."),
    (r"\.params\.(?=(mean|log_std)$)", ".flow.conditioner."),
    (r"\.params\.net\.", ".conditioner."),
    (r"\.params\.", ".conditioner."),
    (r"\.params\.params\.split\.net\.", ".conditioner.conditioner.net."),
    (r"\.params\.params\.", ".conditioner.conditioner."),
]


def candidates(name: str) -> set[str]:
    """Every name of today that a weight of format 2 may have."""
    name = re.sub(r"^scale\.", "preprocess.", name).replace(".seen.", ".running.")
    found = {name}
    for _ in range(3):  # a name may have changed in three places
        for one in list(found):
            found |= {re.sub(pattern, to, one) for pattern, to in RULES}
            found |= {
                one.replace("flows.0.flow.", "flows.0.", 1),
                re.sub(r"(flows\.\d+)\.flow\.flows", r"\1.flows", one),
            }
            found |= {re.sub(r"\.([012])\.(weight|bias)$", lambda m: f".{m[2]}_{int(m[1]) + 1}", one)}
            found |= {re.sub(r"\.(conditioner|params)\.net\.", r".\1.", one)}
    return found


def convert(run: Path, out: Path) -> None:
    """Write the run of format 2 in ``run`` as one of today into the folder ``out``; checkpoints are left out.

    Raises ``InputError`` where ``run`` is none of format 2, or ``out`` is there already.
    """
    path = run / "config.json"
    config: Any = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("format") != 2 or config.get("recipe") not in RECIPES:
        raise InputError(f"{run}: expected a run folder of fvae 0.1, whose config.json has format 2")
    need_new_folder(out)
    recipe = config["recipe"]
    model = RECIPES[recipe](config["shape"], **renamed(recipe, config["settings"]))
    model.modality = model.modality.load(config, run)
    ours = model.state_dict()
    for name, tensor in read_weights(run / "model.safetensors").items():
        fits = [new for new in candidates(name) if new in ours and ours[new].shape == tensor.shape]
        if len(fits) != 1 and not name.endswith(".back"):
            raise InputError(f"{run}/model.safetensors: {name}: expected one weight that it is today, found {fits}")
        if fits:
            ours.pop(fits[0]).copy_(tensor)
    if ours:
        raise InputError(f"{run}/model.safetensors: lacks {', '.join(ours)}")
    save(model, out)
    for name in (TOKENIZER_FILE, "metrics.csv"):
        if (run / name).is_file():
            write_text(out / name, (run / name).read_text())
    if settings := run_config(run):
        write_config(out, settings | {"model": model.config["settings"]})
