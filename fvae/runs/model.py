"""A model on disk: ``config.json`` (recipe, shape, settings) and ``model.safetensors``; neither can run code."""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fvae import __version__
from fvae.data import Modality
from fvae.errors import InputError
from fvae.files import write_bytes, write_text
from fvae.model import LatentModel
from fvae.recipes import RECIPES

FORMAT = 3


def save(model: LatentModel, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, all that is needed to use the model, into ``folder``.

    Raises ``InputError`` for a model that no recipe made, ``MachineError`` where the files can't be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fvae.save(fvae.recipes.vae((4,)), folder)
        ...     fvae.load(folder).config["recipe"]
        'vae'
    """
    folder = Path(folder)
    check_savable(model)
    modality = {"modality": type(model.modality).__name__, **model.modality.config}
    config = {"format": FORMAT, "fvae": __version__, **model.config, **modality}
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = None if model.step is None else {"step": str(model.step)}
    write_bytes(folder / "model.safetensors", safetensors.torch.save(weights, metadata))
    model.modality.save(folder)


def check_savable(model: LatentModel) -> None:
    """Refuse a model that no recipe made; raises ``InputError``."""
    if not model.config:
        raise InputError("expected a model made by a recipe, which says how to build it again, found another", "model")


def load(folder: str | Path, device: str | torch.device = "cpu") -> LatentModel:
    """The model of a run folder, in evaluation mode: its recipe built again, with the weights of ``model.safetensors``.

    Reads JSON and safetensors alone, neither of which can run code. Raises ``InputError`` where a file is missing,
    damaged, of another format, or where weights and config don't belong together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fvae.save(fvae.recipes.vae((4,)), folder)
        ...     fvae.load(folder).sample(2, temperature=0.8).shape
        torch.Size([2, 4])
    """
    folder = Path(folder)
    config = read_model_config(folder)
    try:
        model = RECIPES[config["recipe"]](config["shape"], **config["settings"])
    except InputError as error:
        raise InputError(f"{folder}/config.json: {error}") from None
    weights = read_weights(folder / "model.safetensors")
    ours = model.state_dict()
    check_fit(f"{folder}/model.safetensors", weights, ours, f"{folder}/config.json")
    model.load_state_dict(weights)
    model.initialized, model.step = True, read_step(folder / "model.safetensors")
    model.modality = modality_of(config, model.modality).load(config, folder)
    return model.to(device).eval()


def modality_of(config: dict[str, Any], modality: Modality) -> Modality:
    """The kind of data that a model was trained on: its recipe's, or another one that it was given; by its name."""
    known, name = subclasses(Modality), config.get("modality", type(modality).__name__)
    if name not in known:
        raise InputError(f"config.json: expected data of a known modality ({', '.join(known)}), found {name}")
    return modality if known[name] is type(modality) else known[name](modality.shape)


def subclasses(kind: type[Modality]) -> dict[str, type[Modality]]:
    """A class and those derived from it, by name."""
    return {kind.__name__: kind} | {name: c for below in kind.__subclasses__() for name, c in subclasses(below).items()}


def check_fit(path: str | Path, weights: dict[str, Any], ours: dict[str, Any], origin: str) -> None:
    """Refuse weights of other names or shapes than ``ours``, the model of ``origin``; raises ``InputError``."""
    for name in sorted(ours.keys() ^ weights.keys()):
        verb = "lacks" if name in ours else "has an unexpected"
        raise InputError(f"{path}: {verb} {name}: these weights are not of the model of {origin}")
    for name, tensor in weights.items():
        if tensor.shape != ours[name].shape:
            found, expected = tuple(tensor.shape), tuple(ours[name].shape)
            raise InputError(f"{path}: {name} has shape {found}, the model of {origin} expects {expected}")


def read_model_config(folder: Path) -> dict[str, Any]:
    """The checked content of ``config.json``; raises ``InputError``."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    if not path.is_file():
        raise InputError(
            f"{folder}: expected a run folder with a config.json (written at its first checkpoint), found none"
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict) or "format" not in config:
        raise InputError(f"{path}: expected a table with format, recipe, shape and settings, as fvae train writes it")
    if config["format"] == 2:
        raise InputError(
            f"{path}: written by fvae 0.1; fvae convert {folder} --out NEW makes a run of this version from it"
        )
    if config["format"] != FORMAT:
        raise InputError(
            f"{path}: format {config['format']}, written by fvae {config.get('fvae', '?')}; "
            f"this is fvae {__version__}, which reads format {FORMAT}"
        )
    if config.get("recipe") not in list(RECIPES):
        raise InputError(f"{path}: unknown recipe {config.get('recipe')!r}; known are {', '.join(RECIPES)}")
    if not isinstance(config.get("shape"), list) or not isinstance(config.get("settings"), dict):
        raise InputError(f"{path}: expected a list `shape` and a table `settings`")
    return config


def read_step(path: Path) -> int | None:
    """The training step that the weights in a safetensors file are of, None where it isn't said."""
    with safetensors.safe_open(path, "pt") as file:
        step = (file.metadata() or {}).get("step", "")
    return int(step) if step.isdecimal() and len(step) < 16 else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises ``InputError`` for anything else, a pickle above all."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a run has it from its first checkpoint on")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            kind = "refused: this is a pickle (or a torch archive), which can run code; expected safetensors"
            raise InputError(f"{path}: {kind}") from None
        raise InputError(f"{path}: damaged, or not a safetensors file ({error})") from None
