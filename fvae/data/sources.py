"""Every form of source of images as a list of items, by split, with nothing decoded yet."""

import io
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fvae.data.decode import open_image, plain
from fvae.data.files import (
    argument_named,
    check_expansion,
    local_path,
    optional_library,
    read_bytes,
    read_npz,
    reading,
    reason,
)
from fvae.errors import InputError

TEST_SPLITS = ("test", "validation", "valid", "val")
SPLITS = ("train", *TEST_SPLITS)
HUB_TIMEOUT = 5.0  # seconds
MOST_FILES = 2_000_000  # of a folder


class Item(NamedTuple):
    """An image not yet decoded; ``fault`` says why it is none, where its name tells; ``classes`` names the labels.

    ``content`` reads what tells one image from another.
    """

    name: str
    open: Callable[[], Image.Image]
    label: int | None = None
    fault: str = ""
    classes: Sequence[str] = ()
    content: Callable[[], bytes] = bytes


Splits = dict[str, list[Item]]  # a source without splits has one of the name ""


def is_path(source: str) -> bool:
    """Whether a source's name can only be a path's, and not that of a Hugging Face data set."""
    # A letter after the dot is a suffix, a digit may be a version: user/name-v1.5.
    suffix = re.fullmatch(r"\.[a-z]\w*", Path(source).suffix.lower())
    marks = source.startswith((".", "/", "~")) or source.endswith("/") or "\\" in source or source.count("/") > 1
    return bool(suffix) or marks


def list_items(source: str, known: Sequence[str] = ()) -> Splits:
    """The items of a source by split; ``known`` are names of classes, which one folder alone may have.

    Raises ``InputError`` for a source that is broken or of an unknown form.
    """
    if not source:
        raise InputError("expected digits, a Hugging Face data set or a path, found none")
    if source == "digits":
        return {"": list_digits()}
    path = local_path(source)
    if os.path.isdir(path):
        return list_folder(path, known)
    if not os.path.exists(path):
        return list_hub(source)
    name = path.name.lower()
    if name.endswith(".zip"):
        return list_zip(path, known)
    for suffix, list_file in ((".parquet", list_parquet), (".npz", list_npz), (".gz", list_idx)):
        if name.endswith(suffix):
            return {"": list_file(path)}
    if path.suffix.lower() in Image.registered_extensions():
        raise InputError("expected a folder or archive of images, found one image file")
    expected = "a folder, .zip, .parquet, .npz or idx .gz of images, or a .csv, .parquet or .npz of tabular data"
    raise InputError(f"expected {expected}, found a {path.suffix or 'file'}")


def list_folder(root: Path, known: Sequence[str]) -> Splits:
    """The images below a folder; links are followed, each folder is read once, and folders of runs are left out."""
    names, runs, seen = list[str](), list[str](), set[tuple[int, int]]()
    images, suffixes = 0, Image.registered_extensions()
    for folder, folders, files in os.walk(root, followlinks=True):
        within, status = Path(folder).relative_to(root), os.stat(folder)
        is_run = folder != str(root) and "model.safetensors" in files and {"config.yaml", "config.json"} & set(files)
        if is_run or (status.st_dev, status.st_ino) in seen:
            runs += [within.as_posix()] if is_run else []
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names += [(within / file).as_posix() for file in files]
        if len(names) > MOST_FILES:
            raise InputError(f"expected a folder of at most {MOST_FILES:,} files, found more")
        images += sum(Path(file).suffix.lower() in suffixes for file in files)
        if len(names) > 20_000 > 2000 * images:
            raise InputError(f"expected a folder of images, found {images} among its first {len(names):,} files")
    found = {name: (partial(open_image, root / name), partial(beginning, root / name)) for name in names}
    return with_faults(by_folder(found, known), runs, "the folder of a run")


def with_faults(splits: Splits, names: list[str], fault: str) -> Splits:
    """Splits with items that are no images, outside of the splits' folders."""
    found = [Item(name, Image.Image, fault=fault) for name in names]
    return splits | {"": [*splits.get("", []), *found]} if found else splits


def beginning(path: Path) -> bytes:
    """The size and first 64 KiB of a file, which tell files of images apart; the path of one that can't be read."""
    try:
        if not path.is_file():  # a pipe would never end
            return os.fsencode(path)
        with path.open("rb") as file:
            return file.read(2**16) + str(path.stat().st_size).encode()
    except OSError:
        return os.fsencode(path)


