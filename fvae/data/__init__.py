"""Data of any source, images, tables or text, as samples of their modality."""

from pathlib import Path

from fvae.data.images import Images, load_images
from fvae.data.modality import Modality, Shape, Unit
from fvae.data.samples import Samples
from fvae.data.sources import is_path
from fvae.data.table import Table, holds_vectors, load_table
from fvae.data.text import Text, Vocabulary, holds_text, load_text
from fvae.errors import UserError
from fvae.settings import DataSettings

__all__ = ["Images", "Modality", "Samples", "Shape", "Table", "Text", "Unit", "Vocabulary", "load_data", "modality_of"]

LOADERS = {Images: load_images, Table: load_table, Text: load_text}


def modality_of(source: str) -> type[Modality]:
    """What a source holds, by its name and first bytes."""
    return Text if holds_text(source) else Table if holds_vectors(source) else Images


def load_data(data: DataSettings, part: str = "train", like: Modality | None = None) -> Samples:
    """The "train", "test", "all" or "unseen" samples of a source, as a model of modality ``like`` takes them.

    Raises ``UserError`` for a source that is missing, broken or of another modality than the model's.
    """
    kind = modality_of(data.source)
    if is_path(data.source) and not Path(data.source).expanduser().exists():
        raise UserError(f"--data {data.source}: no such file or folder")
    if like and type(like) is not kind:
        raise UserError(f"--data {data.source}: expected {like.noun} as the model has, found {kind.noun}")
    default = DataSettings()
    for flag in ("tokens", "vocabulary", "longest", "labels"):
        if kind is not Text and (value := getattr(data, flag)) != getattr(default, flag):
            raise UserError(f"--data.{flag} {value}: is for text; {data.source} is no .txt or .txt.gz")
    return LOADERS[kind](data, part, like)
