"""Tables whose columns have types: read by name, encoded by their schema, and written back as they came."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from fvae.columns import Column, Schema
from fvae.data.detection import Cells, arrow_table, cells_of, on_lattice
from fvae.data.files import argument_named
from fvae.data.modality import Modality
from fvae.data.samples import Samples
from fvae.data.table import Table
from fvae.documents import JSON, read_document
from fvae.errors import InputError
from fvae.files import write_csv, write_text

SCHEMA_FILE = "schema.json"
EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class TypedTable(Table):
    """Rows (C,) of cells as ``fvae.columns`` has them, of 64 bits, with the ``schema`` that says what they are."""

    schema: Schema = field(kw_only=True)

    copies_together = False  # of few different rows, training would have none of one outcome
    standardized = False  # by the schema

    @classmethod
    def of(cls, schema: Schema, classes: Sequence[str] = ()) -> "TypedTable":
        return cls((len(schema),), classes, schema.names, schema=schema)

    @property
    def recipe_shape(self) -> Any:
        return self.schema

    def mismatch(self, other: Modality) -> str:
        if not isinstance(other, TypedTable):
            return f"expected a table with the columns' types, found {other.noun} without"
        return "" if other.names == self.names else super().mismatch(other)

    def merge_into(self, model: Modality, classes: Sequence[str]) -> Modality:
        return replace(model, classes=classes)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Cells (N, C) as float64."""
        self.check_shape(values)
        if values.dtype.kind not in "biuf":
            raise InputError(f"expected cells as numbers, found {values.dtype}")
        stored = values.astype(np.float64)
        self.check_cells(stored)
        return stored

    def check_cells(self, cells: np.ndarray) -> None:
        """Refuse infinite cells, and those of categories that are no index of a level; raises ``InputError``."""
        self.check_all(~np.isinf(cells), cells, "finite numbers, or NaN where a cell is missing")
        for i in self.schema.of_type("categorical"):
            known, n = cells[:, i], len(self.schema.columns[i].levels)
            valid = np.isnan(known) | ((known >= 0) & (known <= n) & (known == np.round(known)))
            if not valid.all():
                row = int(np.argmin(valid))
                expected = f"the index of a level, 0 to {n - 1}, {n} for another, or NaN"
                raise InputError(f"expected {expected}, found {known[row]:g} at {self.position((row, i))}")

    def check_input(self, x: Tensor, continuous: bool = False) -> None:
        super().check_input(x)
        self.check_cells(x.cpu().double().numpy())

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Cells of 64 bits, whatever the model's type: a time stamp has more digits than 32 bits hold."""
        return x.double()

    def scaled(self, x: Tensor) -> Tensor | None:
        return None

    def encode(self, table: dict[str, Cells]) -> np.ndarray:
        """Columns by name, in any order, as cells (N, C); raises ``InputError`` for missing columns and wrong types."""
        self.need_columns(table)
        return np.stack([encode_column(column, table[column.name]) for column in self.schema.columns], 1)

    def rows(self, frame: Any) -> Tensor:
        """The columns of a DataFrame, by name, as cells (N, C) that a model takes; raises ``InputError``."""
        return torch.from_numpy(self.encode(cells_of(arrow_table(frame))))

    def row(self, given: dict[str, Any]) -> Tensor:
        """One row of these cells by their columns' names, (1, C), in which all others are missing.

        Numbers, dates and levels may be text. Raises ``InputError`` for other columns, and for levels unknown.
        """
        cells = np.full((1, len(self.names)), np.nan)
        for name, value in given.items():
            if name not in self.names:
                raise InputError(f"{name}: no such column; the columns are {', '.join(self.names[:20])}", "given")
            i = self.names.index(name)
            with argument_named("given"):
                cells[0, i] = cell_of(self.schema.columns[i], value)
        return torch.from_numpy(cells)

    # Samples of a model

    def decode_batch(self, model: Any, e: Tensor, y: Tensor | None, **options: Any) -> np.ndarray:
        return self.decoded(model, e, y, **options).double().cpu().numpy()

    def cells(self, values: np.ndarray) -> list[list[Any]]:
        """Cells (N, C) as Python values, a list for each column; None where one is missing."""
        return [decode_column(column, values[:, i]) for i, column in enumerate(self.schema.columns)]

    def frame(self, values: np.ndarray | Tensor) -> Any:
        """Cells (N, C), as a model gives them, as a pandas DataFrame with the columns' names and types."""
        import pandas

        return pandas.DataFrame(dict(zip(self.names, self.cells(np.asarray(values)), strict=True)))

    def filled(self, columns: dict[str, list[Any]], cells: np.ndarray, drawn: np.ndarray) -> dict[str, list[Any]]:
        """Columns of a table, by name, with what is missing in ``cells`` (N, C) as it is drawn; all else as it is."""
        found = dict(columns)
        for name, values, gaps in zip(self.names, self.cells(drawn), np.isnan(cells).T, strict=True):
            if gaps.any():
                found[name] = [new if gap else old for new, old, gap in zip(values, found[name], gaps, strict=True)]
        return found

    def error(self, data: np.ndarray, reconstructed: np.ndarray) -> str:
        """The error of reconstructions, in words."""
        levels = self.schema.of_type("categorical")
        numbers = self.schema.of_type("continuous", "discrete")
        texts = []
        if numbers:
            std = np.nanstd(data[:, numbers], 0)
            found = (data[:, numbers] - reconstructed[:, numbers]) / np.where(std > 0, std, 1)
            texts.append(f"root mean square error {np.sqrt(np.nanmean(found**2)):.3f} deviations")
        if levels:
            known = ~np.isnan(data[:, levels])
            texts.append(f"{(data[:, levels] != reconstructed[:, levels])[known].mean():.1%} of the levels differ")
        return ", ".join(texts)

    def write(self, values: np.ndarray, out: Path | TextIO, labels: np.ndarray | None = None) -> None:
        """A .csv of the columns as they came (and ``label``), or an .npz with the cells ``x``."""
        assert isinstance(out, Path)
        if out.suffix.lower() == ".npz":
            return Modality.write(self, values, out, labels)
        columns, names = self.cells(values), list(self.names)
        if labels is not None:
            columns.append([self.classes[k] if self.classes else k for k in labels])
            names.append("label")
        write_csv(out, names, [["" if v is None else str(v) for v in row] for row in zip(*columns, strict=True)])

    def preview(self, model: Any, test: Any, path: Path) -> None:
        n, generator = min(1000, len(test)), torch.Generator().manual_seed(0)
        self.write(self.sample(model, n, generator), path.with_suffix(".csv"))

    # What a saved model keeps of its data

    def save(self, folder: Path) -> None:
        write_text(folder / SCHEMA_FILE, json.dumps(self.schema.model_dump(), indent=1) + "\n")

    def check_density(self, samples: Samples) -> None:
        """Nothing is refused: of rounded and repeated values the densities are probabilities."""

    def notes_of_training(self, samples: Samples, test: Samples) -> list[str]:
        lines = list(samples.remarks)
        if samples.labels is not None:
            lines += ["the column of labels is not part of the table"]
        return lines

    def description(self) -> list[str]:
        """The type of each column, and those that are left out."""
        found = [f"column {column.name}: {column.description}" for column in self.schema.columns]
        return found + [f"column {name}: left out, {why}" for name, why in self.schema.left_out.items()]

    def trivial_bound(self, train: Samples, test: Samples) -> tuple[float, str]:
        """Of independent columns: Gaussians of the standardized numbers, and shares of levels and atoms."""
        columns = zip(self.schema.columns, test.values.T, strict=True)
        return float(sum(trivial_nats(column, cells) for column, cells in columns)), "independent columns"


