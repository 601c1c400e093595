"""Images of any source as one uint8 array in memory, so that the step and not the decoder is what takes time.

A source is read in three steps: its items are listed by split without decoding any (``_list``), those of the
part asked for are chosen (``_choose``), and only they are decoded (``_decode``).
"""

import contextlib
import gzip
import io
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fvae.errors import UserError
from fvae.settings import DataSettings

TEST_SPLITS = ("test", "validation", "valid", "val")
SPLITS = ("train", *TEST_SPLITS)
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Decoded images of one shape: pixels (N, C, H, W) uint8, a name each, maybe labels (N,) int64.

    ``skipped`` says "path: reason" for each file that is not in pixels.
    """

    pixels: np.ndarray
    names: list[str]
    labels: np.ndarray | None
    skipped: list[str]

    @property
    def shape(self) -> Shape:
        """(C, H, W) of every image."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """The images at these indices, in their order."""
        index = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, pixels=self.pixels[index], names=[self.names[i] for i in index], labels=labels)


def load_images(data: DataSettings, part: str = "train", shape: Shape | None = None) -> Images:
    """The "train", "test" or "all" images of a source, brought to shape (C, H, W) where a model asks for it.

    "unseen" is for a source that the model was not trained on: its test split where it has one, else all.

    Raises UserError for a source that is missing, broken or holds no images, and for images of other shapes.
    """
    if part not in ("train", "test", "all", "unseen"):
        raise ValueError(f"part: expected train, test, all or unseen, found {part!r}")
    if data.size is not None and data.size < 1:
        raise UserError(f"--data.size {data.size}: expected a number of pixels, 1 or more")
    if not 0 < data.held_out < 1:
        raise UserError(f"--data.held_out {data.held_out}: expected a share between 0 and 1, both excluded")
    if shape and data.size and data.size != min(shape[1:]):
        raise UserError(f"--data.size {data.size}: the model's images are {_size(*shape[1:])}")

    items = _choose(_list(data.source), data, part)
    channels = {"auto": None, "grey": 1, "rgb": 3}[data.colour]
    size = (data.size, data.size) if data.size else None
    if shape:
        channels, size = shape[0], shape[1:] if size else None
    images = _decode(items, f"--data {data.source}", channels, size)
    if shape and images.shape != tuple(shape):
        raise UserError(
            f"--data {data.source}: expected images of shape {shape} as the model has, "
            f"found {images.shape}; bring them there with --data.size {min(shape[1:])}"
        )
    return images


def read_files(paths: Sequence[Path], shape: Shape | None = None) -> Images:
    """The image files that a user names, resized and cropped to shape (C, H, W) where it is given.

    Raises UserError if one of them cannot be read, and without a shape if their sizes differ.
    """
    items = [_Item(str(path), partial(_open, path)) for path in paths]
    channels, size = (shape[0], shape[1:]) if shape else (None, None)
    images = _decode(items, "image files", channels, size)
    if images.skipped:
        raise UserError(f"expected an image: {images.skipped[0]}")
    return images


# Listing a source: its items by split, nothing decoded.


class _Item(NamedTuple):
    """An image not yet decoded; ``fault`` says why it can be none where its name tells."""

    name: str
    open: Callable[[], Image.Image]
    label: int | None = None
    fault: str = ""


_Splits = dict[str, list[_Item]]  # a source without splits has one of the name ""


def _list(source: str) -> _Splits:
    path, where = Path(os.path.expanduser(source)), f"--data {source}"
    name = path.name.lower()
    if not source:
        raise UserError("--data: expected digits, a Hugging Face data set or a path, found nothing")
    if source == "digits":
        return {"": _list_digits()}
    if os.path.isdir(path):
        return _list_folder(path)
    if not os.path.exists(path):
        # A letter after the dot is a suffix, a digit may be a version: user/name-v1.5.
        if source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1:
            raise UserError(f"{where}: no such file or folder")
        if re.fullmatch(r"\.[a-z]\w*", path.suffix.lower()):
            raise UserError(f"{where}: no such file or folder")
        return _list_hub(source)
    if name.endswith((".txt", ".txt.gz")):
        raise UserError(f"{where}: text needs a text recipe; this recipe is for images")
    if name.endswith(".zip"):
        return _list_zip(path, where)
    if name.endswith(".parquet"):
        return {"": _list_parquet(path, where)}
    if name.endswith(".npz"):
        return {"": _list_npz(path, where)}
    if name.endswith(".gz"):
        return {"": _list_idx(path, where)}
    if path.suffix.lower() in Image.registered_extensions():
        raise UserError(f"{where}: one image file is not a data set; expected a folder or archive of images")
    raise UserError(f"{where}: expected a folder, .zip, .parquet, .npz or idx .gz, found a {path.suffix or 'file'}")


def _list_folder(root: Path) -> _Splits:
    names = []
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        # A link to a folder above itself would be walked without end.
        folders[:] = [f for f in folders if not Path(here).is_relative_to(os.path.realpath(Path(folder, f)))]
        names += [Path(folder, file).relative_to(root).as_posix() for file in files]
    return _by_folder({name: partial(_open, root / name) for name in names})


def _list_zip(path: Path, where: str) -> _Splits:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{where}: expected a zip archive, found none or a broken one ({_reason(error)})") from None

    def read(member: zipfile.ZipInfo) -> Image.Image:
        return _open(io.BytesIO(archive.read(member)))

    members = [member for member in archive.infolist() if not member.is_dir()]
    return _by_folder({m.filename.replace("\\", "/"): partial(read, m) for m in members})


def _by_folder(files: dict[str, Callable[[], Image.Image]]) -> _Splits:
    """Sort files into the splits and classes that their folders name."""
    suffixes = {"", *Image.registered_extensions()}
    folders, faults = {}, {}
    for name in sorted(files):
        *parts, base = name.split("/")
        if base in ("Thumbs.db", "desktop.ini") or any(p.startswith(".") or p == "__MACOSX" for p in [*parts, base]):
            continue
        suffix = Path(base).suffix.lower()
        folders[name] = parts
        faults[name] = "" if suffix in suffixes else f"not an image ({suffix})"
    of_images = [parts for name, parts in folders.items() if not faults[name]]

    # Archives often wrap everything in one folder; it is neither a split nor a class.
    depth = 0
    while of_images and all(len(p) > depth and p[depth] == of_images[0][depth] for p in of_images):
        if of_images[0][depth] in SPLITS:
            break
        depth += 1
    has_splits = any(p[depth] in SPLITS for p in of_images if len(p) > depth)
    below = [p[depth + has_splits :] for p in of_images if len(p) > depth or not has_splits]
    classes: dict[str, int] = {}
    # One class says nothing, and is more often a folder called img.
    if all(below) and len({p[0] for p in below}) > 1:
        classes = {name: i for i, name in enumerate(sorted({p[0] for p in below}))}

    splits: _Splits = {}
    for name, parts in folders.items():
        split, *within = parts[depth:] if has_splits and len(parts) > depth else ["", *parts[depth:]]
        label = classes.get(within[0]) if within else None
        splits.setdefault(split, []).append(_Item(name, files[name], label, faults[name]))
    return splits


def _list_digits() -> list[_Item]:
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    return _list_array("digits", np.minimum(16 * images, 255).astype(np.uint8), labels, "--data digits")


def _list_npz(path: Path, where: str) -> list[_Item]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise UserError(f"{where}: expected an array `images`, found {', '.join(arrays) or 'no array'}")
            images, labels = arrays["images"], arrays.get("labels")
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: expected an .npz, found none or a broken one ({_reason(error)})") from None
    return _list_array(path.name, images, labels, where)


def _list_idx(path: Path, where: str) -> list[_Item]:
    images, labels = _read_idx(path, where), None
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside != path and beside.exists():
        labels = _read_idx(beside, f"{where}: {beside.name}")
    return _list_array(path.name, images, labels, where)


def _read_idx(path: Path, where: str) -> np.ndarray:
    """An array of uint8 in the format of MNIST: 0, 0, type (8 is uint8), dimensions, each size in 4 bytes."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: expected an idx .gz, found none or a broken one ({_reason(error)})") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{where}: expected an idx file, found one that begins with {raw[:4].hex(' ') or 'nothing'}")
    if raw[2] != 8:
        raise UserError(f"{where}: expected an idx of uint8 (type 08), found type {raw[2]:02x}")
    start = 4 + 4 * raw[3]
    dims = [int(d) for d in np.frombuffer(raw[4:start], dtype=">u4")]
    if math.prod(dims) != len(raw) - start:
        raise UserError(f"{where}: expected {math.prod(dims)} bytes for shape {tuple(dims)}, found {len(raw) - start}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(dims)


def _list_array(name: str, images: np.ndarray, labels: np.ndarray | None, where: str) -> list[_Item]:
    """Items of images (N, H, W) or (N, H, W, C) uint8 and labels (N,)."""
    if images.dtype != np.uint8:
        raise UserError(f"{where}: expected images of dtype uint8, found {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or 0 in images.shape[1:]:
        found = images.shape if images.ndim == 4 else f"{images.ndim} dimensions"
        raise UserError(f"{where}: expected images (N, H, W) or (N, H, W, C) with C 1, 3 or 4, found {found}")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        found = f"{labels.dtype} {labels.shape}"
        raise UserError(f"{where}: expected labels of whole numbers, shape ({len(images)},), found {found}")

    def read(i: int) -> Image.Image:
        return _plain(Image.fromarray(images[i, :, :, 0] if images.shape[3] == 1 else images[i]))

    chosen = _known(labels, len(images))
    return [_Item(f"{name}[{i}]", partial(read, i), chosen[i]) for i in range(len(images))]


def _list_parquet(path: Path, where: str) -> list[_Item]:
    import datasets
    import pyarrow.parquet

    try:
        # Straight from the file: datasets would first write a copy of it into its cache.
        schema = pyarrow.parquet.read_schema(path)
        columns = _columns(datasets.Features.from_arrow_schema(schema), where)
        table = pyarrow.parquet.read_table(path, columns=[c for c in columns if c])
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where}: expected a .parquet, found none or a broken one ({_reason(error)})") from None
    return _list_table(path.name, table, *columns)


def _list_hub(source: str) -> _Splits:
    import datasets

    where = f"--data {source}"
    try:
        found = datasets.load_dataset(source)
    except Exception as error:  # of the network, of the Hub, of the data set's files: many kinds
        text = f"neither a file or folder here nor a data set that the Hub gave ({_reason(error)})"
        raise UserError(f"{where}: {text}") from None
    splits = {}
    for split, rows in found.items():
        columns = _columns(rows.features, where)
        table = rows.select_columns([c for c in columns if c]).with_format("arrow")[:]
        splits[str(split)] = _list_table(str(split), table, *columns)
    return splits


def _columns(features: Any, where: str) -> tuple[str, str | None]:
    """The names of the column of images and of the column of labels, if there is one."""
    import datasets

    def is_bytes(feature: Any) -> bool:  # a column of encoded files that nobody declared to be images
        return (isinstance(feature, dict) and "bytes" in feature) or getattr(feature, "dtype", "") == "binary"

    images = [name for name, f in features.items() if isinstance(f, datasets.Image)]
    images = images or [name for name, f in features.items() if is_bytes(f)]
    if not images:
        raise UserError(f"{where}: expected a column of images, found columns {', '.join(features)}")
    classes = [name for name, f in features.items() if isinstance(f, datasets.ClassLabel)]
    whole = [n for n in ("label", "labels") if "int" in str(getattr(features.get(n), "dtype", ""))]
    labels = [name for name in classes if name == "label"] or classes or whole
    return images[0], labels[0] if labels else None


def _list_table(name: str, table: Any, image: str, label: str | None) -> list[_Item]:
    """Items of an arrow table whose column of images holds encoded files."""
    column = table.column(image)

    def read(i: int) -> Image.Image:
        cell = column[i].as_py()
        cell = cell if isinstance(cell, dict) else {"bytes": cell}
        if cell.get("bytes") is None and not cell.get("path"):
            raise ValueError("empty")
        return _open(io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else Path(cell["path"]))

    labels = _known(table.column(label).to_pylist() if label else None, len(table))
    return [_Item(f"{name}[{i}]", partial(read, i), labels[i]) for i in range(len(table))]


def _known(labels: Any, n: int) -> list[int | None]:
    """Labels as a list; a source that marks some as unknown (None or -1) has none."""
    if labels is None or any(v is None or v < 0 for v in labels):
        return [None] * n
    return [int(v) for v in labels]


# Choosing the items of a part.


def _choose(splits: _Splits, data: DataSettings, part: str) -> list[_Item]:
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
    if test:
        return items

    images = [item for item in items if not item.fault]
    if not images:
        return items  # for _decode to say what they are
    n = min(math.ceil(data.held_out * len(images)), len(images) - 1)
    order = np.random.default_rng(0).permutation(len(images))
    held_out = {images[i].name for i in order[:n]}
    if part == "test" and len(images) == 1:
        raise UserError(f"{where}: expected 2 images or more to hold some out for a test, found 1")
    return [item for item in items if (item.name in held_out) == (part == "test")]


# Decoding.


def _decode(items: list[_Item], where: str, channels: int | None, size: tuple[int, int] | None) -> Images:
    """Decode items into one array; without channels grey if all are, without a size (H, W) that of the first."""
    if channels not in (None, 1, 3):
        raise UserError(f"{where}: the model's images have {channels} channels, those of files have 1 or 3")
    pixels = np.empty((0, 0, 0, 0), np.uint8)
    kept: list[_Item] = []
    skipped: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for item in items:
            try:
                if item.fault:
                    raise ValueError(item.fault)
                image = item.open()
                image = _fit(image, *size) if size else image
                image = image.convert({1: "L", 3: "RGB"}[channels]) if channels else image
            except Exception as error:  # decoders raise anything at all on a broken file
                skipped.append(f"{item.name}: {_reason(error)}")
                continue
            c, (w, h) = len(image.getbands()), image.size
            if not kept:
                pixels = _allocate((len(items), c, h, w), where)
            elif (h, w) != pixels.shape[2:]:
                raise UserError(
                    f"{where}: expected images of one size, found {kept[0].name} {_size(*pixels.shape[2:])} and "
                    f"{item.name} {_size(h, w)}; bring them to one with --data.size"
                )
            elif c > pixels.shape[1]:  # the first colour image after grey ones
                pixels = pixels.repeat(c, axis=1)
            pixels[len(kept)] = np.asarray(image).reshape(h, w, c).transpose(2, 0, 1)
            kept.append(item)
    if not kept:
        reasons = f" ({'; '.join(skipped[:3])})" if skipped else ""
        raise UserError(f"{where}: expected images, found none in {len(items)} files{reasons}")
    known = all(item.label is not None for item in kept)
    labels = np.array([item.label for item in kept], dtype=np.int64) if known else None
    return Images(pixels[: len(kept)], [item.name for item in kept], labels, skipped)


def _allocate(shape: tuple[int, int, int, int], where: str) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except MemoryError:
        need = f"{shape[0]} images of {_size(*shape[2:])} need {math.prod(shape) / 2**30:.0f} GiB of memory"
        raise UserError(f"{where}: {need}; make them smaller with --data.size") from None


def _open(file: Path | io.BytesIO) -> Image.Image:
    """The first frame of an image file, upright, as L or RGB."""
    with Image.open(file) as image:
        image.load()
        with contextlib.suppress(Exception):  # a broken tag is no reason to lose the image
            ImageOps.exif_transpose(image, in_place=True)
        return _plain(image)


def _plain(image: Image.Image) -> Image.Image:
    """An image of any mode as L if its mode is grey, else RGB, its transparent parts on white."""
    grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
    if grey and image.mode[0] in "IF":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 65535) or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(f"expected 16-bit greys 0..65535, found {low:g}..{high:g}")
        return Image.fromarray((values // 256).astype(np.uint8))  # convert("L") would clip at 255
    if image.has_transparency_data:
        above = image.convert("LA" if image.mode in ("1", "L") else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), above)
    return image.convert("L" if grey else "RGB")


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize an image so that it just covers height and width, then crop its centre."""
    w, h = image.size
    scale = max(width / w, height / h)
    covering = max(width, round(w * scale)), max(height, round(h * scale))
    if Image.MAX_IMAGE_PIXELS and math.prod(covering) > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{_size(h, w)} is too large once resized")
    if covering != image.size:
        image = image.resize(covering, Image.Resampling.LANCZOS)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _size(height: int, width: int) -> str:
    return f"{height}x{width}"


def _reason(error: Exception) -> str:
    """A short reason on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__
