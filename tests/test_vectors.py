"""Rows of numbers from every form of source, which of them are held out, and every mistake by its message."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import cut, savez

from fvae.data import Images, Modality, Samples, Table, load_data
from fvae.data.pictures import save_scatter
from fvae.data.samples import held_out
from fvae.data.table import discrete
from fvae.errors import UserError
from fvae.settings import DataSettings

X = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 3
NAMES = ["red", "blue", "green"]
NAMED = ["a", "b b", "c/c"]
UNNAMED = ["x0", "x1", "x2"]


def read(source: object, part: str = "all", like: Modality | None = None, **rest) -> Samples:
    return load_data(DataSettings(source=str(source), **rest), part, like)


def text(*columns, header: str = "") -> bytes:
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([header] * bool(header) + lines + [""]).encode()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


NO_LABEL, LABEL = text(*X.T, header="a,b b,c/c"), text(LABELS, *X.T, header="Label,a,b b,c/c")
COLUMNS = dict(zip(NAMED, X.T, strict=True))

# Form: writes X, and says what the columns are called and whether labels come with them.
FORMS = {
    "csv": (lambda d: write(d / "a.csv", NO_LABEL), NAMED, False),
    "csv with labels": (lambda d: write(d / "A.CSV", LABEL), NAMED, True),
    "csv gz": (lambda d: write(d / "a.csv.gz", LABEL), NAMED, True),
    "csv without header": (lambda d: write(d / "a.csv", text(*X.T)), UNNAMED, False),
    "parquet": (lambda d: parquet(d / "a.parquet", **COLUMNS), NAMED, False),
    "parquet with labels": (lambda d: parquet(d / "a.parquet", **COLUMNS, labels=LABELS), NAMED, True),
    "npz": (lambda d: savez(d / "a.npz", x=X), UNNAMED, False),
    "npz with labels": (lambda d: savez(d / "a.npz", x=X.astype(np.float64), labels=LABELS), UNNAMED, True),
    "npz with y": (lambda d: savez(d / "a.npz", x=X, y=LABELS.astype(np.uint8)), UNNAMED, True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_source_holds_the_same_rows(form, tmp_path):
    """Values to float32's last bit, columns by name where they have one, labels as int64."""
    make, columns, labels = FORMS[form]
    rows = read(make(tmp_path))
    assert rows.values.dtype == np.float32 and rows.modality.columns == columns and rows.skipped == []
    np.testing.assert_array_equal(rows.values, X)
    assert (rows.shape, rows.modality.noun, len(rows), len(set(rows.names))) == ((3,), "rows", 40, 40)
    if labels:
        assert rows.labels.dtype == np.int64
        np.testing.assert_array_equal(rows.labels, LABELS)
    else:
        assert rows.labels is None


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, -2, 3], pa.int8()), [1, -2, 3]),
        (pa.array([1, 2, 3], pa.uint64()), [1, 2, 3]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array(np.array([0.5, 1, 2], np.float16)), [0.5, 1, 2]),
        (pa.array([0.1, 1, 2], pa.float64()), np.float32([0.1, 1, 2])),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_columns_of_every_kind_of_number(column, expected, kind, tmp_path):
    if kind == "parquet":
        path = parquet(tmp_path / "a.parquet", a=column)
    elif kind == "npz":
        path = savez(tmp_path / "a.npz", x=column.to_numpy(zero_copy_only=False)[:, None])
    else:
        path = write(tmp_path / "a.csv", text(column.to_pylist(), header="a"))
    np.testing.assert_array_equal(read(path).values[:, 0], expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, 0, 7, 3], [3, 0, 7, 3]),  # whole numbers are what they are
        ([0.0, 10.0, 2.0, 2.0], [0, 10, 2, 2]),
        (["b", "c", "a", "b"], [1, 2, 0, 1]),  # others are counted in their order
        ([0.5, 2.5, 0.5, 1.0], [0, 2, 0, 1]),
        ([-1, 10, -1, 2], [0, 2, 0, 1]),
        (["true", "false", "true", "true"], [1, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("name", ["label", "Labels", "class"])
def test_labels_of_any_kind_are_numbers(labels, expected, name, tmp_path):
    path = write(tmp_path / "a.csv", text(range(4), labels, header=f"a,{name}"))
    rows = read(path)
    assert rows.labels.tolist() == expected and rows.modality.columns == ["a"]


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], ["0", "1", "1", "0"], [1, 1, 1, 1]])
def test_labels_mean_what_they_meant(labels, tmp_path):
    """Labels that had to be counted keep their numbers in a file of which the rest would count differently."""
    first = read(write(tmp_path / "a.csv", text(range(4), [-1, 0, 1, 1], header="a,label")))
    assert (first.labels.tolist(), first.modality.classes) == ([0, 1, 2, 2], ["-1", "0", "1"])
    second = read(write(tmp_path / "b.csv", text(range(4), labels, header="a,label")))
    again = second.numbered_as(first.modality.classes, "b")
    assert again.labels.tolist() == [int(label) + 1 for label in labels]


