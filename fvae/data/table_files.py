"""Tables in files, a .csv, a .parquet or an .npz with `x`: numbers as they are, other columns by a schema."""

import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fvae.columns import Schema
from fvae.data.detection import Cells, arrow_table, cells_of, number_cells, schema_of
from fvae.data.files import argument_named, local_path, read_npz, reading
from fvae.data.modality import Modality
from fvae.data.samples import Samples, digests, first_names, numbered, part_of
from fvae.data.table import Table, default_names
from fvae.data.typed_table import TypedTable, read_schema
from fvae.errors import InputError
from fvae.settings import DataSettings

LABELS = ("label", "labels", "class")


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
    """A part of a table's rows, as numbers or by a schema; raises ``InputError`` for a broken table.

    By ``types`` auto it is a table of numbers where a model of numbers can take it: without text, dates and gaps.
    """
    path = local_path(data.source)
    arrays = load_npz(path) if path.name.lower().endswith(".npz") else None
    table, remarks = (None, []) if arrays else read_arrow(path)
    if like is None and data.types != "auto":
        typed = data.types != "numbers"
    else:
        typed = isinstance(like, TypedTable) or (like is None and table is not None and needs_types(table))
    if typed:
        return typed_rows(path, arrays or table, remarks, data, part, like)
    x, labels, columns = arrays or numeric_columns(table)
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(f"expected numbers x (N, D), found shape {x.shape}")
    numbers, classes = numbered_labels(labels, len(x))
    modality = Table(x.shape[1:], classes, columns)
    values = modality.to_stored(x)
    if len(x) > 1 and (part == "train" or like is None):  # rows that a model is used on need not vary
        check_spread(x, values, modality.names)
    unnamed = table is not None and columns == default_names(len(columns))
    remarks += [f"{path.name}: no names in the first line, which is taken for the first row"] if unnamed else []
    rows = Samples(values, row_names(path, len(x)), numbers, modality=modality, remarks=remarks)
    return rows.take(part_of(first_names(rows.names, digests(values)), data.held_out, part, "rows"))


def typed_rows(
    path: Path, source: Any, remarks: list[str], data: DataSettings, part: str, like: Modality | None
) -> Samples:
    """A part of a table's rows by a schema: a model's, a file's, or that of the training rows."""
    arrow = None if isinstance(source, tuple) else source
    kept = like.names if isinstance(like, TypedTable) else ()
    if isinstance(source, tuple):
        x, labels, names = source
        if x.ndim != 2 or 0 in x.shape:
            raise InputError(f"expected numbers x (N, D), found shape {x.shape}")
        cells = {name: number_cells(values) for name, values in zip(names, x.T, strict=True)}
    else:
        source, labels = without_labels(source, kept)
        cells = cells_of(source)
    n = len(next(iter(cells.values())).values)
    numbers, classes = numbered_labels(labels, n)
    names = row_names(path, n)
    chosen = part_of(names, data.held_out, part, "rows")  # of few different rows, none may have all of one outcome
    if isinstance(like, TypedTable):
        schema = like.schema
    elif data.types not in ("auto", "detect"):
        schema = read_schema(local_path(data.types))
    else:
        schema = schema_of({name: Cells(values[chosen], kind) for name, (values, kind) in cells.items()})
    modality = TypedTable.of(schema, classes)
    if extra := [name for name in cells if name not in schema.names and name not in schema.left_out]:
        remarks = [*remarks, f"columns that the model does not have are left out: {', '.join(extra)}"]
    rows = Samples(modality.encode(cells), names, numbers, modality=modality, remarks=remarks, table=arrow)
    return rows.take(chosen)


def detect(data: Any) -> Schema:
    """The types of the columns of a DataFrame, a .csv or a .parquet, which a recipe takes in the place of a shape.

    A column of labels (``label``, ``labels``, ``class``) is no part of it. Raises ``InputError``.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"age": [31, 47, 28, 28], "city": ["Oslo", "Lima", "Oslo", None]})
        >>> fvae.detect(frame).columns
        [Column(age: whole numbers from 28 to 47), Column(city: 2 levels, 25.0% missing)]
        >>> model = fvae.recipes.vae(fvae.detect(frame), coder=fvae.Strided(size=2, width=8))
        >>> model.modality.frame(model.sample(3)).columns.tolist()
        ['age', 'city']
    """
    with argument_named("data"):
        table = read_arrow(local_path(str(data)))[0] if isinstance(data, str | Path) else arrow_table(data)
        labels = [name for name in table.column_names if name.lower() in LABELS][:1]
        found = schema_of(cells_of(table.drop_columns(labels) if labels else table))
        return found.model_copy(update={"left_out": found.left_out | dict.fromkeys(labels, "labels")})


def row_names(path: Path, n: int) -> list[str]:
    return [f"{path.name}[{i}]" for i in range(n)]


def numbered_labels(labels: list[Any] | None, n: int) -> tuple[np.ndarray | None, list[str]]:
    """The labels of n rows as numbers, and their names where they have some; raises ``InputError``."""
    if labels is not None and len(labels) != n:
        raise InputError(f"expected a label for each of {n} rows, found {len(labels)}")
    return (None, []) if labels is None else numbered(labels)


