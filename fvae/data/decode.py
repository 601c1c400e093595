"""One image of any kind as plain greys or RGB."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """The first frame of an image file, upright, as L or RGB."""
    with Image.open(file) as image:
        image.load()
        with contextlib.suppress(Exception):  # a broken tag is no reason to lose the image
            ImageOps.exif_transpose(image, in_place=True)
        return plain(image)


def plain(image: Image.Image) -> Image.Image:
    """An image of any mode as L if its mode is grey, else RGB, its transparent parts on white."""
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    if grey and image.mode[0] in "IF":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 65535) or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(f"expected 16-bit greys 0..65535, found {low:g}..{high:g}")
        wide = image.mode.startswith("I;16") or high > 255  # convert("L") would clip at 255
        return Image.fromarray((values // 256 if wide else values).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("LA" if image.mode in ("1", "L") else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), above)
    return image.convert("L" if grey else "RGB")


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize an image so that it just covers height and width, then crop its centre."""
    w, h = image.size
    scale = max(width / w, height / h)
    covering = max(width, round(w * scale)), max(height, round(h * scale))
    if Image.MAX_IMAGE_PIXELS and math.prod(covering) > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{sides(h, w)} is too large once resized")
    if covering != image.size:
        image = image.resize(covering, Image.Resampling.LANCZOS)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def sides(height: int, width: int) -> str:
    return f"{height}x{width}"


def reason(error: Exception) -> str:
    """A short reason on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__