def list_zip(path: Path, known: Sequence[str]) -> Splits:
    with reading("a zip archive"):
        archive = zipfile.ZipFile(path)

    def read(member: zipfile.ZipInfo) -> Image.Image:
        check_expansion(member.compress_size, member.file_size)
        return open_image(io.BytesIO(archive.read(member)))

    members = [member for member in archive.infolist() if not member.is_dir()]
    contents = [partial(str.encode, f"{m.CRC} {m.file_size}") for m in members]
    names = [m.filename.replace("\\", "/") for m in members]
    found = {name: (partial(read, m), content) for name, m, content in zip(names, members, contents, strict=True)}
    earlier = [name for name, count in Counter(names).items() for _ in range(count - 1)]
    return with_faults(by_folder(found, known), earlier, "an earlier file of the same name")


def by_folder(
    files: Mapping[str, tuple[Callable[[], Image.Image], Callable[[], bytes]]], known: Sequence[str]
) -> Splits:
    """Sort files, with what opens them and their content, into the splits and classes that their folders name."""
    suffixes = {"", *Image.registered_extensions()}
    folders, faults = {}, {}
    for name in sorted(files):
        *parts, base = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
        suffix = Path(base).suffix.lower()
        hidden = any(part.startswith(".") for part in [*parts, base])
        if base in ("Thumbs.db", "desktop.ini") or "__MACOSX" in parts or base.startswith("._"):
            continue  # of the system
        if hidden and (not suffix or suffix not in suffixes):
            continue
        folders[name] = parts
        faults[name] = "hidden by a dot" if hidden else "" if suffix in suffixes else f"not an image ({suffix})"
    of_images = [parts for name, parts in folders.items() if not faults[name]]

    # Archives often wrap everything in one folder; it is neither a split nor a class.
    shared = [folders[0] for folders in takewhile(lambda f: len(set(f)) == 1, zip(*of_images, strict=False))]
    depth = next((i for i, folder in enumerate(shared) if folder in SPLITS or folder in known), len(shared))
    has_splits = any(p[depth] in SPLITS for p in of_images if len(p) > depth)
    below = [p[depth + has_splits :] for p in of_images if len(p) > depth or not has_splits]
    # A single class that is not known carries no information, and is more often a folder called img.
    named = {p[0] for p in below} if all(below) else set()
    classes = sorted(named) if len(named) > 1 or named & set(known) else []

    splits: Splits = {}
    for name, parts in folders.items():
        split, *within = parts[depth:] if has_splits and len(parts) > depth else ["", *parts[depth:]]
        label = classes.index(within[0]) if within and within[0] in classes else None
        opened, content = files[name]
        splits.setdefault(split, []).append(Item(name, opened, label, faults[name], classes, content))
    return splits


def list_digits() -> list[Item]:
    digits = optional_library("sklearn.datasets", "scikit-learn", "digits").load_digits()
    return list_array("digits", np.minimum(16 * digits.images, 255).astype(np.uint8), digits.target)


def list_npz(path: Path) -> list[Item]:
    images, labels = read_npz(path, "images", "labels")
    assert images is not None
    return list_array(path.name, images, labels)


def list_idx(path: Path) -> list[Item]:
    images, labels = read_idx(path), None
    labels_path = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if labels_path != path and labels_path.exists():
        with argument_named("", labels_path.name):
            labels = read_idx(labels_path)
    return list_array(path.name, images, labels)


