"""Modalities: what data are to a model, and all that differs between images, tables and text.

A modality owns the data's shape, how stored values become a model's input, the unit of figures, how samples are
decoded, previewed and written, and what a saved model keeps of them. Nothing else asks what kind data are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.density import bits_per_dim
from fvae.errors import UserError

Shape = tuple[int, ...]


class Unit(NamedTuple):
    """The unit of the bounds of a model's data."""

    name: str
    key: str  # in tables
    of: Callable[[Any], Any]  # nats of a sample


NATS = Unit("nats", "nats", lambda nats: nats)


@dataclass(frozen=True)
class Modality:
    """Numbers of any shape, on their own scale; the contract of all modalities.

    ``classes`` names the labels 0, 1, ..., where the data have names for them.
    """

    shape: Shape
    classes: Sequence[str] = ()

    noun: ClassVar[str] = "samples"
    items: ClassVar[str] = "files"  # what a source consists of, some of which may be left out
    ends: ClassVar[str] = "samples"  # what is named to interpolate between
    notes_at_use: ClassVar[bool] = False  # whether a trained model's use says what is odd, too
    visible: ClassVar[bool] = False  # whether reconstructions and interpolations can be looked at
    splits: ClassVar[bool] = False  # whether sources may have a train and a test split of their own
    temperature: ClassVar[float] = 1.0  # of samples, where nobody says another
    many: ClassVar[int] = 64  # samples, where nobody says how many
    corners: ClassVar[int] = 4  # samples to interpolate between, where nobody says how many
    side_by_side: ClassVar[int] = 10  # samples in a row of reconstructions
    draws: ClassVar[int] = 1  # of u, for bounds, where nobody says how many
    first: ClassVar[int] = 10_000  # samples that initialization looks at
    bits: ClassVar[int | None] = None  # a value, of data in bins

    @property
    def unit(self) -> Unit:
        """Nats a sample: the bits of continuous data depend on their units."""
        return NATS

    @property
    def dims(self) -> int | None:
        """The values of a sample, where all have as many."""
        return math.prod(self.shape)

    @property
    def size(self) -> str:
        """The shape as people say it."""
        return " x ".join(map(str, self.shape))

    def collate(self, values: Any) -> Any:
        """Stored values (N, ...), an array or a tensor, as the model takes them."""
        return values

    def scaled(self, x: Tensor) -> Tensor | None:
        """Preprocessed input on the scale of the networks, None where it is no numbers."""
        return x

    def amount(self, x: Tensor) -> int:
        """How much a batch holds, by which its losses compare: samples, or tokens."""
        return len(x)

    @property
    def config(self) -> dict[str, Any]:
        """What a saved model keeps beside its recipe and settings."""
        return {"labels": list(self.classes)} if self.classes else {}

    def restored(self, config: dict[str, Any], folder: Path) -> "Modality":
        """This modality with what a saved model kept."""
        return replace(self, classes=config.get("labels", ()))

    def save(self, folder: Path) -> None:
        """Write the files that a saved model needs beside its weights."""

    def same(self, other: "Modality") -> str:
        """In what another modality differs, as "expected ..., found ...", "" where a model can take its data."""
        if type(other) is not type(self):
            return f"expected {self.noun}, found {other.noun}"
        return "" if other.shape == self.shape else f"expected {self.noun} of {self.size}, found {other.size}"

    @property
    def facts(self) -> dict[str, Any]:
        """What bounds of other data don't compare by, for a table."""
        return {}

    def drawn(self, model: Any, n: int, generator: torch.Generator) -> np.ndarray:
        """n samples at the modality's temperature, of evenly drawn labels, as their users know them."""
        e = self.temperature * model.codes(n, generator)
        return self.decoded(model, e, model.draw_labels(n, generator), generator=generator)

    def compared(self, drawn: dict[str, np.ndarray], out: Path) -> list[str]:
        """Write several models' samples, by name, side by side into the folder ``out``; the files' names."""
        return []

    @torch.no_grad()
    def decoded(self, model: Any, e: Tensor, y: Tensor | None = None, **how: Any) -> np.ndarray:
        """Codes (N, D) as their users know samples: (N, ...)."""
        parts = [
            self.shown(model, e[i : i + 64], None if y is None else y[i : i + 64], **how) for i in range(0, len(e), 64)
        ]
        return np.concatenate(parts)

    def shown(self, model: Any, e: Tensor, y: Tensor | None, **how: Any) -> np.ndarray:
        return model.decode(e, y).float().cpu().numpy()

    def check_out(self, out: Path | None, folder: bool = True) -> None:
        """Refuse a name that ``write`` can't use, before the work is done; raises ``UserError``."""
        if out is None:
            raise UserError("--out: expected a name to write to, found nothing")

    def check_sheet(self, out: Path | None) -> None:
        """Refuse a name that no sheet of samples can be written to; raises ``UserError``."""
        self.check_out(out)

    def sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | None) -> None:
        """Write rows of samples, with a label before each."""
        raise NotImplementedError

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        """Write what ``decoded`` gives."""
        raise NotImplementedError

    def preview(self, model: Any, test: Any, path: Path) -> None:
        """Samples beside held-out data, written to ``path`` with a suffix that suits them."""

    def kept_by(self, model: "Modality", classes: Sequence[str]) -> "Modality":
        """A model's modality with what is known of the data that it is trained on."""
        return replace(model, classes=classes)

    def known_as(self, values: np.ndarray) -> np.ndarray:
        """Stored values as their users know them, as ``decoded`` gives them."""
        return self.collate(values)

    def error(self, data: np.ndarray, back: np.ndarray) -> str:
        """How far reconstructions are off, in words."""
        return f"root mean square error {np.sqrt(((data.astype(float) - back) ** 2).mean()):.3f}"

    def named(self, ends: list[str]) -> Any:
        """The samples that are named on a command line; raises ``UserError``."""
        raise NotImplementedError

    def figures(self, samples: Any, found: dict[str, Any]) -> dict[str, Any]:
        """Figures of this modality alone, from those of ``summary``."""
        return {}

    def notes_of_training(self, samples: Any, test: Any) -> list[str]:
        """What is odd about the training and the held-out part, a line each."""
        return self.notes(samples, f"the training {self.noun}")

    def notes(self, samples: Any, what: str) -> list[str]:
        """What is odd about data that were read, a line each."""
        return []


def in_bits(shape: Shape) -> Unit:
    """Bits a dimension, of data in bins."""
    return Unit("bits/dim", "bits_per_dim", partial(bits_per_dim, dims=math.prod(shape)))
