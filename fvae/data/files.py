"""Source files, which may be missing or broken, and what is said of them."""

import gzip
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from fvae.errors import InputError, one_line


def local_path(source: str) -> Path:
    """A source as a path, with ``~`` expanded."""
    return Path(os.path.expanduser(source))


@contextmanager
def argument_named(argument: str, value: str = "") -> Iterator[None]:
    """Give each ``InputError`` that names no argument yet this one, and the argument's value where it says more."""
    try:
        yield
    except InputError as error:
        if error.argument:
            raise
        raise InputError(f"{value}: {error.message}" if value else error.message, argument) from None


@contextmanager
def reading(expected: str) -> Iterator[None]:
    """Turn whatever a library raises for a broken file into an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of zip, gzip, NumPy and Arrow: many kinds
        raise InputError(f"expected {expected}, found none or a broken one ({reason(error)})") from None


def reason(error: Exception) -> str:
    """A short reason on one line."""
    return "not an image" if isinstance(error, UnidentifiedImageError) else one_line(error)


def read_npz(path: Path, name: str, *optional: str) -> list[np.ndarray | None]:
    """The array ``name`` of an .npz and those ``optional`` ones that it has, else None; raises ``InputError``."""
    with reading("an .npz"), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        for member in arrays.zip.infolist():
            check_expansion(member.compress_size, member.file_size)
        if name not in arrays:
            found = ", ".join(arrays) or "no array"
            raise InputError(f"expected an array `images`, or `x` for tabular data, found {found}")
        content = [arrays.get(key) for key in (name, *optional)]
        if any(isinstance(array, bytes) for array in content):  # a member that is no array
            raise InputError("expected arrays of NumPy in an .npz, found other bytes")
        return content


def check_expansion(compressed: int, expanded: int) -> None:
    """Refuse a gigabyte that was compressed more than 500 times, as no data are; raises ``InputError``."""
    if expanded > max(2**30, 500 * compressed):
        raise InputError(
            f"expected data, found {expanded / 2**30:.1f} GiB compressed into {compressed / 2**20:.1f} MiB"
        )


def read_bytes(path: Path) -> bytes | bytearray:
    """The content of a file, decompressed if its name ends in .gz; raises ``InputError`` for gigabytes of nothing."""
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    content, size = bytearray(), path.stat().st_size
    with gzip.open(path) as file:
        while chunk := file.read(2**20):
            content += chunk
            check_expansion(size, len(content))
    return content


def optional_library(module: str, package: str, extra: str) -> Any:
    """A module of a package that an extra installs; raises ``InputError`` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"expected {package} (pip install 'fvae[{extra}]'), found none") from None
