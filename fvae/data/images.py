"""Images of any source as one uint8 array, so that the step and not the decoder is what takes time.

A source is read in three steps: its items are listed by split without decoding any (``sources``), those of the part
asked for are chosen, and only they are decoded (``decode``, one by one).
"""

import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fvae.data.decode import cover, open_image, reason, sides
from fvae.data.modality import Modality, Shape, Unit, in_bits
from fvae.data.pictures import PICTURES, save_picture, sheet, square, to_image, to_uint8
from fvae.data.samples import Samples, check_share, held_out
from fvae.data.sources import TEST_SPLITS, Item, Splits, list_items
from fvae.density import to_unit
from fvae.errors import UserError
from fvae.files import need_file, need_folder, write_arrays
from fvae.settings import DataSettings


@dataclass(frozen=True)
class Images(Modality):
    """Images (C, H, W) in bins 0 .. 2^bits - 1, stored as 8 bits a value."""

    bits: int = 8  # type: ignore[misc]

    noun, ends = "images", "image files"
    visible, splits, temperature, first = True, True, 0.8, 256

    @property
    def unit(self) -> Unit:
        return in_bits(self.shape)

    @property
    def size(self) -> str:
        c, h, w = self.shape
        return f"{sides(h, w)} {'grey' if c == 1 else 'rgb'}"

    def collate(self, values: Any) -> Any:
        """8-bit values to bins, floor(x / 2^(8 - bits))."""
        return values >> (8 - self.bits)

    def scaled(self, x: Tensor) -> Tensor:
        return to_unit(x, self.bits)

    def shown(self, model: Any, e: Tensor, y: Tensor | None, **how: Any) -> np.ndarray:
        """(N, H, W, C) uint8."""
        return to_uint8(model.decode(e, y), self.bits)

    @property
    def facts(self) -> dict[str, Any]:
        return {"bits": self.bits}

    def compared(self, drawn: dict[str, np.ndarray], out: Path) -> list[str]:
        if len({images.shape[1:] for images in drawn.values()}) > 1:
            shapes = ", ".join(f"{name} {images.shape[1:]}" for name, images in drawn.items())
            raise UserError(f"compare: expected runs with images of one shape, found {shapes}")
        save_picture(sheet(list(drawn.values()), list(drawn)), out / "samples.png")
        return ["samples.png"]

    def known_as(self, values: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8, in as many bits as the model has."""
        return to_uint8(torch.from_numpy(self.collate(values)), self.bits)

    def error(self, data: np.ndarray, back: np.ndarray) -> str:
        return f"{super().error(data, back)} of 255"

    def named(self, ends: list[str]) -> Samples:
        return read_files([Path(end) for end in ends], self.shape)

    def check_out(self, out: Path | None, folder: bool = True) -> None:
        Modality.check_out(self, out)
        assert out is not None
        if folder and not out.suffix:
            if (out / "config.json").exists():
                raise UserError(f"--out {out}: expected a folder for images, found a run")
            if out.is_dir() and any(out.iterdir()):
                raise UserError(f"--out {out}: expected a new or empty folder, found one with files in it")
            return need_folder("--out", out)
        if out.suffix.lower() not in (".npz", *PICTURES):
            kinds = "a picture's name such as x.png, an .npz" + (", or a folder's name" if folder else "")
            raise UserError(f"--out {out}: expected {kinds}, for images")
        need_file("--out", out)

    def check_sheet(self, out: Path | None) -> None:
        Modality.check_out(self, out)
        assert out is not None
        need_picture(out)

    def sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | None) -> None:
        assert out is not None
        save_picture(sheet(rows, labels), out)

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        """A sheet for a picture's name, an array ``images`` (and ``labels``) for .npz, else a folder of PNGs."""
        assert out is not None
        if out.suffix.lower() == ".npz":
            write_arrays(out, images=values, **({} if labels is None else {"labels": labels}))
        elif out.suffix:
            save_picture(square(values), out)
        else:
            for i, a in enumerate(values):
                save_picture(to_image(a), out / f"{i:05d}.png")

    def preview(self, model: Any, test: Samples, path: Path) -> None:
        """Sixteen samples on a sheet."""
        generator = torch.Generator().manual_seed(0)
        save_picture(square(self.drawn(model, 16, generator)), path.with_suffix(".png"))


def need_picture(out: Path) -> None:
    """Refuse a name that is no picture's; raises ``UserError``."""
    if out.suffix.lower() not in PICTURES:
        raise UserError(f"--out {out}: expected a picture's name that ends in {', '.join(PICTURES)}")
    need_file("--out", out)


def load_images(data: DataSettings, part: str = "train", like: Modality | None = None) -> Samples:
    """The "train", "test" or "all" images of a source, brought to shape (C, H, W) where a model asks for it.

    "unseen" is for a source that the model was not trained on: its test split where it has one, else all.

    Raises UserError for a source that is missing, broken or holds no images, and for images of other shapes.
    """
    if part not in ("train", "test", "all", "unseen"):
        raise ValueError(f"part: expected train, test, all or unseen, found {part!r}")
    if data.size is not None and data.size < 1:
        raise UserError(f"--data.size {data.size}: expected a number of pixels, 1 or more")
    check_share(data.held_out)
    shape = like.shape if like else None
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
    values = pixels[: len(kept)]
    return Samples(values, [item.name for item in kept], labels, skipped, Images(values.shape[1:], classes))


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
