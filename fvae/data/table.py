"""Tables: numeric columns of any source as one float32 array: a .csv, an .npz with `x`, a .parquet of numbers."""

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from fvae.data.files import local_path, read_npz, reading
from fvae.data.modality import DataConfig, Modality
from fvae.data.pictures import save_scatter
from fvae.data.samples import Samples, digests, first_names, numbered, part_of
from fvae.documents import UniqueNames, check_document
from fvae.errors import InputError
from fvae.files import write_csv
from fvae.settings import DataSettings

LABELS = ("label", "labels", "class")


class TableConfig(DataConfig):
    """What ``config.json`` keeps of a table."""

    columns: UniqueNames = []


@dataclass(frozen=True)
class Table(Modality):
    """Rows of a table (D,), on their own scales; ``columns`` names the columns, where they have names."""

    columns: Sequence[str] = ()

    noun, suffixes = "rows", (".csv", ".npz")

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


def holds_table(source: str) -> bool:
    """Whether a source is a table, and not images or text."""
    path = local_path(source)
    name = path.name.lower()
    if not os.path.isfile(path):
        return False
    try:
        if name.endswith(".npz"):
            arrays = zipfile.ZipFile(path).namelist()
            return "x.npy" in arrays and "images.npy" not in arrays
        if name.endswith(".parquet"):
            import pyarrow.parquet

            return not any("binary" in str(field.type) for field in pyarrow.parquet.read_schema(path))
    except (OSError, ValueError, zipfile.BadZipFile):  # broken: the reader of images says how
        return False
    return name.endswith((".csv", ".csv.gz"))


def load_table(data: DataSettings, part: str, like: Modality | None) -> Samples:
    """A part of a table's rows; raises ``InputError`` for broken tables and those that are not finite numbers."""
    path = local_path(data.source)
    x, labels, columns = load_npz(path) if path.name.lower().endswith(".npz") else numeric_columns(read_arrow(path))
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"expected numbers x (N, D), found shape {x.shape}")
    if labels is not None and len(labels) != len(x):
        raise InputError(f"expected a label for each of {len(x)} rows, found {len(labels)}")
    numbers, classes = (None, []) if labels is None else numbered(labels)
    table = Table(x.shape[1:], classes, columns)
    values = table.to_stored(x)
    if len(x) > 1 and (part == "train" or like is None):  # rows that a model is used on need not vary
        check_spread(x, values, table.names)
    names = [f"{path.name}[{i}]" for i in range(len(x))]
    unnamed = path.suffix.lower() != ".npz" and columns == default_names(len(columns))
    remarks = [f"{path.name}: no names in the first line, which is taken for the first row"] if unnamed else []
    rows = Samples(values, names, numbers, modality=table, remarks=remarks)
    return rows.take(part_of(first_names(rows.names, digests(values)), data.held_out, part, "rows"))


def check_spread(x: np.ndarray, stored: np.ndarray, columns: list[str]) -> None:
    """Refuse columns that don't vary, or by less than 32 bits resolve; raises ``InputError``."""
    x = x.astype(np.float64)
    rounding, spread = np.abs(stored - x).max(0), x.std(0)
    for name, low, high, lost in zip(columns, x.min(0), x.max(0), rounding > 1e-3 * spread, strict=True):
        if low == high:
            raise InputError(f"expected columns that vary, found one value only in column {name}; leave it out")
        if lost:
            values = f"{low:.15g} to {high:.15g} in column {name}; subtract {low:.15g} first"
            raise InputError(f"expected values that numbers of 32 bits resolve, found {values}")


Columns = tuple[np.ndarray, list[Any] | None, list[str]]


def load_npz(path: Path) -> Columns:
    """The arrays x (N, D) and, where there are, labels (N,) of an .npz."""
    x, labels, y = read_npz(path, "x", "labels", "y")
    assert x is not None
    labels = y if labels is None else labels
    if x.dtype.kind not in "fiub":
        raise InputError(f"expected numbers in x, found {x.dtype}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.ndim != 1):
        raise InputError(f"expected integer labels (N,), found {labels.dtype} {labels.shape}")
    columns = default_names(x.shape[1]) if x.ndim == 2 else []
    return x, None if labels is None else labels.tolist(), columns


def numeric_columns(table: Any) -> Columns:
    """The numeric columns of an Arrow table, and the one called label, if there is one; raises ``InputError``."""
    from pyarrow import types

    names = table.column_names
    if not table.num_rows:
        raise InputError("expected rows of numbers, found none")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"expected a name for each column, found two columns called {twice[0]}")
    label = next((name for name in names if name.lower() in LABELS), None)
    columns = [name for name in names if name != label]
    if not columns:
        raise InputError(f"expected columns of numbers, found {', '.join(names) or 'none'}")
    for name in columns:
        kind, empty = table.schema.field(name).type, table.column(name).null_count
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            raise InputError(f"expected numbers in column {name}, found {kind}; leave it out or call it label")
        if empty:
            found = f"{empty} empty (or NaN, NA, null), the first in row {table.column(name).is_null().index(True)}"
            raise InputError(f"expected a number in every row of column {name}, found {found}; fill or drop them")
    x = np.stack([table.column(name).to_numpy().astype(np.float64) for name in columns], 1)
    if label is None:
        return x, None, columns
    if types.is_nested(table.schema.field(label).type):
        raise InputError(f"expected numbers or text in {label}, found {table.schema.field(label).type}")
    with reading("labels that are numbers, text or dates"):  # Arrow has dates beyond Python's
        labels = table.column(label).to_pylist()
    if missing := sum(v in (None, "") for v in labels):
        raise InputError(f"expected a label in every row, found {missing} without")
    return x, labels, columns


def read_arrow(path: Path) -> Any:
    """The Arrow table of a .csv, with or without a header, or of a .parquet; raises ``InputError``."""
    import pyarrow.csv
    import pyarrow.parquet

    with reading("a table"):
        if path.name.lower().endswith(".parquet"):
            return pyarrow.parquet.read_table(path)
        table = pyarrow.csv.read_csv(path)
        names = table.column_names
        if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), "")):
            raise InputError(f"expected commas between columns, found {mark!r} in the first line")
        if "" in names:
            found = f"none for column {names.index('') + 1}: an index of pandas? write it with index=False"
            raise InputError(f"expected a name for each column, found {found}")
        if all(map(is_number, names)) and names != [str(j) for j in range(len(names))]:  # a file without a header
            options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
            table = pyarrow.csv.read_csv(path, read_options=options)
            table = table.rename_columns(default_names(table.num_columns))
        return table


def default_names(n: int) -> list[str]:
    """The names of n columns without names."""
    return [f"x{j}" for j in range(n)]


def is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False
