"""Files that are either whole or not there: written beside their place, then renamed."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fvae.errors import InputError, MachineError

# What a run folder consists of, beside its previews
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
RUN_FILES = (*MODEL_FILES, "config.yaml", "metrics.csv", "data.txt", "skipped.txt", "last.ckpt")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; renamed to ``path`` at the end, removed on failure.

    The old file stays whole until the new one is. The temporary name is fixed, so that what a killed process left is
    overwritten by the next. A link is followed, and a device such as /dev/stdout is written to, not replaced.
    Raises ``MachineError`` where the system can't write (a full disk, no permission).
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path = path.resolve() if path.is_symlink() else path
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"could not write {path}: {error.strerror or error}") from error


def need_file(path: Path, argument: str = "out") -> None:
    """Refuse a name that no file can be written to, before the work is done; raises ``InputError``."""
    if path.is_dir():
        raise InputError(f"{path}: expected a file's name, found a folder", argument)
    real = path.resolve()
    preview = real.parent.name == "samples" and (real.parent.parent / "config.yaml").exists()
    if real.exists() and (real.name in RUN_FILES or preview):
        raise InputError(f"{path}: belongs to a run; use another name", argument)
    need_folder(path.parent, argument, path)


def need_no_links(run: Path) -> None:
    """Refuse a run folder whose files are links, through which others would be written; raises ``InputError``."""
    names = (*RUN_FILES, "samples", "tensorboard", "checkpoints", "checkpoints/last.ckpt")
    for path in (*(run / name for name in names), *(run / "samples").glob("*")):
        if path.is_symlink():
            raise InputError(f"{path}: expected a file or folder of the run, found a symbolic link", "run")


def need_folder(path: Path, argument: str = "out", named: Path | None = None) -> None:
    """Refuse a name that no folder can be made at, before the work is done; raises ``InputError``."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{named or path}: expected a folder at {there}, found a file", argument)
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{named or path}: no permission to write in {there}", argument)


def need_no_run(path: Path, content: str) -> None:
    """Refuse a run's folder for other ``content``; raises ``InputError``."""
    if (path / "config.json").exists() or (path / "config.yaml").exists():
        raise InputError(f"{path}: expected a folder for {content}, found a run", "out")


def need_new_folder(path: Path) -> None:
    """Refuse a folder that holds anything, or that can't be made; raises ``InputError``."""
    need_folder(path)
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{path}: expected a new folder", "out")


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all; raises ``MachineError``."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, whole or not at all; raises ``MachineError``."""
    write_bytes(path, content.encode(errors="backslashreplace"))  # names of files may not be UTF-8


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows as CSV, whole or not at all; raises ``MachineError``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays as a compressed .npz, whole or not at all; raises ``MachineError``."""
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_bytes(path, file.getvalue())
