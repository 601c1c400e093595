"""The shape that images are padded to."""

import math

from fvae.errors import InputError
from fvae.networks.by_shape import Shape, is_image


def halvable(shape: Shape, times: int, argument: str) -> Shape:
    """The shape of images whose height and width are padded so that they can be halved ``times``.

    Raises ``InputError``, with the setting's name, for so many that padding is eight times an image's longer side.
    """
    if not is_image(shape):
        return shape
    c, h, w = shape
    most = int(math.log2(8 * max(h, w)))
    if times > most:
        raise InputError(f"expected at most {most} halvings of height and width {h}x{w}, found {times}", argument)
    return (c, *(-(-side // 2**times) * 2**times for side in (h, w)))
