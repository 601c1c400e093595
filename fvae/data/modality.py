"""Modalities: what data are to a model, and all that differs between images, tables and text.

A modality owns the data's shape, how stored values become a model's input, the unit of the model's bounds, how samples
are decoded, previewed and written, and what a saved model keeps of its data. Nothing else asks what the data are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO

import numpy as np
import torch
from torch import Tensor

from fvae.documents import Document, UniqueNames, check_document
from fvae.errors import InputError
from fvae.files import need_file, write_arrays

Shape = tuple[int, ...]


class DataConfig(Document):
    """What ``config.json`` keeps of a model's data."""

    labels: UniqueNames = []


class Unit(NamedTuple):
    """The unit in which the bounds of a model's data are reported."""

    name: str
    key: str  # in tables
    from_nats: Callable[[Any], Any]  # of nats a sample


NATS = Unit("nats", "nats", lambda nats: nats)


@dataclass(frozen=True)
class Modality:
    """Numbers of any shape, on their own scale, and the contract of all modalities.

    ``classes`` names the labels 0, 1, ..., where the data have names for them.
    """

    shape: Shape
    classes: Sequence[str] = ()

    noun: ClassVar[str] = "samples"
    items: ClassVar[str] = "files"  # what a source consists of, some of which may be skipped
    splits: ClassVar[bool] = False  # whether a source may have a train and a test split of its own
    bits: ClassVar[int | None] = None  # of a value, for data in bins
    array: ClassVar[str] = "x"  # the array of values in an .npz
    suffixes: ClassVar[tuple[str, ...]] = (".npz",)  # of files that samples are written to
    sheet_suffixes: ClassVar[tuple[str, ...]] = ()  # of files to look at, which reconstructions are written to
    copies_together: ClassVar[bool] = True  # whether equal samples are held out together
    standardized: ClassVar[bool] = False  # whether a recipe's model brings its values to mean 0 and deviation 1
    fixed_settings: ClassVar[tuple[str, ...]] = ()  # fields of ``DataSettings`` that a saved model determines

    # Defaults of the commands
    temperature: ClassVar[float] = 1.0  # of samples
    default_n: ClassVar[int] = 64  # samples to draw
    default_corners: ClassVar[int] = 4  # samples to interpolate between
    default_draws: ClassVar[int] = 1  # draws of u for a bound
    row_length: ClassVar[int] = 10  # samples in a row of reconstructions
    init_samples: ClassVar[int] = 10_000  # samples that a model is initialized from

    # What the data are

    @property
    def recipe_shape(self) -> Any:
        """What a recipe makes a model of: the shape or, of a table of several types, its schema."""
        return self.shape

    @property
    def unit(self) -> Unit:
        """Nats a sample: bits/dim of continuous data would depend on their scale."""
        return NATS

    @property
    def dims(self) -> int | None:
        """The number of values of a sample, None where it varies."""
        return math.prod(self.shape)

    @property
    def size(self) -> str:
        """The shape in words."""
        return " x ".join(map(str, self.shape))

    @property
    def facts(self) -> dict[str, Any]:
        """Columns of a comparison's table, for what makes bounds incomparable."""
        return {}

    def mismatch(self, other: "Modality") -> str:
        """How other data differ from a model's, as "expected ..., found ...", "" where the model can take them."""
        if type(self) is not Modality and type(other) is not type(self):
            return f"expected {self.noun}, found {other.noun}"
        if other.shape != self.shape:
            return f"expected {self.noun} of {self.size}, found {other.noun} of {other.size}"
        return ""

    def merge_into(self, model: "Modality", classes: Sequence[str]) -> "Modality":
        """A model's modality with what is known of the data it is trained on."""
        return replace(model, classes=classes)

    # Values: given by a user, stored, and as a model takes them

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Values (N, *shape) of a user, checked, as they are stored; raises ``InputError``."""
        self.check_shape(values)
        if values.dtype.kind not in "biufc":
            raise InputError(f"expected numbers, found {values.dtype}")
        self.check_all(np.isfinite(values), values, "finite numbers")
        return values

    def check_shape(self, values: np.ndarray | Tensor) -> None:
        """Refuse values that are not (N, *shape), or empty; raises ``InputError``."""
        if values.shape[1:] != self.shape or not values.ndim:
            expected = f"expected ({', '.join(['N', *map(str, self.shape)])}) for this model"
            hint = ", one sample: add a batch dimension" if values.shape == self.shape else ""
            if len(self.shape) == 3 and values.shape[1:] == (*self.shape[1:], self.shape[0]):
                hint = ", whose channels are last: move them to dimension 1"
            raise InputError(f"{expected}, found {tuple(values.shape)}{hint}")
        if not len(values):
            raise InputError(f"expected 1 or more of the {self.noun}, found none")

    def check_all(self, valid: np.ndarray, values: np.ndarray, expected: str) -> None:
        """Refuse values of which some are not ``valid``; raises ``InputError`` with the first one's position."""
        if not valid.all():
            first = tuple(map(int, np.unravel_index(np.argmin(valid), valid.shape)))
            more = int(valid.size - np.count_nonzero(valid)) - 1
            found = f"{values[first]} at {self.position(first)}" + (f" (and {more} more)" if more else "")
            raise InputError(f"expected {expected}, found {found}")

    def position(self, index: tuple[int, ...]) -> str:
        return str(list(index))

    def read(self, names: Sequence[str]) -> Any:
        """``Samples`` that are given as text (files of images, sentences); raises ``InputError``."""
        raise InputError("expected numbers, found text")

    def collate(self, values: Any) -> Any:
        """Stored values (N, ...), an array or a tensor, as the model takes them."""
        return values

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Input x of the type that a model of ``dtype`` takes."""
        return x.to(dtype) if x.is_floating_point() or self.bits else x

    def check_input(self, x: Tensor, continuous: bool = False) -> None:
        """Refuse x that a model doesn't take, before it is given any; raises ``InputError``."""
        self.check_shape(x)

    def scaled(self, x: Tensor) -> Tensor | None:
        """Preprocessed input on the scale of the networks, None where it has no scale."""
        return x

    def augment(self, x: Tensor, mirrored: Tensor, shifts: Tensor) -> Tensor:
        """A batch x with samples mirrored where ``mirrored`` (B,), and moved by ``shifts`` (B, 2) pixels: of images."""
        raise NotImplementedError

    def amount(self, x: Tensor) -> int:
        """What the losses of batches are weighted by: samples, or tokens."""
        return len(x)

    # Samples of a model

    def to_output(self, values: np.ndarray) -> np.ndarray:
        """Stored values in the form that ``decode`` gives."""
        return self.collate(values)

    @torch.no_grad()
    def decode(self, model: Any, e: Tensor, y: Tensor | None = None, **options: Any) -> np.ndarray:
        """Codes (N, D) to samples (N, ...), as their users know them."""
        parts = (slice(i, i + 64) for i in range(0, len(e), 64))
        return np.concatenate(
            [self.decode_batch(model, e[part], None if y is None else y[part], **options) for part in parts]
        )

    def decode_options(self, **given: Any) -> dict[str, Any]:
        """Options of ``decode`` from settings that are given by name; raises ``InputError`` for those of other data."""
        if given:
            raise InputError(f"expected a model of text, found one of {self.noun}", next(iter(given)))
        return {}

    def decode_batch(self, model: Any, e: Tensor, y: Tensor | None, **options: Any) -> np.ndarray:
        return self.decoded(model, e, y, **options).float().cpu().numpy()

    def decoded(
        self, model: Any, e: Tensor, y: Tensor | None, generator: Any = None, decoder_temperature: float | None = None
    ) -> Tensor:
        """Means of the decoder or, with a generator, draws from it at a temperature (default: the decoder's own)."""
        if generator is None:
            return model.decode(e, y)
        t = model.decoder_temperature if decoder_temperature is None else decoder_temperature
        return model.decode(e, y, t, generator)

    def sample(self, model: Any, n: int, generator: torch.Generator) -> np.ndarray:
        """n samples at the modality's temperature, with labels drawn uniformly, as their users know them."""
        e = self.temperature * model.codes(n, generator)
        return self.decode(model, e, model.draw_labels(n, generator), generator=generator)

    def error(self, data: np.ndarray, reconstructed: np.ndarray) -> str:
        """The error of reconstructions, in words."""
        return f"root mean square error {np.sqrt(((data.astype(float) - reconstructed) ** 2).mean()):.3f}"

    def figures(self, samples: Any, found: dict[str, Any]) -> dict[str, Any]:
        """Figures of this modality only, from those of an evaluation."""
        return {}

    # Files

    def check_out(self, out: Path | None, folder: bool = True, sheet: bool = False) -> None:
        """Refuse a name that ``write`` (``write_sheet``) can't use, before the work is done; raises ``InputError``.

        ``folder`` says whether a folder's name will do, where ``write`` can fill one.
        """
        if sheet and not self.sheet_suffixes:
            raise InputError(f"expected data to look at, as images or sentences, found {self.noun}")
        if out is None:
            raise InputError("expected a name to write to, found none", "out")
        suffixes = self.sheet_suffixes if sheet else self.suffixes
        if out.suffix.lower() not in suffixes:
            names = ", ".join(suffixes[:3]) + (", ..." if len(suffixes) > 3 else "")
            raise InputError(f"{out}: expected a name that ends in {names}, for {self.noun}", "out")
        need_file(out)

    def write(self, values: np.ndarray, out: Path | TextIO, labels: np.ndarray | None = None) -> None:
        """Write what ``decode`` gives, and ``labels`` (N,)."""
        assert isinstance(out, Path)
        write_arrays(out, **{self.array: values}, **({} if labels is None else {"labels": labels}))

    def write_sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | TextIO) -> None:
        """Write rows of samples to look at, with a label for each row."""
        raise NotImplementedError

    def write_comparison(self, samples: dict[str, np.ndarray], out: Path) -> list[str]:
        """Write several models' samples, by name, into the folder ``out``; returns the files' names."""
        return []

    def preview(self, model: Any, test: Any, path: Path) -> None:
        """Write sixteen samples (of a table, many over held-out data) to ``path`` with a suffix to look at."""
        if self.sheet_suffixes:
            samples = self.sample(model, 16, torch.Generator().manual_seed(0))
            self.write(samples, path.with_suffix(self.sheet_suffixes[0]))

    # What a saved model keeps of its data

    @property
    def config(self) -> dict[str, Any]:
        """What config.json has beside the recipe and its settings."""
        return {"labels": list(self.classes)} if self.classes else {}

    def save(self, folder: Path) -> None:
        """Write the files that a saved model needs beside its weights."""

    def load(self, config: dict[str, Any], folder: Path) -> "Modality":
        """This modality with what a saved model keeps; raises ``InputError``."""
        return replace(self, classes=check_document(folder / "config.json", DataConfig, config).labels)

    def check_density(self, samples: Any) -> None:
        """Refuse training data on which a density has no upper limit; raises ``InputError``."""

    # Remarks, a line each

    def notes(self, samples: Any, what: str) -> list[str]:
        """What is unusual about data that a trained model is used on."""
        return []

    def notes_of_training(self, samples: Any, test: Any) -> list[str]:
        """What is unusual about training and held-out data."""
        return []

    def description(self) -> list[str]:
        """What a model takes the data for, a line each, to be shown before training."""
        return []

    def trivial_bound(self, train: Any, test: Any) -> tuple[float, str]:
        """The nats a held-out sample of a trivial model, here a Gaussian of independent values, and its name."""
        x, held_out = (samples.values.reshape(len(samples), -1).astype(float) for samples in (train, test))
        std = np.maximum(x.std(0), np.finfo(np.float32).tiny)
        nats = ((held_out - x.mean(0)) / std) ** 2 / 2 + np.log(std) + math.log(2 * math.pi) / 2
        return float(nats.sum(1).mean()), "a Gaussian of independent values"
