"""Tables: rows of numbers of any source as one float32 array: a .csv, an .npz with `x`, a .parquet of numbers."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvae.data.decode import reason
from fvae.data.modality import Modality
from fvae.data.pictures import save_scatter
from fvae.data.samples import Samples, check_no_images, check_share, held_out, numbered
from fvae.errors import UserError
from fvae.files import need_file, write_arrays, write_csv
from fvae.settings import DataSettings

LABELS = ("label", "labels", "class")


@dataclass(frozen=True)
class Table(Modality):
    """Rows of numbers (D,), on their own scales; ``columns`` names them, as far as that is known."""

    columns: Sequence[str] = ()

    noun = ends = "rows"

    @property
    def size(self) -> str:
        return f"{self.shape[0]} columns"

    @property
    def names(self) -> list[str]:
        return list(self.columns) or nameless(self.shape[0])

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, **({"columns": list(self.columns)} if self.columns else {})}

    def restored(self, config: dict[str, Any], folder: Path) -> "Table":
        return replace(self, classes=config.get("labels", ()), columns=config.get("columns", ()))

    def same(self, other: Modality) -> str:
        if found := super().same(other):
            return found
        assert isinstance(other, Table)
        if nameless(self.shape[0]) in (self.names, other.names):  # columns without names may be any
            return ""
        pairs = zip(self.names, other.names, strict=True)
        return next((f"expected column {a}, found {b}" for a, b in pairs if a != b), "")

    def kept_by(self, model: Modality, classes: Sequence[str]) -> Modality:
        return Table(model.shape, classes, self.columns)

    def check_out(self, out: Path | None, folder: bool = True) -> None:
        super().check_out(out)
        assert out is not None
        if out.suffix.lower() not in (".csv", ".npz"):
            raise UserError(f"--out {out}: expected a name that ends in .csv or .npz, for rows of numbers")
        need_file("--out", out)

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        """An .npz with ``x`` (and ``labels``), or a .csv under the columns' names (and ``label``, by its name)."""
        assert out is not None
        if out.suffix.lower() == ".npz":
            return write_arrays(out, x=values, **({} if labels is None else {"labels": labels}))
        named = [] if labels is None else [[self.classes[k] if self.classes else k] for k in labels]
        rows = ([*map(str, row), *label] for row, label in zip(values, named or [[]] * len(values), strict=True))
        write_csv(out, [*self.names, *["label"] * bool(named)], rows)

    def preview(self, model: Any, test: Samples, path: Path) -> None:
        """Samples over held-out data, column against column."""
        n, generator = min(1000, len(test)), torch.Generator().manual_seed(0)
        y = model.draw_labels(n, generator)
        x = model.sample(n, y, self.temperature, generator).cpu().numpy()
        save_scatter(test.spread(n).values, x, self.names, path.with_suffix(".png"))

    def notes(self, samples: Samples, what: str) -> list[str]:
        """Warn of columns on which a density has no upper limit."""
        columns = discrete(samples)
        if not columns:
            return []
        names = ", ".join(columns[:5]) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
        reason = "whole numbers, or few values, on which a density grows without end"
        return [f"warning: {names}: {reason}; add noise as wide as their steps to have figures that mean something"]


