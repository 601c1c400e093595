"""The types of a table's columns, found from its cells."""

import math
from typing import Any, NamedTuple

import numpy as np

from fvae.columns import DAY, Column, Schema, Values
from fvae.data.files import reading
from fvae.errors import InputError

FEW = 32  # distinct values of numbers, up to which none of them is taken for one that repeats
MOST_ATOMS, MOST_LEVELS = 128, 1000
ROWS = 100_000  # that the types and scales of numbers are found from
TELLING = 100  # values that tell whether tails are heavy
EXACT = 2**53  # whole numbers of 64 bits up to this one are exact


class Cells(NamedTuple):
    """The cells of one column (N,): float64 with NaN, or objects, of which None is missing; and what they are."""

    values: np.ndarray
    kind: Values


def arrow_table(frame: Any) -> Any:
    """The Arrow table of a DataFrame, of pandas, Polars or Arrow; raises ``InputError``."""
    import pyarrow

    with reading("a DataFrame"):
        if isinstance(frame, pyarrow.Table):
            return frame
        polars = hasattr(frame, "to_arrow")
        return frame.to_arrow() if polars else pyarrow.Table.from_pandas(frame, preserve_index=False)


def cells_of(table: Any) -> dict[str, Cells]:
    """The columns of an Arrow table as cells, by name; raises ``InputError`` for types that have none."""
    return {name: arrow_cells(name, table.column(name)) for name in table.column_names}


def arrow_cells(name: str, column: Any) -> Cells:
    import pyarrow
    from pyarrow import compute, types

    column = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    kind = column.type
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    with reading(f"values of known types in column {name}"):
        if types.is_boolean(kind) or types.is_null(kind):
            return Cells(np.array(column.to_pylist(), dtype=object), "boolean")
        if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
            texts = compute.utf8_trim_whitespace(column.cast(pyarrow.large_string()))
            values = np.array(texts.to_pylist(), dtype=object)
            values[values == ""] = None
            return Cells(values, "text")
        if types.is_date(kind) or types.is_timestamp(kind):
            unit: Values = "date" if types.is_date(kind) else "time"
            micro = column.cast(pyarrow.timestamp("us"), safe=False).cast(pyarrow.int64())  # of zones: UTC
            return Cells(to_float(name, micro) / 1e6, unit)
        if types.is_decimal(kind) or types.is_floating(kind):
            return Cells(to_float(name, column.cast(pyarrow.float64())), "float")
        if types.is_integer(kind):
            return Cells(to_float(name, column), "integer")
    raise InputError(f"expected numbers, text, dates or true and false in column {name}, found {kind}; leave it out")


def to_float(name: str, column: Any) -> np.ndarray:
    """Numbers as float64, with NaN for those that are missing; raises ``InputError`` for infinite ones."""
    values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise InputError(f"expected finite numbers, found {values[row]} at row {row}, column {name}")
    return values


def number_cells(values: np.ndarray) -> Cells:
    """A column of an array (N,) as cells."""
    return Cells(values.astype(np.float64), "integer" if values.dtype.kind in "iu" else "float")


def schema_of(table: dict[str, Cells]) -> Schema:
    """The schema of columns by name; raises ``InputError`` where none is left to model.

    Left out are identifiers: text of which most values are unique, and whole numbers that count the rows or have more
    than 53 bits.
    """
    columns, left_out = [], {}
    for name, cells in table.items():
        if reason := identifier(name, cells):
            left_out[name] = reason
        else:
            columns.append(detect_column(name, cells))
    if not columns:
        found = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise InputError(f"expected columns to model, found none ({found or 'an empty table'})")
    return Schema(columns=columns, left_out=left_out)


def identifier(name: str, cells: Cells) -> str:
    """Why a column says which row it is, and nothing of it; "" where it doesn't."""
    if cells.kind in ("text", "boolean"):
        known = [value for value in cells.values if value is not None]
        if not known:
            return "no value in any row"
        n = len(set(known))
        unique = n > max(FEW, 0.5 * len(known)) or n > MOST_LEVELS
        return f"text of {n} different values in {len(known)} rows" if unique else ""
    known = cells.values[~np.isnan(cells.values)]
    if not len(known):
        return "no value in any row"
    if cells.kind == "integer" and np.abs(known).max() >= EXACT:
        return "whole numbers of more than 53 bits"
    rising = cells.kind == "integer" and len(known) > FEW and (np.diff(known) > 0).all()
    return "whole numbers that count the rows" if rising and np.ptp(known) < 2 * len(known) else ""


