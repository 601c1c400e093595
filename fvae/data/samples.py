"""Data of any modality as one array, and which of it is held out."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fvae.data.modality import Modality, Shape
from fvae.errors import UserError
from fvae.settings import DataSettings


@dataclass(frozen=True)
class Samples:
    """Samples of one modality: values (N, ...) as they are stored, a name each, maybe labels (N,) int64.

    Stored are images (N, C, H, W) as uint8, rows (N, D) as float32, sentences (N, T) as int32; values may be anything
    that an array of indices takes from. ``skipped`` says "path: reason" for each file or line that is not in values;
    ``cut`` counts the sentences that were truncated.
    """

    values: Any
    names: list[str]
    labels: np.ndarray | None = None
    skipped: list[str] = field(default_factory=list)
    modality: Modality = field(default_factory=lambda: Modality(()))
    cut: int = 0

    @property
    def shape(self) -> Shape:
        """The shape that a recipe makes a model of."""
        return self.modality.shape

    def __len__(self) -> int:
        return len(self.values)

    def take(self, indices: np.ndarray) -> "Samples":
        """Those of the indices, in their order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, values=self.values[indices], names=[self.names[i] for i in indices], labels=labels)

    def spread(self, n: int) -> "Samples":
        """``n`` from all over the set, which may be sorted by class."""
        return self.take(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).round().astype(int)))

    def numbered_as(self, classes: Sequence[str], where: str) -> "Samples":
        """With labels by the numbers that their names have in ``classes``; raises ``UserError`` for another name."""
        own = list(self.modality.classes)
        if not classes or own == list(classes) or self.labels is None:
            return self
        number = {name: i for i, name in enumerate(classes)}
        names = [own[k] if own else str(k) for k in self.labels]
        unknown = sorted(set(names) - set(classes))
        if unknown:
            shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise UserError(f"{where}: expected the labels {shown}, found {unknown[0]}")
        labels = np.array([number[name] for name in names], dtype=np.int64)
        return replace(self, labels=labels, modality=replace(self.modality, classes=list(classes)))


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