def read_idx(path: Path) -> np.ndarray:
    """An array of uint8 in the format of MNIST: 0, 0, type (8 is uint8), dimensions, each size in 4 bytes."""
    with reading("an idx .gz"):
        raw = read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or len(raw) < 4 + 4 * raw[3]:
        raise InputError(f"expected an idx file, found one that begins with {raw[:4].hex(' ') or 'nothing'}")
    if raw[3] > 4:
        raise InputError(f"expected an idx of at most 4 dimensions, found {raw[3]}")
    if raw[2] != 8:
        raise InputError(f"expected an idx of uint8 (type 08), found type {raw[2]:02x}")
    start = 4 + 4 * raw[3]
    shape = [int(size) for size in np.frombuffer(raw[4:start], dtype=">u4")]
    if math.prod(shape) != len(raw) - start:
        raise InputError(f"expected {math.prod(shape)} bytes for shape {tuple(shape)}, found {len(raw) - start}")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def list_array(name: str, images: np.ndarray, labels: np.ndarray | None) -> list[Item]:
    """Items of images (N, H, W) or (N, H, W, C) uint8 and labels (N,)."""
    if images.dtype != np.uint8:
        raise InputError(f"expected images of dtype uint8, found {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4) or 0 in images.shape[1:]:
        found = images.shape if images.ndim == 4 else f"{images.ndim} dimensions"
        raise InputError(f"expected images (N, H, W) or (N, H, W, C) with C 1, 3 or 4, found {found}")
    if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
        expected = f"integer labels of shape ({len(images)},)"
        raise InputError(f"expected {expected}, found {labels.dtype} {labels.shape}")

    def read(i: int) -> Image.Image:
        return plain(Image.fromarray(images[i, :, :, 0] if images.shape[3] == 1 else images[i]))

    return items_of(name, read, lambda i: images[i].tobytes(), len(images), labels)


def list_parquet(path: Path) -> list[Item]:
    import pyarrow.parquet

    with reading("a .parquet"):
        return list_table(path.name, pyarrow.parquet.read_table(path), None)


def list_hub(source: str) -> Splits:
    """The items of a data set of the Hugging Face Hub or, where that gives no answer within seconds, of its cache."""
    datasets = optional_library("datasets", "datasets", "hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    offline, unreachable = datasets.config.HF_HUB_OFFLINE, ""
    try:
        HfApi().dataset_info(source, timeout=HUB_TIMEOUT)
    except HfHubHTTPError:
        pass  # an answer: load_dataset says what is wrong
    except Exception as error:  # of the network: load_dataset would try again for half a minute
        datasets.config.HF_HUB_OFFLINE, unreachable = True, f"the Hub could not be reached ({reason(error)})"
    try:
        found = datasets.load_dataset(source)
    except Exception as error:  # of the Hub, of the data set's files: many kinds
        problem = unreachable or f"no data set of the Hub that can be read ({reason(error)})"
        raise InputError(f"no such file or folder, and {problem}") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    cache = Path(datasets.config.HF_CACHE_HOME).resolve()
    return {str(split): list_table(str(split), rows.with_format("arrow")[:], cache) for split, rows in found.items()}


def image_and_label(schema: Any) -> tuple[str, str | None]:
    """The columns of images and of labels, by the types that Hugging Face notes in an Arrow schema, else by Arrow's."""
    from pyarrow import types

    noted = json.loads((schema.metadata or {}).get(b"huggingface", "{}")).get("info", {}).get("features", {})
    kinds = {name: kind.get("_type") for name, kind in noted.items() if isinstance(kind, dict)}

    def holds_files(kind: Any) -> bool:
        return types.is_binary(kind) or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    images = [name for name in schema.names if kinds.get(name) == "Image"]
    images = images or [field.name for field in schema if holds_files(field.type)]
    if not images:
        raise InputError(f"expected a column of images, found columns {', '.join(schema.names)}")
    classes = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    integers = [f.name for f in schema if f.name in ("label", "labels") and types.is_integer(f.type)]
    labels = [name for name in classes if name == "label"] or classes or integers
    return images[0], labels[0] if labels else None


def list_table(name: str, table: Any, files: Path | None) -> list[Item]:
    """Items of an Arrow table with a column of encoded images, or of paths below ``files``, and maybe one of labels."""
    image, label = image_and_label(table.schema)
    column = table.column(image)

    def encoded(i: int) -> dict[str, Any]:
        cell = column[i].as_py()
        return cell if isinstance(cell, dict) else {"bytes": cell}

    def read(i: int) -> Image.Image:
        cell = encoded(i)
        if cell.get("bytes") is not None:
            return open_image(io.BytesIO(cell["bytes"]))
        path = Path(cell.get("path") or "").resolve()
        if not cell.get("path") or files is None or not path.is_relative_to(files):
            raise ValueError("without the bytes of an image")
        return open_image(path)

    def content(i: int) -> bytes:
        return encoded(i).get("bytes") or str(encoded(i).get("path")).encode()

    return items_of(name, read, content, len(table), table.column(label).to_pylist() if label else None)


def items_of(name: str, read: Callable[[int], Image.Image], content: Any, n: int, labels: Any) -> list[Item]:
    """n items by index; a source with labels that are unknown (None, -1) or beyond int64 has none."""
    known = labels is not None and all(v is not None and 0 <= v < 2**63 for v in labels)
    numbers = map(int, labels) if known else [None] * n
    return [Item(f"{name}[{i}]", partial(read, i), k, content=partial(content, i)) for i, k in enumerate(numbers)]
