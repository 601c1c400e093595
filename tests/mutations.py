"""Mutations of files: documents by their structure, data by their values, and both by their bytes."""

import io
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

HUGE, DEEP = "an integer of 5000 digits", "a list in lists"  # what json can't write itself
ODD = [None, True, -1, 0, 1, 0.5, 1e300, float("nan"), float("inf"), 2**31, 2**63, 10**30, "", "x", "\0", "\ud800"]
ODD += ["x" * 5000, [], [1], {}, {"x": 1}, [[[]]], HUGE, DEEP]
CELLS = ["", " ", "nan", "inf", "-1e400", "1e39", "x", "1,2", '"', '"a\nb"', "9" * 5000, "1e-320", "\0", "\udcff"]
MODES = ["1", "L", "LA", "I", "I;16", "F", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"]


def mutated(tree: Any, rng: random.Random) -> Any:
    """A tree of dictionaries and lists in which one entry is gone, new, or another value."""
    entries = list(tree.items() if isinstance(tree, dict) else enumerate(tree)) if isinstance(tree, dict | list) else []
    if not entries or rng.random() < 0.1:
        return rng.choice(ODD)
    tree = dict(entries) if isinstance(tree, dict) else list(tree)
    key, value = rng.choice(entries)
    match rng.choice(["delete", "add", "change", "below", "below", "below"]):
        case "delete":
            del tree[key]
        case "add" if isinstance(tree, dict):
            tree[rng.choice(["extra", "", 1, key])] = rng.choice(ODD)
        case "add":
            tree.insert(key, rng.choice([value, *ODD]))
        case "change":
            tree[key] = rng.choice(ODD)
        case "below":
            tree[key] = mutated(value, rng)
    return tree


def as_json(tree: Any) -> bytes:
    text = json.dumps(tree).replace(f'"{HUGE}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 20000 + "]" * 20000)
    return text.encode()


def damage(content: bytes, rng: random.Random) -> bytes:
    """Bytes of which some are lost, changed, new or repeated."""
    a, b = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    flipped = bytes(byte ^ (rng.random() < 0.02) << rng.randrange(8) for byte in content[a:b])
    noise = rng.choice([b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"{", rng.randbytes(8)])
    return rng.choice([b"", content[:a], content[:a] + rng.choice([b"", flipped, noise, content]) + content[b:]])


def mutate_file(path: Path, rng: random.Random) -> None:
    """Change what a file says, or where it doesn't apply or by chance its bytes."""
    change: Callable[[Path, random.Random], Any] = CHANGES.get(path.suffix, lambda path, rng: None)
    content = None
    if rng.random() < 0.7:
        with suppress(ValueError, TypeError, OverflowError, struct.error, OSError):  # what can't be written
            content = change(path, rng)
    path.write_bytes(damage(path.read_bytes(), rng) if content is None else content)


def change_yaml(path: Path, rng: random.Random) -> bytes:
    tree = mutated(yaml.safe_load(path.read_text()), rng)
    return as_json(tree) if rng.random() < 0.5 else yaml.safe_dump(tree).encode()


def change_csv(path: Path, rng: random.Random) -> bytes:
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rng.sample(rows, rng.choice([1, 1, 1, 3, len(rows)])):
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    end = rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"])
    text = end.join(rng.choice([",", ",", ",", ";", "\t"]).join(row) for row in rows)
    return text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), "surrogateescape")


def change_text(path: Path, rng: random.Random) -> bytes:
    lines = path.read_text().splitlines()
    odd = ["", " ", "\0", "\u200b", "\U0001d518" * 9, "x" * 9000, "x " * 3000, "\u202e", "e\u0301", "\x85", "\udcff"]
    for _ in range(rng.choice([1, 3, 30])):
        lines.insert(rng.randrange(len(lines)), rng.choice(odd))
    lines = rng.choice([lines, lines, lines[:1], lines[:1] * 9])
    return "\n".join(lines).encode(rng.choice(["utf-8", "utf-8", "utf-16"]), "surrogateescape")


def change_arrays(path: Path, rng: random.Random) -> bytes:
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    a = np.atleast_1d(arrays.pop(name))
    kinds = ["float32", "float16", "int64", "uint64", "bool", "complex64", "S3", "U3", "O", "M8[s]", ">f8"]
    with np.errstate(all="ignore"):
        changed = rng.choice(
            [
                lambda: a.astype(rng.choice(kinds)),
                lambda: a[: rng.choice([0, 1])],
                lambda: rng.choice([a[..., :0], a[..., None], a.T, np.float64(1)]),
                lambda: a.astype(float) * rng.choice([np.nan, np.inf, 0, -1, 1e30, 1e300]),
            ]
        )()
    file = io.BytesIO()
    np.savez(file, **{rng.choice([name, name, name, "other"]): changed}, **arrays)
    return file.getvalue()


def change_picture(path: Path, rng: random.Random) -> bytes:
    file = io.BytesIO()
    size = (rng.choice([1, 7, 8, 9, 300]), rng.choice([1, 8, 8, 50]))
    image = Image.new(rng.choice(MODES), size) if rng.random() < 0.7 else Image.new("RGB", size, (200, 10, 90))
    image.save(file, rng.choice(["PNG", "TIFF", "GIF", "BMP", "JPEG"]))
    return file.getvalue()


def change_weights(path: Path, rng: random.Random) -> bytes:
    content = path.read_bytes()
    size = 8 + struct.unpack("<Q", content[:8])[0]
    header, body = content[8:size], content[size:]
    if rng.random() < 0.5:
        header = as_json(mutated(json.loads(header), rng))
    else:
        at = rng.randrange(len(body) // 4) * 4
        body = body[:at] + struct.pack("<f", rng.choice([np.nan, np.inf, 1e38, -1e-40])) + body[at + 4 :]
    return struct.pack("<Q", len(header)) + header + body


def change_checkpoint(path: Path, rng: random.Random) -> bytes:
    file = io.BytesIO()
    torch.save(mutated(torch.load(path, weights_only=True), rng), file)
    return file.getvalue()


CHANGES = {
    ".json": lambda path, rng: as_json(mutated(json.loads(path.read_text()), rng)),
    ".yaml": change_yaml,
    ".csv": change_csv,
    ".txt": change_text,
    ".npz": change_arrays,
    ".png": change_picture,
    ".safetensors": change_weights,
    ".ckpt": change_checkpoint,
}