@pytest.mark.parametrize("form", FORMS)
def test_held_out_is_disjoint_complete_and_the_same_every_time(form, tmp_path):
    source = FORMS[form][0](tmp_path)
    train, test, everything, unseen = (read(source, part, held_out=0.2) for part in ("train", "test", "all", "unseen"))
    assert 1 <= len(test) <= 20 and sorted(train.names + test.names) == sorted(everything.names) == sorted(unseen.names)
    for part, name in ((train, "train"), (test, "test")):
        where = [everything.names.index(n) for n in part.names]
        assert where == sorted(where) and read(source, name, held_out=0.2).names == part.names
        np.testing.assert_array_equal(part.values, everything.values[where])
        assert part.modality.columns == everything.modality.columns
        assert part.labels is None or np.array_equal(part.labels, everything.labels[where])


def test_no_row_changes_sides_when_others_are_appended(tmp_path):
    few, many = (write(tmp_path / "a.csv", text(range(n), header="a")) and read(tmp_path / "a.csv") for n in (200, 300))
    assert held_out(few.names, 0.2) == {n for n in held_out(many.names, 0.2) if n in few.names}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_part_is_empty(share, tmp_path):
    path = write(tmp_path / "a.csv", text([1, 2], header="a"))
    assert [len(read(path, part, held_out=share)) for part in ("train", "test")] == [1, 1]


def test_one_row_can_be_used_but_not_held_out(tmp_path):
    path = write(tmp_path / "a.csv", b"a,b\n1,2\n")
    assert len(read(path)) == len(read(path, "train")) == 1
    with pytest.raises(UserError, match=r"expected 2 rows or more to hold some out for a test, found 1$"):
        read(path, "test")


