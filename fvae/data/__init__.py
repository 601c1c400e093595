"""Data of any source, images, vectors or text, as one array with names and maybe labels."""

from fvae.data.images import load_images
from fvae.data.samples import Samples, Shape
from fvae.data.texts import Vocabulary, holds_text, load_texts
from fvae.data.vectors import holds_vectors, load_vectors
from fvae.errors import UserError
from fvae.settings import DataSettings

__all__ = ["Samples", "Shape", "Vocabulary", "load_data"]


def load_data(
    data: DataSettings, part: str = "train", shape: Shape | None = None, vocabulary: Vocabulary | None = None
) -> Samples:
    """The "train", "test", "all" or "unseen" samples of a source, of the shape that a model asks for, and of text in
    the numbers of its vocabulary.

    Raises ``UserError`` for a source that is missing, broken or of another kind than the model's.
    """
    text = holds_text(data.source)
    if shape and text != (len(shape) == 2):
        expected, found = (
            ("images or rows of numbers", "text") if text else ("text, a .txt or .txt.gz", "another source")
        )
        raise UserError(f"--data {data.source}: expected {expected} as the model has, found {found}")
    default = DataSettings()
    for flag in ("tokens", "vocabulary", "longest", "labels"):
        if not text and (value := getattr(data, flag)) != getattr(default, flag):
            raise UserError(f"--data.{flag} {value}: is for text; {data.source} is no .txt or .txt.gz")
    if text:
        return load_texts(data, part, vocabulary)
    if holds_vectors(data.source):
        return load_vectors(data, part, shape)
    return load_images(data, part, shape)
