"""Images of any source as one uint8 array, so that training never waits for a decoder.

A source is read in three steps: its items are listed by split without decoding any (``sources``), those of the part
asked for are selected, and only they are decoded, one by one (``decode``).
"""

import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fvae.data.decode import SEVERAL, open_image, resized, sides
from fvae.data.files import reason
from fvae.data.modality import Modality, Unit
from fvae.data.pictures import PICTURES, save_picture, sheet, square, to_image, to_uint8
from fvae.data.samples import Samples, digest, first_names, part_of
from fvae.data.sources import TEST_SPLITS, Item, Splits, list_items
from fvae.density import bits_per_dim, to_unit
from fvae.errors import InputError
from fvae.files import need_folder, need_no_run
from fvae.settings import DataSettings

FEW = 100  # images, among which broken ones might be all that is held out
FLAT = 4  # of 255: the widest range of values in each channel of an image of nearly one color


@dataclass(frozen=True)
class Images(Modality):
    """Images (C, H, W) in bins 0 .. 2^bits - 1, stored as 8 bits a value."""

    bits: int = 8  # type: ignore[misc]

    noun, array = "images", "images"
    splits, temperature, init_samples = True, 0.8, 256
    suffixes, sheet_suffixes = (".npz", *PICTURES), PICTURES

    @property
    def unit(self) -> Unit:
        return Unit("bits/dim", "bits_per_dim", partial(bits_per_dim, dims=math.prod(self.shape)))

    @property
    def size(self) -> str:
        c, h, w = self.shape
        return f"{sides(h, w)} {'gray' if c == 1 else 'rgb'}"

    @property
    def facts(self) -> dict[str, Any]:
        return {"bits": self.bits}

    def mismatch(self, other: Modality) -> str:
        found = super().mismatch(other)
        resizable = len(other.shape) == 3 and other.shape[1:] != self.shape[1:]
        return f"{found}; resize them with `size` {sides(*self.shape[1:])} and `fit` crop" if resizable else found

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """8-bit values (N, C, H, W) of any integer type, or whole floats, as uint8."""
        self.check_shape(values)
        expected = "8-bit values 0 .. 255"
        if values.dtype.kind not in "biuf":
            raise InputError(f"expected {expected}, found {values.dtype}")
        if values.dtype.kind == "b" or (values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1):
            raise InputError(f"expected {expected}, found {values.dtype} within [0, 1]: multiply by 255 and round")
        if values.dtype != np.uint8:
            self.check_all((values >= 0) & (values <= 255), values, expected)
            if values.dtype.kind == "f":
                self.check_all(values == np.round(values), values, f"whole {expected}")
        return values.astype(np.uint8, copy=False)

    def read(self, names: Sequence[str]) -> Samples:
        """Image files, resized and cropped to this shape, which is remarked."""
        channels, height, width = self.shape
        remarks: dict[str, None] = {}

        def read(name: str) -> Image.Image:
            image = open_image(Path(name))
            if image.size != (width, height):
                found, expected = sides(*image.size[::-1]), sides(height, width)
                remarks[f"{name}: resized and cropped from {found} to {expected}"] = None
            return image

        images = decode_items([Item(name, partial(read, name)) for name in names], channels, (height, width))
        if images.skipped:
            raise InputError(f"expected an image, found {images.skipped[0]}")
        return replace(images, remarks=[*remarks, *images.remarks])

    def notes(self, samples: Samples, what: str) -> list[str]:
        return list(samples.remarks)

    def collate(self, values: Any) -> Any:
        """8-bit values to bins, floor(x / 2^(8 - bits)); unrounded ones, of floating point, are in bins already.

        The values of a pixel lie side by side in memory, a layout that torch's convolutions keep and are faster in on
        CPUs: a step of ``f_vae_faces`` took 0.6 of the time.
        """
        unrounded = isinstance(values, np.ndarray) and values.dtype.kind == "f"
        bins = values if unrounded else values >> (8 - self.bits)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(bins, 1, -1)), -1, 1) if len(bins.shape) == 4 else bins

    def check_input(self, x: Tensor, continuous: bool = False) -> None:
        """Refuse values out of the bins (whole ones only if ``continuous``), and images scaled to [0, 1] or [-1, 1]."""
        super().check_input(x)
        most, low, high = 2**self.bits - 1, float(x.min()), float(x.max())
        whole = not x.is_floating_point() or bool((x == x.round()).all())
        scaled = not whole and most > 1 and low >= -1 and high <= 1
        if not whole and not continuous and not scaled and low >= 0 and high <= most:
            raise InputError(f"expected whole numbers 0 .. {most}, found {float(x[x != x.round()][0]):.6g}; round them")
        if scaled or ((low < 0 or high > most) and (whole or not continuous)):
            hint = f": multiply by {most} and round" if scaled and low >= 0 else ""
            hint = f": divide 8-bit values by {2 ** (8 - self.bits)} and round down" if high > most < 255 else hint
            raise InputError(f"expected 0 .. {most}, found {low:.6g} .. {high:.6g}{hint}")

    def augment(self, x: Tensor, mirrored: Tensor, shifts: Tensor) -> Tensor:
        """Mirrored, then moved up and left by their shifts; beyond the border its pixels are repeated."""
        h, w = x.shape[2:]
        rows = (torch.arange(h, device=x.device) + shifts[:, :1]).clamp(0, h - 1)
        columns = (torch.arange(w, device=x.device) + shifts[:, 1:]).clamp(0, w - 1)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        sample = torch.arange(len(x), device=x.device)[:, None, None]
        return x.movedim(1, -1)[sample, rows[:, :, None], columns[:, None]].movedim(-1, 1)

    def scaled(self, x: Tensor) -> Tensor:
        return to_unit(x, self.bits)

    def to_output(self, values: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8, in as many bits as the model has."""
        return to_uint8(torch.from_numpy(self.collate(values)), self.bits)

    def decode_batch(self, model: Any, e: Tensor, y: Tensor | None, **options: Any) -> np.ndarray:
        """(N, H, W, C) uint8."""
        return to_uint8(self.decoded(model, e, y, **options), self.bits)

    def notes_of_training(self, samples: Samples, test: Samples) -> list[str]:
        """Images of nearly one color, and channels with one value only."""
        low, high = samples.values.min((2, 3)), samples.values.max((2, 3))
        least, most = self.collate(low.min(0)), self.collate(high.max(0))
        flat, same = np.flatnonzero((high - low).max(1) <= FLAT), np.flatnonzero(least == most)
        bits = f", in {self.bits} bits" if self.bits < 8 else ""
        lines = list(samples.remarks)
        lines += [f"warning: channel {c} of the training images is {least[c]} everywhere{bits}" for c in same[:1]]
        if len(flat):
            lines += [f"{len(flat):,} training images are of nearly one color: {samples.names[flat[0]]}"]
        return lines

    def trivial_bound(self, train: Samples, test: Samples) -> tuple[float, str]:
        """Of uniform bins."""
        return math.prod(self.shape) * self.bits * math.log(2), "uniform bins"

    def error(self, data: np.ndarray, reconstructed: np.ndarray) -> str:
        return f"{super().error(data, reconstructed)} of 255"

    def check_out(self, out: Path | None, folder: bool = True, sheet: bool = False) -> None:
        if out is None or not folder or sheet or out.suffix:
            return super().check_out(out, folder, sheet)
        need_no_run(out, "images")
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out}: expected a new or empty folder, found one with files in it", "out")
        need_folder(out)

    def write(self, values: np.ndarray, out: Path | TextIO, labels: np.ndarray | None = None) -> None:
        """A sheet for a picture's name, arrays ``images`` (and ``labels``) for .npz, else a folder of PNGs."""
        assert isinstance(out, Path)
        if out.suffix.lower() == ".npz":
            super().write(values, out, labels)
        elif out.suffix:
            save_picture(square(values), out)
        else:
            for i, image in enumerate(values):
                save_picture(to_image(image), out / f"{i:05d}.png")

    def write_sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | TextIO) -> None:
        assert isinstance(out, Path)
        save_picture(sheet(rows, labels), out)

    def write_comparison(self, samples: dict[str, np.ndarray], out: Path) -> list[str]:
        if len({images.shape[1:] for images in samples.values()}) > 1:
            shapes = ", ".join(f"{name} {images.shape[1:]}" for name, images in samples.items())
            raise InputError(f"expected runs with images of one shape, found {shapes}")
        save_picture(sheet(list(samples.values()), list(samples)), out / "samples.png")
        return ["samples.png"]