FLOATS = np.arange(8.0).reshape(4, 2)
MISUSES = {
    "text column": (
        lambda d: write(d / "a.csv", b"a,kind\n1,x\n2,y\n"),
        "a.csv: expected numbers in column kind, found string; leave it out or call it label",
    ),
    "date column": (lambda d: write(d / "a.csv", b"a,b\n1,2020-01-01\n"), "expected numbers in column b, found date32"),
    "text in a number": (
        lambda d: write(d / "a.csv", b"a,b\n1,2\n3,x\n"),
        "expected numbers in column b, found string",
    ),
    "header of no name": (lambda d: write(d / "a.csv", b"1,x\n2,y\n"), "expected numbers in column x, found string"),
    "empty cells": (
        lambda d: write(d / "a.csv", b"a,b\n1,2\n,3\n,4\n"),
        r"column a has 2 empty cells \(or NaN, NA, null\); fill or drop them",
    ),
    "empty column": (lambda d: write(d / "a.csv", b"a,b\n1,\n2,\n"), "expected numbers in column b, found null"),
    "NaN": (lambda d: write(d / "a.csv", b"a,b\n1,2\nnan,3\n"), r"column a has 1 empty cells \(or NaN"),
    "NaN in parquet": (
        lambda d: parquet(d / "a.parquet", a=[1.0, 2.0], b=[np.nan, 3.0]),
        r"expected finite numbers of 32 bits, found nan in row 0, column b \(and 0 more such\)",
    ),
    "infinite": (lambda d: write(d / "a.csv", b"a\n1\n-inf\ninf\n"), r"found -inf in row 1, column a \(and 1 more"),
    "too large": (
        lambda d: write(d / "a.csv", b"a\n1\n1e39\n"),
        r"numbers of 32 bits, found 1e\+39 in row 1, column a",
    ),
    "infinite in npz": (lambda d: savez(d / "a.npz", x=[[1, np.inf]]), "found inf in row 0, column x1"),
    "constant": (
        lambda d: write(d / "a.csv", b"a,b\n1,2\n1,3\n"),
        "a.csv: column a has one value only and no density; leave it out",
    ),
    "more digits than 32 bits": (
        lambda d: write(d / "a.csv", b"a,t\n1,1763720000\n2,1763720001\n3,1763720002\n"),
        "column t runs from 1763720000 to 1763720002, too close for numbers of 32 bits; take 1763720000 away",
    ),
    "same name": (lambda d: write(d / "a.csv", b"a,b,a\n1,2,3\n"), "expected a name for each .* two columns called a"),
    "no rows": (lambda d: write(d / "a.csv", b"a,b\n"), "a.csv: expected rows of numbers, found none"),
    "no columns": (lambda d: write(d / "a.csv", b"label\n1\n2\n"), "expected columns of numbers, found label"),
    "empty csv": (lambda d: write(d / "a.csv", b""), "a.csv: expected a table, found none or a broken one"),
    "ragged csv": (
        lambda d: write(d / "a.csv", b"a,b\n1,2\n3\n"),
        r"expected a table, .* \(.*Expected 2 columns, got 1",
    ),
    "bytes as csv": (lambda d: write(d / "a.csv", bytes(range(256))), "a.csv: expected "),
    "not a gz": (
        lambda d: (d / "a.csv.gz").write_bytes(b"no") and d / "a.csv.gz",
        "expected a table, found none or a b",
    ),
    "cut gz": (lambda d: cut(write(d / "a.csv.gz", LABEL)), "a.csv.gz: expected "),
    "not a parquet": (
        lambda d: write(d / "a.parquet", b"no"),
        "a.parquet: expected a .parquet, found none or a broken",
    ),
    "cut parquet": (
        lambda d: cut(parquet(d / "a.parquet", a=[1, 2])),
        "a.parquet: expected a .parquet, found none or a b",
    ),
    "not an npz": (lambda d: write(d / "a.npz", b"no"), "a.npz: expected an .npz"),
    "cut npz": (lambda d: cut(savez(d / "a.npz", x=FLOATS)), "a.npz: expected an .npz"),
    "other arrays": (
        lambda d: savez(d / "a.npz", z=FLOATS),
        r"expected an array `images` \(or `x`, of rows\), found z",
    ),
    "objects": (lambda d: savez(d / "a.npz", x=np.array([[None, 1]])), "expected an .npz with `x`, found a broken one"),
    "text in npz": (lambda d: savez(d / "a.npz", x=np.array([["1", "2"]])), "expected numbers in x, found <U1"),
    "complex": (lambda d: savez(d / "a.npz", x=FLOATS * 1j), "expected numbers in x, found complex128"),
    "flat": (lambda d: savez(d / "a.npz", x=FLOATS[0]), r"expected rows of numbers x \(N, D\), found shape \(2,\)"),
    "images as x": (lambda d: savez(d / "a.npz", x=np.zeros((2, 8, 8))), r"rows .* \(N, D\), found shape \(2, 8, 8\)"),
    "nothing in npz": (lambda d: savez(d / "a.npz", x=FLOATS[:0]), r"rows .* \(N, D\), found shape \(0, 2\)"),
    "labels missing": (
        lambda d: write(d / "a.csv", b"a,label\n1,x\n2,\n3,y\n"),
        "expected a label in every row, found 1 without",
    ),
    "numbers missing": (lambda d: write(d / "a.csv", b"a,label\n1,0\n2,\n"), "a label in every row, found 1 without"),
    "lists as labels": (
        lambda d: parquet(d / "a.parquet", a=[1, 2], label=[[1], [2]]),
        "numbers or text in label, found",
    ),
    "few labels": (
        lambda d: savez(d / "a.npz", x=FLOATS, labels=[1, 2]),
        r"a label for each of 4 rows, found 2",
    ),
    "float labels": (
        lambda d: savez(d / "a.npz", x=FLOATS, y=FLOATS[:, 0]),
        r"labels of whole numbers \(N,\), found float64",
    ),
    "folder": (lambda d: (d / "a.csv").mkdir() or d / "a.csv", "expected images, found none in 0 files"),
    "no file": (lambda d: d / "none.csv", "none.csv: no such file or folder"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_line_that_says_what_was_expected(name, tmp_path):
    make, message = MISUSES[name]
    with pytest.raises(UserError, match=message) as caught:
        read(make(tmp_path))
    assert str(caught.value).startswith(f"--data {tmp_path}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8}, "--data.size 8: is for images; .*a.csv holds rows of numbers"),
        ({"split": "train"}, "--data.split train: is for images"),
        ({"colour": "grey"}, "--data.colour grey: is for images"),
        ({"held_out": 1.0}, "--data.held_out 1.0: expected a share between 0 and 1, both excluded"),
        ({"held_out": 0.0}, "--data.held_out 0.0: expected a share between 0 and 1"),
    ],
)
def test_settings_of_images_are_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "a.csv", NO_LABEL), **settings)


