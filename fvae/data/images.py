"""Images of any source as one uint8 array, so that the step and not the decoder is what takes time.

A source is read in three steps: its items are listed by split without decoding any (``sources``), those of the part
asked for are chosen, and only they are decoded (``decode``, one by one).
"""

import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fvae.data.decode import cover, open_image, reason, sides
from fvae.data.samples import Samples, Shape, check_share, held_out
from fvae.data.sources import TEST_SPLITS, Item, Splits, list_items
from fvae.errors import UserError
from fvae.settings import DataSettings


def load_images(data: DataSettings, part: str = "train", shape: Shape | None = None) -> Samples:
    """The "train", "test" or "all" images of a source, brought to shape (C, H, W) where a model asks for it.

    "unseen" is for a source that the model was not trained on: its test split where it has one, else all.

    Raises UserError for a source that is missing, broken or holds no images, and for images of other shapes.
    """
    if part not in ("train", "test", "all", "unseen"):
        raise ValueError(f"part: expected train, test, all or unseen, found {part!r}")
    if data.size is not None and data.size < 1:
        raise UserError(f"--data.size {data.size}: expected a number of pixels, 1 or more")
    check_share(data.held_out)
    if shape and len(shape) == 1:
        list_items(data.source)  # where there is nothing, that is what is wrong
        expected = f"expected rows of {shape[0]} columns as the model has (a .csv, a .parquet or an .npz with `x`)"
        raise UserError(f"--data {data.source}: {expected}, found images")
    if shape and data.size and data.size != min(shape[1:]):
        raise UserError(f"--data.size {data.size}: the model's images are {sides(*shape[1:])}")

    items = _choose(list_items(data.source), data, part)
    channels = {"auto": None, "grey": 1, "rgb": 3}[data.colour]
    size = (data.size, data.size) if data.size else None
    if shape:
        channels, size = shape[0], (shape[1], shape[2]) if size else None
    images = _decode(items, f"--data {data.source}", channels, size)
    if shape and images.shape != tuple(shape):
        raise UserError(
            f"--data {data.source}: expected images of shape {shape} as the model has, "
            f"found {images.shape}; bring them there with --data.size {min(shape[1:])}"
        )
    return images


def read_files(paths: Sequence[Path], shape: Shape | None = None) -> Samples:
    """The image files that a user names, resized and cropped to shape (C, H, W) where it is given.

    Raises UserError if one of them cannot be read, and without a shape if their sizes differ.
    """
    items = [Item(str(path), partial(open_image, path)) for path in paths]
    channels, size = (shape[0], (shape[1], shape[2])) if shape else (None, None)
    images = _decode(items, "image files", channels, size)
    if images.skipped:
        raise UserError(f"expected an image: {images.skipped[0]}")
    return images


def _choose(splits: Splits, data: DataSettings, part: str) -> list[Item]:
    where = f"--data {data.source}"
    own = [split for split in splits if split]
    if data.split and data.split not in own:
        found = f"found {', '.join(own)}" if own else "the source has no splits"
        raise UserError(f"--data.split {data.split}: no such split in {data.source}; {found}")
    if part == "all":
        return [item for items in splits.values() for item in items]
    train = data.split or ("train" if own else "")
    test = next((split for split in TEST_SPLITS if split in own and split != train), None)
    if part == "unseen" and not test:
        return [item for items in splits.values() for item in items]
    if part in ("test", "unseen") and test:
        return splits[test]
    if train not in splits and own:
        raise UserError(f"{where}: expected a split called train, found {', '.join(own)}; name one with --data.split")
    items = splits.get(train, [])
    if own:  # images beside the splits are in none of them: not read, but named
        loose = [item for item in splits.get("", []) if not item.fault]
        beside = [item._replace(fault="beside the splits, in none of them") for item in loose]
        items = items + beside if part == "train" else items
    if test:
        return items

    images = [item for item in items if not item.fault]
    if not images:
        return items  # for _decode to say what they are
    if part == "test" and len(images) == 1:
        raise UserError(f"{where}: expected 2 images or more to hold some out for a test, found 1")
    out = held_out([item.name for item in images], data.held_out)
    return [item for item in items if (item.name in out) == (part == "test")]


def _decode(items: list[Item], where: str, channels: int | None, size: tuple[int, int] | None) -> Samples:
    """Decode items into one array; without channels grey if all are, without a size (H, W) that of the first."""
    if channels not in (None, 1, 3):
        raise UserError(f"{where}: the model's images have {channels} channels, those of files have 1 or 3")
    pixels = np.empty((0, 0, 0, 0), np.uint8)
    kept: list[Item] = []
    skipped: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for item in items:
            try:
                if item.fault:
                    raise ValueError(item.fault)
                image = item.open()
                image = cover(image, *size) if size else image
                image = image.convert({1: "L", 3: "RGB"}[channels]) if channels else image
            except Exception as error:  # decoders raise anything at all on a broken file
                skipped.append(f"{item.name}: {reason(error)}")
                continue
            c, (w, h) = len(image.getbands()), image.size
            if not kept:
                pixels = _allocate((len(items), c, h, w), where)
            elif (h, w) != pixels.shape[2:]:
                raise UserError(
                    f"{where}: expected images of one size, found {kept[0].name} {sides(*pixels.shape[2:])} and "
                    f"{item.name} {sides(h, w)}; bring them to one with --data.size"
                )
            elif c > pixels.shape[1]:  # the first colour image after grey ones
                grey, pixels = pixels, _allocate((len(items), c, h, w), where)
                pixels[: len(kept)] = grey[: len(kept)]
            pixels[len(kept)] = np.asarray(image).reshape(h, w, c).transpose(2, 0, 1)
            kept.append(item)
    if not kept:
        reasons = f" ({'; '.join(skipped[:3])})" if skipped else ""
        raise UserError(f"{where}: expected images, found none in {len(items)} files{reasons}")
    known = all(item.label is not None for item in kept)
    labels = np.array([item.label for item in kept], dtype=np.int64) if known else None
    classes = list(kept[0].classes) if known else []
    return Samples(pixels[: len(kept)], [item.name for item in kept], labels, skipped, classes=classes)


def _allocate(shape: tuple[int, int, int, int], where: str) -> np.ndarray:
    """An array in memory, or in a memory map of a file without a name where it would fill half of what is free."""
    size = math.prod(shape)
    if size <= _free_memory() / 2:
        return np.empty(shape, np.uint8)
    need = f"{shape[0]} images of {sides(*shape[2:])} need {size / 2**30:.1f} GiB"
    try:
        with tempfile.TemporaryFile() as file:  # the map outlives it
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now, not in the middle of a run
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        found = f"{need} in {tempfile.gettempdir()}: {error.strerror}"
        raise UserError(f"{where}: {found}; make them smaller with --data.size") from None


def _free_memory() -> float:
    """Bytes of memory that are free; without an answer from the system, as many as one asks for."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
