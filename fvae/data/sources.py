"""Every form of source as a list of items, by split, with nothing decoded yet."""

import gzip
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fvae.data.decode import open_image, plain, reason
from fvae.errors import UserError

TEST_SPLITS = ("test", "validation", "valid", "val")
SPLITS = ("train", *TEST_SPLITS)


class Item(NamedTuple):
    """An image not yet decoded; ``fault`` says why it can be none where its name tells; ``classes`` names labels."""

    name: str
    open: Callable[[], Image.Image]
    label: int | None = None
    fault: str = ""
    classes: Sequence[str] = ()


Splits = dict[str, list[Item]]  # a source without splits has one of the name ""


def is_path(source: str) -> bool:
    """Whether a source's name can only be a path's, and no data set's of the hub."""
    # A letter after the dot is a suffix, a digit may be a version: user/name-v1.5.
    suffix = re.fullmatch(r"\.[a-z]\w*", Path(source).suffix.lower())
    return (
        bool(suffix)
        or source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or source.count("/") > 1
    )


def list_items(source: str) -> Splits:
    path, where = Path(os.path.expanduser(source)), f"--data {source}"
    name = path.name.lower()
    if not source:
        raise UserError("--data: expected digits, a Hugging Face data set or a path, found nothing")
    if source == "digits":
        return {"": _list_digits()}
    if os.path.isdir(path):
        return _list_folder(path)
    if not os.path.exists(path):
        if is_path(source):
            raise UserError(f"{where}: no such file or folder")
        return _list_hub(source)
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
    expected = "a folder, .zip, .parquet, .npz or idx .gz of images, or a .csv, .parquet or .npz of rows"
    raise UserError(f"{where}: expected {expected}, found a {path.suffix or 'file'}")


def _list_folder(root: Path) -> Splits:
    names = []
    for folder, folders, files in os.walk(root, followlinks=True):
        here = os.path.realpath(folder)
        # A link to a folder above itself would be walked without end.
        folders[:] = [f for f in folders if not Path(here).is_relative_to(os.path.realpath(Path(folder, f)))]
        names += [Path(folder, file).relative_to(root).as_posix() for file in files]
    return _by_folder({name: partial(open_image, root / name) for name in names})


def _list_zip(path: Path, where: str) -> Splits:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{where}: expected a zip archive, found none or a broken one ({reason(error)})") from None

    def read(member: zipfile.ZipInfo) -> Image.Image:
        return open_image(io.BytesIO(archive.read(member)))

    members = [member for member in archive.infolist() if not member.is_dir()]
    return _by_folder({m.filename.replace("\\", "/"): partial(read, m) for m in members})


def _by_folder(files: dict[str, Callable[[], Image.Image]]) -> Splits:
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
    # One class says nothing, and is more often a folder called img.
    classes = sorted({p[0] for p in below}) if all(below) and len({p[0] for p in below}) > 1 else []

    splits: Splits = {}
    for name, parts in folders.items():
        split, *within = parts[depth:] if has_splits and len(parts) > depth else ["", *parts[depth:]]
        label = classes.index(within[0]) if within and within[0] in classes else None
        splits.setdefault(split, []).append(Item(name, files[name], label, faults[name], classes))
    return splits


def _list_digits() -> list[Item]:
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    return _list_array("digits", np.minimum(16 * images, 255).astype(np.uint8), labels, "--data digits")


def _list_npz(path: Path, where: str) -> list[Item]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if "images" not in arrays:
                found = ", ".join(arrays) or "no array"
                raise UserError(f"{where}: expected an array `images` (or `x`, of rows), found {found}")
            images, labels = arrays["images"], arrays.get("labels")
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: expected an .npz, found none or a broken one ({reason(error)})") from None
    return _list_array(path.name, images, labels, where)


def _list_idx(path: Path, where: str) -> list[Item]:
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
        raise UserError(f"{where}: expected an idx .gz, found none or a broken one ({reason(error)})") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{where}: expected an idx file, found one that begins with {raw[:4].hex(' ') or 'nothing'}")
    if raw[2] != 8:
        raise UserError(f"{where}: expected an idx of uint8 (type 08), found type {raw[2]:02x}")
    start = 4 + 4 * raw[3]
    dims = [int(d) for d in np.frombuffer(raw[4:start], dtype=">u4")]
    if math.prod(dims) != len(raw) - start:
        raise UserError(f"{where}: expected {math.prod(dims)} bytes for shape {tuple(dims)}, found {len(raw) - start}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(dims)


def _list_array(name: str, images: np.ndarray, labels: np.ndarray | None, where: str) -> list[Item]:
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
        return plain(Image.fromarray(images[i, :, :, 0] if images.shape[3] == 1 else images[i]))

    chosen = _known(labels, len(images))
    return [Item(f"{name}[{i}]", partial(read, i), chosen[i]) for i in range(len(images))]


def _list_parquet(path: Path, where: str) -> list[Item]:
    import datasets
    import pyarrow.parquet

    try:
        # Straight from the file: datasets would first write a copy of it into its cache.
        schema = pyarrow.parquet.read_schema(path)
        columns = _columns(datasets.Features.from_arrow_schema(schema), where)
        table = pyarrow.parquet.read_table(path, columns=[c for c in columns if c])
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where}: expected a .parquet, found none or a broken one ({reason(error)})") from None
    return _list_table(path.name, table, *columns)


def _list_hub(source: str) -> Splits:
    import datasets

    where = f"--data {source}"
    try:
        found = datasets.load_dataset(source)
    except Exception as error:  # of the network, of the Hub, of the data set's files: many kinds
        text = f"neither a file or folder here nor a data set that the Hub gave ({reason(error)})"
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


def _list_table(name: str, table: Any, image: str, label: str | None) -> list[Item]:
    """Items of an arrow table whose column of images holds encoded files."""
    column = table.column(image)

    def read(i: int) -> Image.Image:
        cell = column[i].as_py()
        cell = cell if isinstance(cell, dict) else {"bytes": cell}
        if cell.get("bytes") is None and not cell.get("path"):
            raise ValueError("empty")
        return open_image(io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else Path(cell["path"]))

    labels = _known(table.column(label).to_pylist() if label else None, len(table))
    return [Item(f"{name}[{i}]", partial(read, i), labels[i]) for i in range(len(table))]


def _known(labels: Any, n: int) -> list[int | None]:
    """Labels as a list; a source that marks some as unknown (None or -1) has none."""
    if labels is None or any(v is None or v < 0 for v in labels):
        return [None] * n
    return [int(v) for v in labels]
