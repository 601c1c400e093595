"""Tables of numbers on their own scales, as one float32 array."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from fvae.data.detection import Cells
from fvae.data.modality import DataConfig, Modality
from fvae.data.pictures import save_scatter
from fvae.data.samples import Samples
from fvae.documents import UniqueNames, check_document
from fvae.errors import InputError
from fvae.files import write_csv


class TableConfig(DataConfig):
    """What ``config.json`` keeps of a table."""

    columns: UniqueNames = []


@dataclass(frozen=True)
class Table(Modality):
    """Rows of a table (D,), on their own scales; ``columns`` names the columns, where they have names."""

    columns: Sequence[str] = ()

    noun, suffixes = "rows", (".csv", ".npz")
    standardized = True

    @property
    def size(self) -> str:
        return f"{self.shape[0]} columns"

    @property
    def names(self) -> list[str]:
        return list(self.columns) or default_names(self.shape[0])

    def mismatch(self, other: Modality) -> str:
        if found := super().mismatch(other):
            return found
        assert isinstance(other, Table)
        if default_names(self.shape[0]) in (self.names, other.names):  # columns without names match any
            return ""
        pairs = zip(self.names, other.names, strict=True)
        return next((f"expected column {a}, found {b}" for a, b in pairs if a != b), "")

    def merge_into(self, model: Modality, classes: Sequence[str]) -> Modality:
        return Table(model.shape, classes, self.columns)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Real numbers (N, D) as float32."""
        self.check_shape(values)
        if values.dtype.kind not in "biuf":
            raise InputError(f"expected real numbers, found {values.dtype}")
        with np.errstate(over="ignore"):
            stored = values.astype(np.float32)
        self.check_all(np.isfinite(stored), values, "finite numbers of 32 bits")
        return stored

    def need_columns(self, table: dict[str, Cells]) -> None:
        """Refuse a table without one of the columns; raises ``InputError``."""
        if missing := [name for name in self.names if name not in table]:
            found = ", ".join(list(table)[:10]) or "none"
            raise InputError(f"expected column {missing[0]}, found columns {found}")

    def encode(self, table: dict[str, Cells]) -> np.ndarray:
        """Columns by name, in any order, as float32 (N, D); raises ``InputError`` for those that are no numbers."""
        self.need_columns(table)
        for name in self.names:
            values = table[name].values
            if values.dtype == object or np.isnan(values).any():
                found = "text" if values.dtype == object else f"a gap in row {int(np.isnan(values).argmax())}"
                raise InputError(f"expected a number in every row of column {name}, found {found}")
        return self.to_stored(np.stack([table[name].values for name in self.names], 1))

    def frame(self, values: Any) -> Any:
        """Rows (N, D) as a pandas DataFrame with the columns' names."""
        import pandas

        return pandas.DataFrame(np.asarray(values), columns=self.names)

    def position(self, index: tuple[int, ...]) -> str:
        return f"row {index[0]}, column {self.names[index[1]]}"

    def write(self, values: np.ndarray, out: Path | TextIO, labels: np.ndarray | None = None) -> None:
        """An .npz with ``x`` (and ``labels``), or a .csv under the columns' names (and ``label``, by its name)."""
        assert isinstance(out, Path)
        if out.suffix.lower() == ".npz":
            return super().write(values, out, labels)
        rows = [list(map(str, row)) for row in values]
        if labels is not None:
            rows = [[*row, str(self.classes[k] if self.classes else k)] for row, k in zip(rows, labels, strict=True)]
        write_csv(out, [*self.names, *([] if labels is None else ["label"])], rows)

    def preview(self, model: Any, test: Any, path: Path) -> None:
        """Samples over held-out data, column against column."""
        n, generator = min(1000, len(test)), torch.Generator().manual_seed(0)
        save_scatter(test.spread(n).values, self.sample(model, n, generator), self.names, path.with_suffix(".png"))

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, **({"columns": list(self.columns)} if self.columns else {})}

    def load(self, config: dict[str, Any], folder: Path) -> "Table":
        kept = check_document(folder / "config.json", TableConfig, config)
        if len(kept.columns) not in (0, self.shape[0]):
            found = f"columns: expected {self.shape[0]} names, found {len(kept.columns)}"
            raise InputError(f"{folder}/config.json: {found}")
        return replace(self, classes=kept.labels, columns=kept.columns)

    def check_density(self, samples: Samples) -> None:
        if listed := degenerate_columns(samples):
            advice = "leave them out, add noise as wide as their steps, or set `allow_degenerate` to true"
            raise InputError(f"expected columns that have a density, found {listed}; {advice}")

    def notes(self, samples: Samples, what: str) -> list[str]:
        return list(samples.remarks)

    def notes_of_training(self, samples: Samples, test: Samples) -> list[str]:
        """Remarks, and a warning of columns on which a density has no upper limit."""
        lines = list(samples.remarks)
        if samples.labels is not None:
            lines += ["the column of labels is not part of the table"]
        if listed := degenerate_columns(samples):
            lines += [f"warning: {listed}: no limit to their density, and no meaning of its figures"]
        return lines


def degenerate_columns(samples: Samples) -> str:
    """The columns on which a density has no upper limit, and why, as far as 10,000 rows show; "" below 20 rows."""
    assert isinstance(samples.modality, Table)
    x = np.unique(samples.spread(10_000).values, axis=0).astype(np.float64)
    names, found, n = samples.modality.names, {}, len(x)
    if n < 20:
        return ""
    z = (x - x.mean(0)) / np.maximum(x.std(0), np.finfo(float).tiny)
    unexplained = np.abs(np.diagonal(np.linalg.qr(z, "r"))) / np.sqrt(n) if n > len(names) else np.ones(len(names))
    for name, column, rest in zip(names, x.T, unexplained, strict=True):
        values, counts = np.unique(column, return_counts=True)
        if counts.max() > n / 2:
            found[name] = f"{values[counts.argmax()]:g} in {counts.max() / n:.0%} of the rows"
        elif (column == np.round(column)).all() and np.abs(column).max() < 2**23:  # larger float32 are all whole
            found[name] = "whole numbers"
        elif len(values) <= min(100, n / 2):
            found[name] = f"rounded to {len(values)} values"
        elif rest < 1e-4:
            found[name] = "a copy or a linear combination of columns before it"
    listed = [f"{name} ({why})" for name, why in found.items()]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def default_names(n: int) -> list[str]:
    """The names of n columns without names."""
    return [f"x{j}" for j in range(n)]
