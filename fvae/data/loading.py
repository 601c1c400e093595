"""Data of a source, which ``DataSettings`` describes: what it holds, and its parts."""

import os
import warnings
from pathlib import Path
from typing import Any

from fvae.data.files import argument_named, local_path
from fvae.data.images import Images, load_images
from fvae.data.modality import Modality
from fvae.data.samples import Samples
from fvae.data.sources import is_path
from fvae.data.table import Table
from fvae.data.table_files import holds_table, load_table
from fvae.data.text import Text, holds_text, load_text
from fvae.errors import InputError
from fvae.schema import checked
from fvae.settings import DataSettings

LOADERS: dict[Any, Any] = {Images: load_images, Table: load_table, Text: load_text}
SETTINGS: dict[type[Modality], tuple[str, ...]] = {
    Images: ("size", "fit", "color", "split"),
    Table: ("types", "allow_degenerate"),
    Text: ("tokenizer", "vocabulary_size", "max_length", "labels"),
}


def modality_of(source: str) -> type[Modality]:
    """The modality of a source, by its name and first bytes."""
    return Text if holds_text(source) else Table if holds_table(source) else Images


def read_data(source: str | Path, like: Modality | None = None, **settings: Any) -> tuple[Samples, Samples]:
    """Training and held-out samples of a source, as a model of modality ``like`` takes them.

    ``source`` is a path, "digits" or a Hugging Face data set, ``settings`` are other fields of ``DataSettings``.
    Raises ``InputError``.

    Example:
        >>> train, test = fvae.read_data("digits", held_out=0.1)
        >>> train.shape, len(train) > 5 * len(test)
        ((1, 8, 8), True)
    """
    if not isinstance(source, str | Path):
        raise InputError(f"expected a path or a data set's name, found {type(source).__name__}", "source")
    data = checked(DataSettings, {"source": str(source), **settings})
    train = load_data(data, "train", like)
    test = load_data(data, "test", train.modality)
    for part in (train, test):
        warn_skipped(part)
    return train, test


def warn_skipped(samples: Samples) -> None:
    """Warn of the files or lines of a source that are not in its samples."""
    if samples.skipped:
        n, found = len(samples.skipped), "; ".join(samples.skipped[:3])
        text = f"skipped {n} of {n + len(samples)} {samples.modality.items}: {found}{'; ...' * (n > 3)}"
        warnings.warn(text, stacklevel=3)


def load_data(data: DataSettings, part: str = "train", like: Modality | None = None) -> Samples:
    """The "train", "test", "all" or "unseen" samples of a source, as a model of modality ``like`` takes them.

    "unseen" is for a source that the model was not trained on: its test split where it has one, else all.

    Raises ``InputError`` for a source that is missing, broken or of another modality or shape than the model's.
    """
    if part not in ("train", "test", "all", "unseen"):
        raise InputError(f"expected train, test, all or unseen, found {part!r}", "part")
    modality = modality_of(data.source)
    with argument_named("source", data.source):
        if is_path(data.source) and not os.path.exists(local_path(data.source)):
            raise InputError("no such file or folder")
        path = local_path(data.source)
        if path.exists() and not path.is_dir() and not path.is_file():  # a pipe or a device may have no end
            raise InputError("expected a file or a folder, found a pipe, a socket or a device")
        if like and not (isinstance(like, modality) or type(like) is Modality):
            raise InputError(f"expected {like.noun} as the model has, found {modality.noun}")
        check_settings(data, modality)
        samples = LOADERS[modality](data, part, like)
        if like and (found := like.mismatch(samples.modality)):
            raise InputError(found)
        return samples


def check_settings(data: DataSettings, modality: type[Modality]) -> None:
    """Refuse settings of another modality; raises ``InputError``."""
    for kind, names in SETTINGS.items():
        for name in names:
            value = getattr(data, name)
            if kind is not modality and value != DataSettings.model_fields[name].default:
                found = f"{value} for {data.source}, which holds {modality.noun}"
                raise InputError(f"expected no value but for {kind.noun}, found {found}", name)