def read_schema(path: Path) -> Schema:
    """The schema in a file; raises ``InputError``."""
    return read_document(path, Schema, JSON)


def encode_column(column: Column, cells: Cells) -> np.ndarray:
    """The cells (N,) of a column as numbers; raises ``InputError`` for those of another type."""
    text = cells.values.dtype == object
    if column.categorical:
        as_text = column.values == "text"
        known = {level_key(level, as_text): i for i, level in enumerate(column.levels)}
        blank = [v is None for v in cells.values] if text else np.isnan(cells.values)
        pairs = zip(cells.values, blank, strict=True)
        return np.array([np.nan if b else known.get(level_key(v, as_text), len(known)) for v, b in pairs])
    if text and any(v is not None for v in cells.values):
        row = next(i for i, v in enumerate(cells.values) if v is not None)
        raise InputError(f"expected numbers in column {column.name}, found {cells.values[row]!r:.40} in row {row}")
    return np.full(len(cells.values), np.nan) if text else on_lattice(cells.values, column.low, column.step)


def cell_of(column: Column, value: Any) -> float:
    """A value, which may be text, as a cell; raises ``InputError``."""
    if column.categorical:
        levels = list(map(column.shown, column.levels))
        if str(value) in levels:
            return float(levels.index(str(value)))
        known = ", ".join(levels[:10]) + (", ..." if len(levels) > 10 else "")
        raise InputError(f"{column.name}: expected one of {known}, found {value}")
    try:
        if column.values in ("date", "time"):
            moment = datetime.datetime.fromisoformat(str(value))
            zoned = moment.astimezone(datetime.UTC) if moment.tzinfo else moment
            number = (zoned.replace(tzinfo=None) - EPOCH).total_seconds()
        else:
            number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        kind = {"date": "a date, as 2024-05-31", "time": "a time, as 2024-05-31 12:00"}.get(column.values, "a number")
        raise InputError(f"{column.name}: expected {kind}, found {value}")
    if column.step and abs((steps := (number - column.low) / column.step) - round(steps)) > 1e-3:
        unit = "day" if column.values == "date" else f"{column.step:g}"
        raise InputError(
            f"{column.name}: expected {column.shown(column.low)} and steps of {unit} from there, found {value}"
        )
    return float(on_lattice(number, column.low, column.step))


