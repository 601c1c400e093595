"""Data of any kind as one array, and which of it is held out."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fvae.errors import UserError
from fvae.settings import DataSettings

Shape = tuple[int, ...]
NOUNS = {1: "rows", 2: "sentences", 3: "images"}  # what samples are called, by the length of a model's shape


@dataclass(frozen=True)
class Samples:
    """Samples of one shape: values (N, C, H, W) uint8 of images, (N, D) float32 of vectors or (N, T) int32 of text, a
    name each, maybe labels (N,) int64.

    ``skipped`` says "path: reason" for each file that is not in values, ``columns`` names those of vectors, ``classes``
    the labels 0, 1, ... where the source has names for them, ``vocabulary`` knows the tokens of text, of which ``cut``
    sentences lost some.
    """

    values: np.ndarray
    names: list[str]
    labels: np.ndarray | None = None
    skipped: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    vocabulary: Any = None  # fvae.data.texts.Vocabulary
    cut: int = 0

    @property
    def shape(self) -> Shape:
        """(C, H, W) of every image, (D,) of every vector, or of text the longest sentence and the number of tokens."""
        return self.vocabulary.shape if self.vocabulary else self.values.shape[1:]

    @property
    def noun(self) -> str:
        return NOUNS[len(self.shape)]

    @property
    def size(self) -> str:
        """The shape as people say it."""
        if len(self.shape) == 1:
            return f"{self.shape[0]} columns"
        if len(self.shape) == 2:
            return f"at most {self.shape[0] - 1} tokens of {self.shape[1]:,}"
        c, h, w = self.shape
        return f"{h}x{w} {'grey' if c == 1 else 'rgb'}"

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices: np.ndarray) -> "Samples":
        """Those of the indices, in their order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, values=self.values[indices], names=[self.names[i] for i in indices], labels=labels)

    def batch(self, which: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Values and labels of some; of text no wider than the longest of these."""
        values = self.values[which]
        if self.vocabulary:
            values = values[:, : max(1, int((values != 0).sum(1).max(initial=1)))]
        return values, None if self.labels is None else self.labels[which]

    def spread(self, n: int) -> "Samples":
        """``n`` from all over the set, which may be sorted by class."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).round().astype(int)))

    def numbered_as(self, classes: list[str], where: str) -> "Samples":
        """With labels by the numbers that their names have in ``classes``; raises ``UserError`` for another name."""
        if not classes or self.classes == classes or self.labels is None:
            return self
        number = {name: i for i, name in enumerate(classes)}
        names = [self.classes[k] if self.classes else str(k) for k in self.labels]
        unknown = sorted(set(names) - set(classes))
        if unknown:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise UserError(f"{where}: expected the labels {shown}, found {unknown[0]}")
        return replace(self, labels=np.array([number[name] for name in names], dtype=np.int64), classes=classes)


def numbered(labels: list[Any]) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers: whole ones as they are, others counted in the order of their names, which come with them."""
    if all(isinstance(v, int | float) and v >= 0 and v % 1 == 0 for v in labels):
        return np.array(labels, dtype=np.int64), []
    kinds = sorted(set(labels))
    order = {v: i for i, v in enumerate(kinds)}
    return np.array([order[v] for v in labels], dtype=np.int64), list(map(str, kinds))


def check_share(share: float) -> None:
    """Refuse to hold all or nothing out; raises ``UserError``."""
    if not 0 < share < 1:
        raise UserError(f"--data.held_out {share}: expected a share between 0 and 1, both excluded")


def check_no_images(data: DataSettings, noun: str) -> None:
    """Refuse settings of images for a source of another kind; raises ``UserError``."""
    for flag in ("size", "colour", "split"):
        if (value := getattr(data, flag)) != getattr(DataSettings(), flag):
            raise UserError(f"--data.{flag} {value}: is for images; {data.source} holds {noun}")


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The names, or lines, whose samples are held out: about a share of them, one at least, and never all."""
    draws = {name: draw(name) for name in names}
    chosen = {name for name, u in draws.items() if u < share}
    chosen |= {min(draws, key=draws.__getitem__)} if len(draws) > 1 else set()
    return chosen - {max(draws, key=draws.__getitem__)}


def draw(name: str) -> float:
    """A number of [0, 1) that a name has for good, so that no sample changes sides when others come or go."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
