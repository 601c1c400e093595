"""A model on disk: ``config.json`` (recipe, shape, settings) and ``model.safetensors``; neither can run code."""

import json
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fvae import __version__
from fvae.errors import UserError
from fvae.files import write_bytes, write_text
from fvae.model import LatentModel
from fvae.recipes import RECIPES

FORMAT = 3


def save(model: LatentModel, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, all that is needed to use the model, into ``folder``.

    Raises ``UserError`` for a model that no recipe made, ``MachineError`` where the files can't be written.
    """
    folder = Path(folder)
    if not model.config:
        raise UserError(f"{folder}: expected a model made by a recipe, which says how to build it again; found another")
    config = {"format": FORMAT, "fvae": __version__, **model.config, **model.modality.config}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", safetensors.torch.save(weights))
    model.modality.save(folder)


def load(folder: str | Path, device: str | torch.device = "cpu") -> LatentModel:
    """The model of a run folder, in evaluation mode: its recipe built again, with the weights of ``model.safetensors``.

    Reads JSON and safetensors alone, neither of which can run code. Raises ``UserError`` where a file is missing,
    damaged, of another format, or where weights and config don't belong together.

    Example: ``load("runs/faces").sample(16, temperature=0.8)`` gives (16, C, H, W) in bins 0 .. 2^bits - 1.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        model = RECIPES[config["recipe"]](config["shape"], **config["settings"])
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    weights = read_weights(folder / "model.safetensors")
    ours = model.state_dict()
    check_fit(f"{folder}/model.safetensors", weights, ours, f"{folder}/config.json")
    model.load_state_dict(weights)
    model.modality = model.modality.restored(config, folder)
    return model.to(device).eval()


def check_fit(path: str | Path, weights: dict[str, Any], ours: dict[str, Any], origin: str) -> None:
    """Refuse weights of other names or shapes than ``ours``, the model of ``origin``; raises ``UserError``."""
    for name in sorted(ours.keys() ^ weights.keys()):
        verb = "lacks" if name in ours else "has an unexpected"
        raise UserError(f"{path}: {verb} {name}: these weights are not of the model of {origin}")
    for name, tensor in weights.items():
        if tensor.shape != ours[name].shape:
            found, expected = tuple(tensor.shape), tuple(ours[name].shape)
            raise UserError(f"{path}: {name} has shape {found}, the model of {origin} expects {expected}")


def check_checkpoint(path: Path, model: LatentModel, digest: str) -> int:
    """The step of a checkpoint; refuses one that is damaged, not of fvae, of another model or of other data.

    Reads tensors and plain values alone, which can't run code. Raises ``UserError``.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        weights = {k.removeprefix("model."): w for k, w in checkpoint["state_dict"].items() if k.startswith("model.")}
        known, step = checkpoint["fvae"]["digest"], int(checkpoint["global_step"])
    except Exception:  # a file can be broken in any way
        text = "damaged, or not a checkpoint of fvae; the run can be used, but not gone on with"
        raise UserError(f"{path}: {text}") from None
    check_fit(path, weights, model.state_dict(), "the run's config.yaml")
    if known != digest:
        raise UserError(f"--resume: {path} was begun with other data than --data has now; take another --out")
    return step


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
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{path}: expected a table with format, recipe, shape and settings, as fvae train writes it")
    if config["format"] == 2:
        raise UserError(f"{path}: written by fvae 0.1; fvae convert {folder} --out NEW makes a run of today from it")
    if config["format"] != FORMAT:
        raise UserError(
            f"{path}: format {config['format']}, written by fvae {config.get('fvae', '?')}; "
            f"this is fvae {__version__}, which reads format {FORMAT}"
        )
    if config.get("recipe") not in list(RECIPES):
        raise UserError(f"{path}: unknown recipe {config.get('recipe')!r}; known are {', '.join(RECIPES)}")
    if not isinstance(config.get("shape"), list) or not isinstance(config.get("settings"), dict):
        raise UserError(f"{path}: expected a list `shape` and a table `settings`")
    return config


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises ``UserError`` for anything else, a pickle above all."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a run has it from its first evaluation on")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            kind = "refused: this is a pickle (or a torch archive), which can run code; expected safetensors"
            raise UserError(f"{path}: {kind}") from None
        raise UserError(f"{path}: damaged, or not a safetensors file ({error})") from None
