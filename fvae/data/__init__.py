"""Data of any source, images or vectors, as one array with names and maybe labels."""

from fvae.data.images import load_images
from fvae.data.samples import Samples, Shape
from fvae.data.vectors import holds_vectors, load_vectors
from fvae.settings import DataSettings

__all__ = ["Samples", "Shape", "load_data"]


def load_data(data: DataSettings, part: str = "train", shape: Shape | None = None) -> Samples:
    """The "train", "test", "all" or "unseen" samples of a source, of the shape that a model asks for.

    Raises ``UserError`` for a source that is missing, broken or of another kind than the model's.
    """
    if holds_vectors(data.source):
        return load_vectors(data, part, shape)
    return load_images(data, part, shape)