def needs_types(table: Any) -> bool:
    """Whether an Arrow table has columns that are no numbers, or have gaps, apart from that of labels."""
    from pyarrow import types

    if not table.num_rows:
        return False
    columns = [c for name, c in zip(table.column_names, table.columns, strict=True) if name.lower() not in LABELS]
    numbers = (types.is_floating, types.is_integer, types.is_boolean)
    return any(column.null_count or not any(is_kind(column.type) for is_kind in numbers) for column in columns)


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

    names, (table, labels) = table.column_names, without_labels(table)
    columns = table.column_names
    if not columns:
        raise InputError(f"expected columns of numbers, found {', '.join(names) or 'none'}")
    for name in columns:
        kind, empty = table.schema.field(name).type, table.column(name).null_count
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            advice = "leave it out, call it label, or read the table by types and take f_vae or vae"
            raise InputError(f"expected numbers in column {name}, found {kind}; {advice}")
        if empty:
            found = f"{empty} empty (or NaN, NA, null), the first in row {table.column(name).is_null().index(True)}"
            advice = "fill or drop them, or read the table by types and take f_vae or vae"
            raise InputError(f"expected a number in every row of column {name}, found {found}; {advice}")
    return np.stack([table.column(name).to_numpy().astype(np.float64) for name in columns], 1), labels, columns


def without_labels(table: Any, kept: Sequence[str] = ()) -> tuple[Any, list[Any] | None]:
    """An Arrow table without its column called label, and that, unless it is one of those ``kept``.

    Raises ``InputError`` for what no table may have.
    """
    from pyarrow import types

    names = table.column_names
    if not table.num_rows:
        raise InputError("expected rows of numbers, found none")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"expected a name for each column, found two columns called {twice[0]}")
    label = next((name for name in names if name.lower() in LABELS and name not in kept), None)
    if label is None:
        return table, None
    if types.is_nested(table.schema.field(label).type):
        raise InputError(f"expected numbers or text in {label}, found {table.schema.field(label).type}")
    with reading("labels that are numbers, text or dates"):  # Arrow has dates beyond Python's
        labels = table.column(label).to_pylist()
    if missing := sum(v in (None, "") for v in labels):
        raise InputError(f"expected a label in every row, found {missing} without")
    return table.drop_columns([label]), labels


def read_arrow(path: Path) -> tuple[Any, list[str]]:
    """The Arrow table of a .csv, with or without a header, or of a .parquet, and remarks; raises ``InputError``."""
    import pyarrow.parquet

    with reading("a table"):
        if path.name.lower().endswith(".parquet"):
            table = pyarrow.parquet.read_table(path)
            index = (table.schema.pandas_metadata or {}).get("index_columns", [])
            index = [name for name in index if isinstance(name, str) and name in table.column_names]
            remarks = [f"{path.name}: left out {name}, an index of pandas" for name in index]
            return table.drop_columns(index) if index else table, remarks
        return read_csv(path)


def read_csv(path: Path) -> tuple[Any, list[str]]:
    """The Arrow table of a .csv, and what was found out about its form."""
    from pyarrow import csv

    remarks, mark = [], delimiter_of(path)
    parse, convert = csv.ParseOptions(delimiter=mark), csv.ConvertOptions()
    table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    if mark != ",":
        remarks.append(f"{path.name}: read with {mark!r} between columns")
    if mark == ";" and any(map(has_decimal_comma, table.columns)):
        convert = csv.ConvertOptions(decimal_point=",")
        table = csv.read_csv(path, parse_options=parse, convert_options=convert)
        remarks.append(f"{path.name}: read with a comma as the decimal point")
    names = table.column_names
    if any(name != name.strip() for name in names):
        table = table.rename_columns([name.strip() for name in names])
        remarks.append(f"{path.name}: spaces around the columns' names are left out")
        names = table.column_names
    if names and names[0] == "" and counts_rows(table.column(0)):
        table = table.drop_columns([""]) if names.count("") == 1 else table
        remarks.append(f"{path.name}: left out the first column, which has no name and whole numbers that rise")
        names = table.column_names
    if "" in names:
        found = f"none for column {names.index('') + 1}: an index of pandas? write it with index=False"
        raise InputError(f"expected a name for each column, found {found}")
    if all(map(is_number, names)) and names != [str(j) for j in range(len(names))]:  # a file without a header
        options = csv.ReadOptions(autogenerate_column_names=True)
        table = csv.read_csv(path, read_options=options, parse_options=parse, convert_options=convert)
        table = table.rename_columns(default_names(table.num_columns))
    return table, remarks


def delimiter_of(path: Path) -> str:
    """What is between the columns of a .csv: a comma, or what the first line has instead."""
    import pyarrow

    with pyarrow.input_stream(path) as file:
        first = file.read(2**16).decode(errors="replace").partition("\n")[0]
    return "," if "," in first else next((mark for mark in ";\t|" if mark in first), ",")


def has_decimal_comma(column: Any) -> bool:
    """Whether a column of text holds numbers as 1,5."""
    from pyarrow import types

    texts = column.drop_null()[:100].to_pylist() if types.is_string(column.type) else []
    return bool(texts) and all(re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?|[-+]?\d+", text.strip()) for text in texts)


def counts_rows(column: Any) -> bool:
    """Whether a column has whole numbers that rise from row to row."""
    from pyarrow import types

    if not types.is_integer(column.type) or column.null_count:
        return False
    return bool((np.diff(column.to_numpy()) > 0).all())


def is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False
