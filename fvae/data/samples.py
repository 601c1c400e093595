"""Data of any modality as one array, and which of it is held out."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fvae.data.files import argument_named
from fvae.data.modality import Modality, Shape
from fvae.errors import InputError


@dataclass(frozen=True, repr=False)
class Samples:
    """Samples of one modality: values (N, ...) as they are stored, a name each, and maybe labels (N,) int64.

    Stored are images (N, C, H, W) as uint8, tables (N, D) as float32, sentences (N, T) as int32; values may be anything
    that an array of indices selects from. ``skipped`` says "path: reason" for each file or line that is not in values;
    ``truncated`` counts the sentences that were too long; ``remarks`` say what was unusual when they were read;
    ``table`` is what rows of several types were read from, as Arrow has it.

    Example:
        >>> train, test = fvae.read_data("digits")
        >>> train
        Samples(1702 images of 8x8 gray, labelled)
        >>> train.values.shape[1:], train.values.dtype, len(train.names) == len(train)
        ((1, 8, 8), dtype('uint8'), True)
    """

    values: Any
    names: list[str]
    labels: np.ndarray | None = None
    skipped: list[str] = field(default_factory=list)
    modality: Modality = field(default_factory=lambda: Modality(()))
    truncated: int = 0
    remarks: Sequence[str] = ()
    table: Any = None

    @property
    def shape(self) -> Shape:
        """The shape that a recipe makes a model of."""
        return self.modality.shape

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else ", labelled"
        return f"Samples({len(self)} {self.modality.noun} of {self.modality.size}{labels})"

    def take(self, indices: np.ndarray) -> "Samples":
        """The samples of these indices, in their order."""
        labels = None if self.labels is None else self.labels[indices]
        names, table = [self.names[i] for i in indices], None if self.table is None else self.table.take(indices)
        return replace(self, values=self.values[indices], names=names, labels=labels, table=table)

    def spread(self, n: int) -> "Samples":
        """``n`` samples evenly from the whole set, which may be sorted by class."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).round().astype(int)))

    def numbered_as(self, classes: Sequence[str], where: str = "") -> "Samples":
        """With the label numbers that the names have in ``classes``; raises ``InputError`` for an unknown name."""
        known = list(self.modality.classes)
        if not classes or known == list(classes) or self.labels is None:
            return self
        number = {name: i for i, name in enumerate(classes)}
        names = [known[k] if known else str(k) for k in self.labels]
        unknown = sorted(set(names) - set(classes))
        if unknown:
            expected = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise InputError(f"{where}: " * bool(where) + f"expected the labels {expected}, found {unknown[0]}")
        labels = np.array([number[name] for name in names], dtype=np.int64)
        return replace(self, labels=labels, modality=replace(self.modality, classes=list(classes)))


def numbered(labels: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers: whole ones as they are, others by the sorted order of their names, which are returned too."""
    if all(isinstance(v, int | float) and 0 <= v < 2**63 and v % 1 == 0 for v in labels):
        return np.array(labels, dtype=np.int64), []
    names, numbers = np.unique(np.array(labels, dtype=object), return_inverse=True)
    return numbers.astype(np.int64), list(map(str, names))


def hold_out(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """Training and held-out samples: about ``share`` is held out, always the same for the same names and values.

    Raises ``InputError`` for fewer than two different samples.
    """
    together = samples.modality.copies_together
    names = first_names(samples.names, digests(samples.values)) if together else samples.names
    with argument_named("data"):
        train, test = (part_of(names, share, part, samples.modality.noun) for part in ("train", "test"))
    return samples.take(train), samples.take(test)


def digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def digests(values: Any) -> list[bytes]:
    """A digest of each sample, equal for equal values only."""
    return [digest(row.tobytes()) for row in np.asarray(values)]


def first_names(names: Sequence[str], contents: Sequence[Any]) -> list[str]:
    """For each sample the name of the first with its content, so that copies of a sample are held out together."""
    first: dict[Any, str] = {}
    return [first.setdefault(content, name) for name, content in zip(names, contents, strict=True)]


def part_of(names: Sequence[str], share: float, part: str, noun: str) -> np.ndarray:
    """The indices of the "train" or "test" part, or of all, by names; raises ``InputError`` for an empty test part."""
    if part not in ("train", "test"):
        return np.arange(len(names))
    out = held_out(names, share)
    if part == "test" and not out:
        raise InputError(f"expected 2 different {noun} or more to hold some out, found 1")
    return np.flatnonzero([(name in out) == (part == "test") for name in names])


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The names whose samples are held out: about a share of them, one at least, and never all."""
    draws = {name: draw(name) for name in names}
    chosen = {name for name, u in draws.items() if u < share} or {min(draws, key=draws.__getitem__)}
    return chosen - {max(draws, key=draws.__getitem__)}


def draw(name: str) -> float:
    """A number in [0, 1) that depends on the name only, so that no sample changes sides when others come or go."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest()) / 2**64