def holds_vectors(source: str) -> bool:
    """Whether a source is a table of numbers, and not images or text."""
    path = Path(os.path.expanduser(source))
    name = path.name.lower()
    if not path.is_file():
        return False
    try:
        if name.endswith(".npz"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return "x" in arrays and "images" not in arrays
        if name.endswith(".parquet"):
            import pyarrow.parquet as parquet

            return not any("binary" in str(field.type) for field in parquet.read_schema(path))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # broken: the reader of images says how
        return False
    return name.endswith((".csv", ".csv.gz"))


def load_table(data: DataSettings, part: str = "train", like: Modality | None = None) -> Samples:
    """The "train", "test" or "all" rows of a source; "unseen" is all.

    Raises ``UserError`` for a source that is broken or holds no finite numbers, and for rows of other lengths.
    """
    where = f"--data {data.source}"
    check_share(data.held_out)
    check_no_images(data, "rows of numbers")
    rows = read_rows(Path(os.path.expanduser(data.source)), where)
    if like and rows.shape != like.shape:
        raise UserError(f"{where}: expected {like.size} as the model has, found {rows.modality.size}")
    if part in ("all", "unseen"):
        return rows
    if len(rows) == 1 and part == "test":
        raise UserError(f"{where}: expected 2 rows or more to hold some out for a test, found 1")
    out = held_out(rows.names, data.held_out)
    return rows.take(np.array([i for i, name in enumerate(rows.names) if (name in out) == (part == "test")], dtype=int))


def read_rows(path: Path, where: str) -> Samples:
    """All rows of a file; raises ``UserError``."""
    x, given, columns = (read_npz if path.name.lower().endswith(".npz") else read_table)(path, where)
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(f"{where}: expected rows of numbers x (N, D), found shape {x.shape}")
    if given is not None and len(given) != len(x):
        raise UserError(f"{where}: expected a label for each of {len(x)} rows, found {len(given)}")
    labels, classes = (None, []) if given is None else numbered(given)
    with np.errstate(over="ignore"):
        values = x.astype(np.float32)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        i, j = bad[0]
        found = f"{x[i, j]} in row {i}, column {columns[j]}"
        raise UserError(f"{where}: expected finite numbers of 32 bits, found {found} (and {len(bad) - 1} more such)")
    if len(x) > 1:
        check_spread(x.astype(np.float64), values, columns, where)
    modality = Table(values.shape[1:], classes, columns)
    return Samples(values, [f"{path.name}[{i}]" for i in range(len(x))], labels, [], modality)


def check_spread(x: np.ndarray, values: np.ndarray, columns: list[str], where: str) -> None:
    """Refuse columns that don't vary, or by less than 32 bits can tell; raises ``UserError``."""
    rounding, spread = np.abs(values - x).max(0), x.std(0)
    for name, low, high, lost in zip(columns, x.min(0), x.max(0), rounding > 1e-3 * spread, strict=True):
        if low == high:
            raise UserError(f"{where}: column {name} has one value only and no density; leave it out")
        if lost:
            raise UserError(
                f"{where}: column {name} runs from {low:.15g} to {high:.15g}, too close for numbers of 32 bits; "
                f"take {low:.15g} away from it first"
            )


def discrete(rows: Samples) -> list[str]:
    """The columns of whole numbers or of few values, whose density has no upper limit."""
    return [
        name
        for name, column in zip(rows.modality.names, rows.values.T, strict=True)  # type: ignore[attr-defined]
        if (column == np.round(column)).all() or len(np.unique(column)) < min(20, len(column) / 10)
    ]


Read = tuple[np.ndarray, list[Any] | None, list[str]]


def read_npz(path: Path, where: str) -> Read:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, labels = arrays["x"], arrays.get("labels", arrays.get("y"))
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, KeyError) as error:
        raise UserError(f"{where}: expected an .npz with `x`, found a broken one ({reason(error)})") from None
    if x.dtype.kind not in "fiub":
        raise UserError(f"{where}: expected numbers in x, found {x.dtype}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.ndim != 1):
        raise UserError(f"{where}: expected labels of whole numbers (N,), found {labels.dtype} {labels.shape}")
    columns = nameless(x.shape[1]) if x.ndim == 2 else []
    return x, None if labels is None else labels.tolist(), columns


def read_table(path: Path, where: str) -> Read:
    """The columns of numbers of a .csv or .parquet, and the one called label, if there is one."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.name.lower().endswith(".parquet"):
            table = pyarrow.parquet.read_table(path)
        else:
            table = pyarrow.csv.read_csv(path)
            if all(map(is_number, table.column_names)):  # a file without a header
                options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
                table = pyarrow.csv.read_csv(path, read_options=options)
                table = table.rename_columns(nameless(table.num_columns))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where}: expected a table, found none or a broken one ({reason(error)})") from None
    if not table.num_rows:
        raise UserError(f"{where}: expected rows of numbers, found none")
    twice = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: expected a name for each column, found two columns called {twice}")
    label = next((name for name in table.column_names if name.lower() in LABELS), None)
    columns = [name for name in table.column_names if name != label]
    for name in columns:
        kind = table.schema.field(name).type
        if not (pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind)):
            raise UserError(f"{where}: expected numbers in column {name}, found {kind}; leave it out or call it label")
        if table.column(name).null_count:
            found = f"{table.column(name).null_count} empty cells (or NaN, NA, null)"
            raise UserError(f"{where}: column {name} has {found}; fill or drop them")
    if label is not None and pyarrow.types.is_nested(table.schema.field(label).type):
        raise UserError(f"{where}: expected numbers or text in {label}, found {table.schema.field(label).type}")
    if not columns:
        raise UserError(f"{where}: expected columns of numbers, found {', '.join(table.column_names) or 'none'}")
    x = np.stack([table.column(name).to_numpy().astype(np.float64) for name in columns], 1)
    labels = None if label is None else table.column(label).to_pylist()
    if missing := sum(v in (None, "") for v in labels or []):
        raise UserError(f"{where}: expected a label in every row, found {missing} without")
    return x, labels, columns


def nameless(n: int) -> list[str]:
    """What n columns without names are called."""
    return [f"x{j}" for j in range(n)]


def is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False