def detect_column(name: str, cells: Cells) -> Column:
    """The type of a column that is no identifier, and what is known of its values."""
    values, kind = cells
    levels: list[Any]
    if kind in ("text", "boolean"):
        known = [value for value in values if value is not None]
        missing = 1 - len(known) / len(values)
        found, counts = np.unique(np.array(known, dtype=object), return_counts=True)
        return categorical(name, kind, found.tolist(), counts, missing)
    known = values[~np.isnan(values)]
    missing = 1 - len(known) / len(values)
    distinct, counts = np.unique(known, return_counts=True)
    if len(distinct) == 1 or (len(distinct) == 2 and kind not in ("date", "time")):
        whole = kind == "float" and (distinct == np.round(distinct)).all()
        levels = [int(v) if whole or kind == "integer" else float(v) for v in distinct]
        return categorical(name, "integer" if whole else kind, levels, counts, missing)
    step = float(DAY) if kind == "date" else 0.0 if kind == "time" else step_of(distinct, len(known))
    shares = counts / len(known)
    repeated = spikes(distinct, counts, step) & (len(distinct) > FEW)
    order = np.sort(np.argsort(-shares * repeated)[: min(MOST_ATOMS, int(repeated.sum()))])
    rest = known[~np.isin(known, distinct[order])]
    rest = known if len(np.unique(rest)) < 2 else rest
    scales = scales_of(rest, step)
    low = float(known.min())
    return Column(
        name=name, type="discrete" if step else "continuous", values=kind, step=step, missing=missing, **scales,
        atoms=on_lattice(distinct[order], low, step).tolist(), shares=rounded(shares[order]),
        low=low, high=float(on_lattice(known.max(), low, step)),
    )  # fmt: skip


def on_lattice(x: Any, low: float, step: float) -> Any:
    """Values that are within a thousandth of a step from a multiple of it above ``low``, as exactly that multiple."""
    if not step:
        return x
    near = low + np.round((x - low) / step) * step
    return np.where(np.abs(x - near) <= 1e-3 * step, near, x)


def spikes(distinct: np.ndarray, counts: np.ndarray, step: float) -> np.ndarray:
    """Which of a number's distinct values have a probability of their own.

    Of continuous numbers those that repeat; of discrete ones those that are three times as frequent as the values up to
    four steps away, as 40 hours a week.
    """
    n = counts.sum()
    if not step:
        return counts >= max(0.01 * n, 3)
    position = np.round((distinct - distinct[0]) / step)
    around = np.zeros(len(distinct))
    for offset in (-4, -3, -2, -1, 1, 2, 3, 4):
        at = np.searchsorted(position, position + offset).clip(max=len(distinct) - 1)
        around += np.where(position[at] == position + offset, counts[at], 0) / 8
    return (counts >= max(0.002 * n, 10)) & (counts > 3 * around)


def categorical(name: str, kind: Values, levels: list[Any], counts: np.ndarray, missing: float) -> Column:
    shares = rounded(counts / counts.sum())
    return Column(name=name, type="categorical", values=kind, levels=levels, shares=shares, missing=missing)


def rounded(shares: np.ndarray) -> list[float]:
    return [round(float(share), 6) for share in shares]


def step_of(distinct: np.ndarray, n: int) -> float:
    """The step of which all values are multiples above the least, 0 for numbers that are not rounded.

    Numbers of which nearly every one differs are continuous, however few digits they have.
    """
    whole = bool((distinct == np.round(distinct)).all())
    if len(distinct) > 0.9 * n and not (whole and np.ptp(distinct) < 100 * n):
        return 0.0
    for decimals in range(7):
        scaled = (distinct - distinct[0]) * 10.0**decimals
        rounding = 4 * np.finfo(float).eps * np.abs(distinct).max() * 10.0**decimals
        if rounding > 0.01 or scaled[-1] >= EXACT:
            return 0.0
        near = np.round(scaled)
        if np.abs(scaled - near).max() <= max(rounding, 1e-9):
            return int(np.gcd.reduce(near.astype(np.int64))) / 10**decimals
    return 0.0


def scales_of(x: np.ndarray, step: float) -> dict[str, Any]:
    """Mean and deviation of numbers or, where those are nearer to a Gaussian, of their asinh about a center."""
    x = x[:: max(1, len(x) // ROWS)]
    options: list[tuple[float, float]] = [(math.nan, 1.0)]
    low, middle, high = np.quantile(x, (0.25, 0.5, 0.75))
    spread = max(high - low, step, 1e-9 * x.std())
    options += [(float(c), float(spread * s)) for c in (middle, x.min()) for s in (0.3, 1.0, 0.03)]

    def fitted(option: tuple[float, float]) -> tuple[float, dict[str, Any]]:
        center, scale = option
        heavy = not math.isnan(center)
        t = np.arcsinh((x - center) / scale) if heavy else x
        log_slope = -0.5 * np.log((x - center) ** 2 + scale**2).mean() if heavy else 0.0
        std = float(t.std()) or 1.0
        found = {"mean": float(t.mean()), "std": std, "heavy": heavy}
        return log_slope - math.log(std), found | ({"center": center, "scale": scale} if heavy else {})

    plain, *warped = [fitted(option) for option in options]
    best = max(warped, key=lambda found: found[0])
    return best[1] if len(x) >= TELLING and best[0] > plain[0] + 0.1 else plain[1]
