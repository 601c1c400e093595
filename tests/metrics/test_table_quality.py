"""Figures of drawn tables: what they are of rows that are alike, of copies, and of rows that differ."""

import numpy as np
import pandas as pd
import pytest

import fvae
from fvae.data import TypedTable
from fvae.metrics.tables import table_quality


def rows(n: int, seed: int, shift: float = 0.0, tied: bool = True) -> pd.DataFrame:
    r = np.random.default_rng(seed)
    group = r.integers(0, 3, n)
    other = group if tied else r.integers(0, 3, n)
    x = np.where(r.random(n) < 0.1, np.nan, r.normal(2 * group + shift, 1))
    return pd.DataFrame({"x": x, "y": r.normal(0, 1, n), "group": np.array(list("abc"))[other]})


TABLE = TypedTable.of(fvae.detect(rows(1000, 0)))
TRAIN, HELD_OUT = (TABLE.rows(rows(1000, seed)).numpy() for seed in (1, 2))


def quality(drawn: np.ndarray):
    return table_quality(TABLE.schema, drawn, TRAIN, HELD_OUT, "group")


def test_rows_of_the_same_distribution():
    found = quality(TABLE.rows(rows(1000, 3)).numpy())
    assert found.failure_to_tell > 0.85 and max(found.marginals.values()) < 0.15 and found.pairs < 0.3
    assert found.closest_share == pytest.approx(0.5, abs=0.06)
    assert found.accuracy_of_drawn == pytest.approx(found.accuracy_of_real, abs=0.05) and found.accuracy_of_drawn > 0.6


def test_copies_of_training_rows_are_seen():
    assert quality(TRAIN).closest_share > 0.95


def test_a_column_that_differs_is_named():
    found = quality(TABLE.rows(rows(1000, 3, shift=2.0)).numpy())
    assert max(found.marginals, key=found.marginals.__getitem__) == "x" and found.failure_to_tell < 0.6


def test_columns_that_do_not_depend_on_each_other_are_seen():
    found = quality(TABLE.rows(rows(1000, 3, tied=False)).numpy())
    assert max(found.marginals.values()) < 0.15 and found.failure_to_tell < 0.8
    assert found.accuracy_of_drawn < found.accuracy_of_real - 0.15


def test_a_table_of_one_column():
    table = TypedTable.of(fvae.detect(rows(200, 0)[["y"]]))
    parts = [table.rows(rows(200, seed)[["y"]]).numpy() for seed in range(3)]
    assert table_quality(table.schema, *parts).pairs == 0
