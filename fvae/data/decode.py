"""One image of any kind as plain gray or RGB."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SEVERAL = "several pictures"  # in an image's info: whether its file holds more than the first


def open_image(file: Path | io.BytesIO) -> Image.Image:
    """The first frame of an image file, upright, as L or RGB."""
    if isinstance(file, Path) and file.exists() and not file.is_file():  # a pipe or a device may have no end
        raise ValueError("not a regular file")
    with Image.open(file) as image:
        image.load()
        with contextlib.suppress(Exception):  # a broken tag is no reason to lose the image
            ImageOps.exif_transpose(image, in_place=True)
        first = plain(image)
        first.info[SEVERAL] = getattr(image, "is_animated", False)
        return first


def plain(image: Image.Image) -> Image.Image:
    """An image of any mode as L if its mode is gray, else RGB, its transparent parts on white."""
    gray = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    if gray and image.mode[0] in "IF":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 65535) or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(f"expected 16-bit gray values 0..65535, found {low:g}..{high:g}")
        wide = image.mode.startswith("I;16") or high > 255  # convert("L") would clip at 255
        return Image.fromarray((values // 256 if wide else values).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("LA" if image.mode in ("1", "L") else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), above)
    return image.convert("L" if gray else "RGB")


def resized(image: Image.Image, height: int, width: int, fit: str) -> Image.Image:
    """Scale an image so that it covers height and width and crop its center, so that it fits inside ("pad": a model
    pads it), or each side by itself ("stretch")."""
    w, h = image.size
    scales = {"crop": 2 * [max(width / w, height / h)], "pad": 2 * [min(width / w, height / h)]}
    across, down = scales.get(fit, (width / w, height / h))
    scaled = max(1, round(w * across)), max(1, round(h * down))
    if Image.MAX_IMAGE_PIXELS and math.prod(scaled) > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{sides(h, w)} is too large once resized")
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    if fit != "crop":
        return image
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def sides(height: int, width: int) -> str:
    return f"{height}x{width}"