def level_key(level: Any, as_text: bool = False) -> Any:
    """What levels are compared by: numbers by value, and text, which a file of digits alone may hold as numbers."""
    if as_text and isinstance(level, float) and level == round(level):
        level = round(level)
    return str(level) if as_text or isinstance(level, str) else float(level)


def decode_column(column: Column, cells: np.ndarray) -> list[Any]:
    """The cells (N,) of a column as Python values, None where one is missing or of a level unknown."""
    if column.categorical:
        dates = column.values in ("date", "time")
        levels = [*(to_python(column, float(level)) if dates else level for level in column.levels), None]
        return [None if np.isnan(v) else levels[int(v)] for v in cells]
    return [None if np.isnan(v) else to_python(column, float(v)) for v in cells]


def to_python(column: Column, value: float) -> Any:
    if column.values in ("date", "time"):
        moment = EPOCH + datetime.timedelta(seconds=value)
        return moment.date() if column.values == "date" else moment
    if column.values == "integer" or (column.step and column.step == round(column.step) and column.low % 1 == 0):
        return round(value)
    return float(f"{value:.{12 if column.step else column.digits}g}")


def trivial_nats(column: Column, x: np.ndarray) -> float:
    """The mean of -log p of cells (N,) by the schema alone, of which missing ones cost nothing."""
    log_shares = np.log(np.maximum([*column.shares, 1e-4], 1e-4))
    if column.categorical:
        return float(-np.where(np.isnan(x), 0, log_shares[np.nan_to_num(x).astype(int)]).mean())
    heavy, offset = column.heavy, x - column.center
    t = np.arcsinh(offset / column.scale) if heavy else x
    nats = ((t - column.mean) / column.std) ** 2 / 2 + np.log(column.std * np.sqrt(2 * np.pi))
    nats += 0.5 * np.log(offset**2 + column.scale**2) if heavy else 0
    nats -= np.log(column.step) if column.step else 0
    nats -= np.log(max(1 - sum(column.shares), 1e-4))
    for atom, log_share in zip(column.atoms, log_shares, strict=False):
        nats = np.where(x == atom, -log_share, nats)
    return float(np.where(np.isnan(x), 0, nats).mean())