def load_images(data: DataSettings, part: str, like: Modality | None) -> Samples:
    """A part of a source's images, brought to a model's channels and, with ``data.size``, to its height and width."""
    channels = {"auto": None, "gray": 1, "rgb": 3}[data.color]
    height, _, width = str(data.size or "").partition("x")
    size = (int(height), int(width or height)) if height else None
    if isinstance(like, Images):
        if channels not in (None, like.shape[0]):
            raise InputError(
                f"expected the model's {'gray' if like.shape[0] == 1 else 'rgb'}, found {data.color}", "color"
            )
        channels, *expected = like.shape
        if size and data.fit != "pad" and size != tuple(expected):
            raise InputError(f"expected {sides(*expected)}, the size of the model's images, found {data.size}", "size")
    items = select(list_items(data.source, like.classes if like else ()), data, part)
    return decode_items(items, channels, size, data.fit)


def select(splits: Splits, data: DataSettings, part: str) -> list[Item]:
    """The items of a part: of the source's own splits, where it has them, else by what is held out."""
    named = [split for split in splits if split]
    if data.split and data.split not in named:
        expected = f"one of the splits {', '.join(named)}" if named else "none, as the source has no splits"
        raise InputError(f"expected {expected}, found {data.split}", "split")
    train = data.split or ("train" if named else "")
    test = next((split for split in TEST_SPLITS if split in named and split != train), None)
    if part == "all" or (part == "unseen" and not test):
        return [item for items in splits.values() for item in items]
    if part in ("test", "unseen") and test:
        return splits[test]
    if named and train not in splits:
        raise InputError(f"expected a split called train, found {', '.join(named)}; choose one with `split`")
    items = splits.get(train, [])
    if len(items) <= FEW:
        items = [item._replace(fault=fault_of(item)) for item in items]
    if named and part == "train":  # files outside the splits' folders are not read, but reported
        outside = "outside the folders of the splits"
        items = items + [item._replace(fault=item.fault or outside) for item in splits.get("", [])]
    images = [i for i, item in enumerate(items) if not item.fault]
    if test or not images:
        return items  # without images, for decode_items to say what they are
    names = first_names([items[i].name for i in images], [digest(items[i].content()) for i in images])
    if len(set(names)) == 1:  # all are equal, which is said before training: any of them can be held out
        names = [items[i].name for i in images]
    chosen = part_of(names, data.held_out, part, "images")
    faulty = [i for i, item in enumerate(items) if item.fault] if part == "train" else []
    return [items[i] for i in sorted([*faulty, *(images[j] for j in chosen)])]


