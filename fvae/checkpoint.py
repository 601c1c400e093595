"""A model on disk: ``config.json`` (recipe, shape, settings) and ``model.safetensors``; neither can run code."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fvae import __version__
from fvae.bound import LatentModel
from fvae.errors import UserError
from fvae.files import write_bytes, write_text
from fvae.recipes import RECIPES

FORMAT = 1


def save(model: LatentModel, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, all that is needed to use the model, into ``folder``.

    Raises ``MachineError`` where the files can't be written.
    """
    folder = Path(folder)
    config = {"format": FORMAT, "fvae": __version__, **model.config}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_bytes(
        folder / "model.safetensors", safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()})
    )


def load(folder: str | Path, device: str | torch.device = "cpu") -> LatentModel:
    """The model of a run folder, in evaluation mode: its recipe built again, with the weights of ``model.safetensors``.

    Reads JSON and safetensors alone, neither of which can run code. Raises ``UserError`` where a file is missing,
    damaged, of another format, or where weights and config don't belong together.

    Example: ``load("runs/faces").sample(16, temperature=0.8)`` gives (16, C, H, W) in bins 0 .. 2^bits - 1.
    """
    folder = Path(folder)
    config = read_config(folder)
    model = RECIPES[config["recipe"]](config["shape"], **config["settings"])
    weights = read_weights(folder / "model.safetensors")
    ours = model.state_dict()
    for name in sorted(ours.keys() ^ weights.keys()):
        where = "model.safetensors lacks" if name in ours else "model.safetensors has, and config.json's model lacks,"
        raise UserError(f"{folder}: {where} {name}: the two files don't belong together")
    for name, tensor in weights.items():
        if tensor.shape != ours[name].shape:
            raise UserError(
                f"{folder}/model.safetensors: {name} has shape {tuple(tensor.shape)}, "
                f"config.json's model expects {tuple(ours[name].shape)}"
            )
    model.load_state_dict(weights)
    return model.to(device).eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of ``config.json``; raises ``UserError``."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    if not path.is_file():
        raise UserError(f"{folder}: not a run folder, or one that has not begun to train: it has no config.json")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        made = config.get("fvae", "another program") if isinstance(config, dict) else "another program"
        raise UserError(
            f"{path}: format {found}, made by fvae {made}; this is fvae {__version__}, which reads format {FORMAT}"
        )
    if config.get("recipe") not in RECIPES:
        raise UserError(f"{path}: unknown recipe {config.get('recipe')!r}; known are {', '.join(RECIPES)}")
    if not isinstance(config.get("shape"), list) or not isinstance(config.get("settings"), dict):
        raise UserError(f"{path}: expected a list `shape` and a table `settings`")
    return config


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises ``UserError`` for anything else, a pickle above all."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a run has it from its first evaluation on")
    with open(path, "rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80" or head == b"PK\x03\x04":
        raise UserError(
            f"{path}: refused: this is a pickle (or a torch archive), which can run code; expected safetensors"
        )
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged, or not a safetensors file ({error})") from None
