"""Files of every form of source, for tests to read."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fvae.data import Modality, Samples, load_data
from fvae.settings import DataSettings

LINES = ["the cat sat on the mat", "a dog sat", "the dog and the cat", "on a mat a cat sat", "the end"]


def read(source: object, part: str = "all", like: Modality | None = None, **settings) -> Samples:
    return load_data(DataSettings(source=str(source), **settings), part, like)


def check_held_out(source: object) -> None:
    """Training and held-out parts are disjoint, complete, in order, and the same every time."""
    everything = read(source)
    parts = {part: read(source, part, held_out=0.2) for part in ("train", "test")}
    assert 1 <= len(parts["test"]) <= len(everything) / 2
    assert sorted(parts["train"].names + parts["test"].names) == sorted(everything.names)
    for name, part in parts.items():
        where = [everything.names.index(n) for n in part.names]
        assert where == sorted(where) and read(source, name, held_out=0.2).names == part.names
        np.testing.assert_array_equal(part.values, everything.values[where])
        assert part.labels is None or np.array_equal(part.labels, everything.labels[where])
        assert (part.modality, part.labels is None) == (everything.modality, everything.labels is None)


def write(path: Path, content: bytes) -> Path:
    """A file, compressed where its name says so."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_lines(path: Path, lines: list[str]) -> Path:
    return write(path, "".join(line + "\n" for line in lines).encode())


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def png(image: np.ndarray | Image.Image) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, "PNG")
    return file.getvalue()


def pngs(images: np.ndarray, prefix: str = "") -> dict[str, bytes]:
    return {f"{prefix}{i:02}.png": png(image) for i, image in enumerate(images)}


def idx(array: np.ndarray) -> bytes:
    """The content of a file of MNIST, not yet compressed."""
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()