@contextmanager
def decoding() -> Iterator[None]:
    """Without the warnings of decoders; an image of too many pixels is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def fault_of(item: Item) -> str:
    """Why an item is no image, "" for one that is."""
    try:
        with decoding():
            if not item.fault:
                item.open()
        return item.fault
    except Exception as error:  # decoders raise anything at all for a broken file
        return reason(error)


def decode_items(items: list[Item], channels: int | None, size: tuple[int, int] | None, fit: str = "crop") -> Samples:
    """Decode items into one array.

    Without ``channels`` images are gray if all are; they must be of one size, once they fit a ``size`` (H, W) if there
    is one. Raises ``InputError``.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"expected a model of images of 1 or 3 channels, as files have, found {channels}")
    pixels = np.empty((0, 0, 0, 0), np.uint8)
    decoded: list[Item] = []
    skipped: list[str] = []
    several: list[str] = []
    with decoding():
        for item in items:
            try:
                if item.fault:
                    raise ValueError(item.fault)
                image = item.open()
                several += [item.name] if image.info.get(SEVERAL) else []
                image = resized(image, *size, fit) if size else image
                image = image.convert({1: "L", 3: "RGB"}[channels]) if channels else image
            except Exception as error:  # decoders raise anything at all for a broken file
                skipped.append(f"{item.name}: {reason(error)}")
                continue
            c, (w, h) = len(image.getbands()), image.size
            if not decoded:
                pixels = allocate((len(items), c, h, w))
            elif (h, w) != pixels.shape[2:]:
                first = f"{decoded[0].name} {sides(*pixels.shape[2:])}"
                found = f"found {first} and {item.name} {sides(h, w)}"
                advice = "choose crop or stretch as `fit`" if size else "resize them with `size`"
                raise InputError(f"expected images of one size, {found}; {advice}")
            elif c > pixels.shape[1]:  # the first color image after gray ones
                gray, pixels = pixels, allocate((len(items), c, h, w))
                pixels[: len(decoded)] = gray[: len(decoded)]
            pixels[len(decoded)] = np.asarray(image).reshape(h, w, c).transpose(2, 0, 1)
            decoded.append(item)
    if not decoded:
        reasons = f" ({'; '.join(skipped[:3])})" if skipped else ""
        raise InputError(f"expected images, found none in {len(items)} files{reasons}")
    labelled = all(item.label is not None for item in decoded)
    labels = np.array([item.label for item in decoded], dtype=np.int64) if labelled else None
    classes = list(decoded[0].classes) if labelled else []
    values = pixels[: len(decoded)]
    remarks = [f"{several[0]}: the first of its pictures is taken{also(several)}"] if several else []
    names, modality = [item.name for item in decoded], Images(values.shape[1:], classes)
    return Samples(values, names, labels, skipped, modality, remarks=remarks)


def also(names: list[str]) -> str:
    return f" (and so of {len(names) - 1:,} more)" if len(names) > 1 else ""


def allocate(shape: tuple[int, int, int, int]) -> np.ndarray:
    """An array in memory, or in a memory map of a file without a name where it would fill half of what is free."""
    size = math.prod(shape)
    if size <= free_memory() / 2:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:  # the map outlives it
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is reported now, not in the middle of a run
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        expected = f"expected {size / 2**30:.1f} GiB for {shape[0]} images of {sides(*shape[2:])}"
        found = f"found {tempfile.gettempdir()}: {error.strerror}; make the images smaller with `size`"
        raise InputError(f"{expected}, {found}") from None


def free_memory() -> float:
    """Bytes of free memory, infinite where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