@pytest.mark.parametrize("part", ["train", "test", "all", "unseen"])
def test_data_of_another_kind_than_the_models_are_refused(part, tmp_path):
    path = write(tmp_path / "a.csv", NO_LABEL)
    assert read(path, part, Table((3,))).shape == (3,)
    for like, found in (
        (Table((2,)), "2 columns as the model has, found 3"),
        (Images((1, 8, 8)), "images .* found rows"),
    ):
        with pytest.raises(UserError, match=f"a.csv: expected {found}"):
            read(path, part, like)
    for rest in ({}, {"size": 8}):
        with pytest.raises(UserError, match=r"--data digits: expected rows as the model has, found images$"):
            read("digits", part, Table((64,)), **rest)


@pytest.mark.parametrize("case", ["plain", "one column", "constant here", "far away", "not finite", "one row"])
def test_picture_of_rows_is_drawn_whatever_they_are(case, tmp_path):
    """Samples over data, column against column, without a warning."""
    data, samples = X.copy(), X[::-1].copy()
    if case == "one column":
        data, samples = data[:, :1], samples[:, :1]
    elif case == "constant here":
        data[:, 1] = 7
    elif case == "far away":
        samples += 1e9
    elif case == "not finite":
        samples[0], samples[1] = np.nan, np.inf
    elif case == "one row":
        data, samples = data[:1], samples[:1]
    save_scatter(data, samples, NAMED, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_columns_of_steps_are_found():
    """Whole numbers and few values are what a density has no limit on; numbers from a continuum are not."""
    rng = np.random.default_rng(0)
    columns = {
        "whole": rng.integers(0, 1000, 500),
        "few": rng.choice([0.5, 1.5, 2.5], 500),
        "large": 1000 * rng.normal(size=500),
        "small": rng.normal(size=500) / 1000,
    }
    values = np.stack(list(columns.values()), 1).astype(np.float32)
    rows = Samples(values, [str(i) for i in range(500)], None, [], Table((4,), columns=list(columns)))
    assert discrete(rows) == ["whole", "few"]
    assert discrete(rows.take(np.arange(12))) == ["whole"]  # too few rows to tell
