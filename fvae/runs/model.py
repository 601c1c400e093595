"""A model on disk: ``config.json`` (recipe, shape, settings) and ``model.safetensors``; neither can run code."""

import json
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import AfterValidator

from fvae import __version__
from fvae.data import Modality, TypedTable
from fvae.data.typed_table import SCHEMA_FILE, read_schema
from fvae.documents import JSON, Document, need_regular_file, read_document
from fvae.errors import InputError
from fvae.files import need_no_links, write_bytes, write_text
from fvae.model import LatentModel
from fvae.recipes import RECIPES
from fvae.schema import Count, checked

FORMAT = 3


def check_format(found: int) -> int:
    """Refuse a format that this version does not read; raises ``ValueError``."""
    if found != FORMAT:
        hint = ", written by fvae 0.1; fvae convert RUN --out NEW makes a run of this version from it" * (found == 2)
        raise ValueError(f"this is fvae {__version__}, which reads format {FORMAT}; found {found}{hint}")
    return found


def check_recipe(name: str) -> str:
    """Refuse the name of no recipe; raises ``ValueError``."""
    if name not in RECIPES:
        raise ValueError(f"expected one of {', '.join(RECIPES)}, found {name!r:.40}")
    return name


class ModelConfig(Document, extra="allow"):
    """What config.json says of a model; the other keys are of its modality, which declares them."""

    format: Annotated[int, AfterValidator(check_format)]
    fvae: str = ""
    recipe: Annotated[str, AfterValidator(check_recipe)]
    shape: list[Count]
    settings: dict[str, Any]
    modality: str = ""


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
    need_no_links(folder)
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
    model = build(folder)
    weights = read_weights(folder / "model.safetensors")
    check_fit(f"{folder}/model.safetensors", weights, model.state_dict(), f"{folder}/config.json")
    model.load_state_dict(weights)
    model.initialized, model.step = True, read_step(folder / "model.safetensors")
    return model.to(device).eval()


def build(folder: Path) -> LatentModel:
    """The model of a run folder without its weights, as ``config.json`` describes it; raises ``InputError``."""
    path, config = folder / "config.json", read_model_config(folder)
    make = RECIPES[config.recipe]
    try:
        typed = config.modality == TypedTable.__name__
        shape = read_schema(folder / SCHEMA_FILE) if typed else config.shape
        model: LatentModel = make(shape, **dict(checked(make.settings, config.settings)))
        modality = modality_of(config, model.modality)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    model.modality = modality.load(config.model_extra or {}, folder)
    if len(names := model.modality.classes) not in (0, model.classes):
        raise InputError(f"{path}: labels: expected {model.classes} names, found {len(names)}")
    return model


def modality_of(config: ModelConfig, modality: Modality) -> Modality:
    """The kind of data that a model was trained on: its recipe's, or another one that it was given; by its name."""
    known, name = subclasses(Modality), config.modality or type(modality).__name__
    if name not in known:
        raise InputError(f"expected data of a known modality ({', '.join(known)}), found {name}", "modality")
    return modality if known[name] is type(modality) else known[name](modality.shape)


def subclasses(kind: type[Modality]) -> dict[str, type[Modality]]:
    """A class and those derived from it, by name."""
    return {kind.__name__: kind} | {name: c for below in kind.__subclasses__() for name, c in subclasses(below).items()}


def check_fit(path: str | Path, weights: dict[str, Any], ours: dict[str, Any], origin: str) -> None:
    """Refuse weights of other names, shapes or kinds than ``ours``, the model of ``origin``, and values that no model
    has; raises ``InputError``.

    Floating-point numbers may be of another precision, in which they are as finite; indices are in the range of ours.
    """
    for name in sorted(ours.keys() ^ weights.keys()):
        verb = "lacks" if name in ours else "has an unexpected"
        raise InputError(f"{path}: {verb} {name}: these weights are not of the model of {origin}")
    for name, tensor in weights.items():
        like = ours[name]
        if tensor.shape != like.shape:
            found, expected = tuple(tensor.shape), tuple(like.shape)
            raise InputError(f"{path}: {name} has shape {found}, the model of {origin} expects {expected}")
        if tensor.dtype != like.dtype and not (tensor.is_floating_point() and like.is_floating_point()):
            raise InputError(f"{path}: {name}: expected {like.dtype}, found {tensor.dtype}")
        if like.is_floating_point():
            values = tensor.to(like.dtype)
            if n := int((~values.isfinite()).sum()):
                raise InputError(f"{path}: {name}: expected finite numbers, found {n} of {tensor.numel()} that are not")
        elif bool((tensor < 0).any()) or (like.ndim and not torch.equal(tensor.sort()[0], like.sort()[0])):
            raise InputError(f"{path}: {name}: expected a permutation or a count, found other numbers")


def read_model_config(folder: Path) -> ModelConfig:
    """The checked content of ``config.json``; raises ``InputError``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    missing = "no such file; a run folder has it from its first checkpoint on"
    return read_document(folder / "config.json", ModelConfig, JSON, missing)


def read_step(path: Path) -> int | None:
    """The training step that the weights in a safetensors file are of, None where it isn't said."""
    with safetensors.safe_open(path, "pt") as file:
        step = (file.metadata() or {}).get("step", "")
    return int(step) if step.isdecimal() and len(step) < 16 else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; raises ``InputError`` for anything else, a pickle above all."""
    need_regular_file(path, missing="no such file; a run has it from its first checkpoint on")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head[:1] == b"\x80" or head == b"PK\x03\x04":
            kind = "refused: this is a pickle (or a torch archive), which can run code; expected safetensors"
            raise InputError(f"{path}: {kind}") from None
        raise InputError(f"{path}: damaged, or not a safetensors file ({error})") from None
