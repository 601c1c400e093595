"""Tables from every form of source, which rows are held out, and every mistake by its message."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import cut, savez
from sources import check_held_out, read, write, write_folder, write_zip

from fvae import fit
from fvae.data import Images, Modality, Samples, Table
from fvae.data.pictures import save_scatter
from fvae.data.samples import held_out
from fvae.data.table import degenerate_columns
from fvae.errors import InputError
from fvae.recipes import RealNVP, realnvp

X = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 3
NAMED = ["a", "b b", "c/c"]
UNNAMED = ["x0", "x1", "x2"]


def text(*columns, header: str = "") -> bytes:
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([header] * bool(header) + lines + [""]).encode()


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
    "csv with numbers as names": (lambda d: write(d / "a.csv", text(*X.T, header="0,1,2")), ["0", "1", "2"], False),
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
    assert rows.labels is None or rows.labels.dtype == np.int64
    assert (rows.labels is not None) == labels and (not labels or np.array_equal(rows.labels, LABELS))


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
        (["b", "c", "a", "b"], [1, 2, 0, 1]),  # others are numbered in their order
        ([0.5, 2.5, 0.5, 1.0], [0, 2, 0, 1]),
        ([-1, 10, -1, 2], [0, 2, 0, 1]),
        ([2**63, 5, 5, 5], [1, 0, 0, 0]),
        (["true", "false", "true", "true"], [1, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("name", ["label", "Labels", "class"])
def test_labels_of_any_kind_are_numbers(labels, expected, name, tmp_path):
    rows = read(write(tmp_path / "a.csv", text(range(4), labels, header=f"a,{name}")))
    assert rows.labels.tolist() == expected and rows.modality.columns == ["a"]


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], ["0", "1", "1", "0"], [1, 1, 1, 1]])
def test_labels_keep_their_meaning(labels, tmp_path):
    """Labels that were numbered by name keep their numbers in a file whose labels would be numbered differently."""
    first = read(write(tmp_path / "a.csv", text(range(4), [-1, 0, 1, 1], header="a,label")))
    assert (first.labels.tolist(), first.modality.classes) == ([0, 1, 2, 2], ["-1", "0", "1"])
    second = read(write(tmp_path / "b.csv", text(range(4), labels, header="a,label")))
    numbered = second.numbered_as(first.modality.classes, "b")
    assert numbered.labels.tolist() == [int(label) + 1 for label in labels]
    with pytest.raises(InputError, match=r"^b: expected the labels u, v, found [01]$"):
        second.numbered_as(["u", "v"], "b")


@pytest.mark.parametrize("form", FORMS)
def test_held_out_rows_are_the_same_every_time(form, tmp_path):
    check_held_out(FORMS[form][0](tmp_path))


def test_rows_stay_held_out_when_others_are_appended(tmp_path):
    few, many = (read(write(tmp_path / "a.csv", text(range(n), header="a"))) for n in (200, 300))
    assert held_out(few.names, 0.2) == {n for n in held_out(many.names, 0.2) if n in few.names}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_part_is_empty(share, tmp_path):
    path = write(tmp_path / "a.csv", text([1, 2], header="a"))
    assert [len(read(path, part, held_out=share)) for part in ("train", "test")] == [1, 1]


def test_one_row_can_be_used_but_not_held_out(tmp_path):
    path = write(tmp_path / "a.csv", b"a,b\n1,2\n")
    assert len(read(path)) == len(read(path, "train")) == 1
    with pytest.raises(InputError, match=r"a.csv: expected 2 different rows or more to hold some out, found 1$"):
        read(path, "test")


def csv(content: bytes):
    return lambda d: write(d / "a.csv", content)


def npz(**arrays):
    return lambda d: savez(d / "a.npz", **arrays)


FLOATS = np.arange(8.0).reshape(4, 2)
MISUSES = {
    "no name": (csv(b"a,,1\n0,0.5,2\n1,0.7,3\n"), "expected a name for each column, found none for column 2"),
    "text column": (
        csv(b"a,kind\n1,x\n2,y\n"),
        "a.csv: expected numbers in column kind, found string; leave it out, call it label, or read",
    ),
    "date column": (csv(b"a,b\n1,2020-01-01\n"), "expected numbers in column b, found date32"),
    "text in a number": (csv(b"a,b\n1,2\n3,x\n"), "expected numbers in column b, found string"),
    "header of no name": (csv(b"1,x\n2,y\n"), "expected numbers in column x, found string"),
    "empty cells": (
        csv(b"a,b\n1,2\n,3\n,4\n"),
        r"every row of column a, found 2 empty \(or NaN, NA, null\), the first in row 1; fill or drop them",
    ),
    "empty column": (csv(b"a,b\n1,\n2,\n"), "expected numbers in column b, found null"),
    "NaN": (csv(b"a,b\n1,2\nnan,3\n"), r"column a, found 1 empty \(or NaN"),
    "NaN in parquet": (
        lambda d: parquet(d / "a.parquet", a=[1.0, 2.0], b=[np.nan, 3.0]),
        r"expected finite numbers of 32 bits, found nan at row 0, column b$",
    ),
    "infinite": (csv(b"a\n1\n-inf\ninf\n"), r"found -inf at row 1, column a \(and 1 more\)"),
    "too large": (csv(b"a\n1\n1e39\n"), r"numbers of 32 bits, found 1e\+39 at row 1, column a"),
    "infinite in npz": (npz(x=[[1, np.inf]]), "found inf at row 0, column x1"),
    "label beyond Python's dates": (
        lambda d: parquet(d / "a.parquet", a=[1.0, 2.0], label=np.array([2**31 - 1, 1]).astype("datetime64[D]")),
        "expected labels that are numbers, text or dates, found none or a broken one",
    ),
    "constant": (csv(b"a,b\n1,2\n1,3\n"), "a.csv: expected columns that vary, found one value only in column a;"),
    "more digits than 32 bits": (
        csv(b"a,t\n1,1763720000\n2,1763720001\n3,1763720002\n"),
        "32 bits resolve, found 1763720000 to 1763720002 in column t; subtract 1763720000 first",
    ),
    "same name": (csv(b"a,b,a\n1,2,3\n"), "expected a name for each .* two columns called a"),
    "no rows": (csv(b"a,b\n"), "a.csv: expected rows of numbers, found none"),
    "no columns": (csv(b"label\n1\n2\n"), "expected columns of numbers, found label"),
    "empty csv": (csv(b""), "a.csv: expected a table, found none or a broken one"),
    "ragged csv": (csv(b"a,b\n1,2\n3\n"), r"expected a table, .* \(.*Expected 2 columns, got 1"),
    "bytes as csv": (csv(bytes(range(256))), "a.csv: expected "),
    "not a gz": (
        lambda d: write_folder(d, {"a.csv.gz": b"no"}) / "a.csv.gz",
        "expected a table, found none or a broken",
    ),
    "cut gz": (lambda d: cut(write(d / "a.csv.gz", LABEL)), "a.csv.gz: expected "),
    "no array in npz": (
        lambda d: write_zip(d / "a.npz", {"x.npy": b"hello"}),
        "expected arrays of NumPy in an .npz, found other bytes",
    ),
    "objects": (npz(x=np.array([[None, 1]])), "expected an .npz, found none or a broken one"),
    "text in npz": (npz(x=np.array([["1", "2"]])), "expected numbers in x, found <U1"),
    "complex": (npz(x=FLOATS * 1j), "expected numbers in x, found complex128"),
    "flat": (npz(x=FLOATS[0]), r"expected numbers x \(N, D\), found shape \(2,\)"),
    "images as x": (npz(x=np.zeros((2, 8, 8))), r"numbers x \(N, D\), found shape \(2, 8, 8\)"),
    "nothing in npz": (npz(x=FLOATS[:0]), r"numbers x \(N, D\), found shape \(0, 2\)"),
    "labels missing": (csv(b"a,label\n1,x\n2,\n3,y\n"), "expected a label in every row, found 1 without"),
    "numbers missing": (csv(b"a,label\n1,0\n2,\n"), "a label in every row, found 1 without"),
    "lists as labels": (
        lambda d: parquet(d / "a.parquet", a=[1, 2], label=[[1], [2]]),
        "numbers or text in label, found list",
    ),
    "few labels": (npz(x=FLOATS, labels=[1, 2]), r"a label for each of 4 rows, found 2"),
    "float labels": (npz(x=FLOATS, y=FLOATS[:, 0]), r"expected integer labels \(N,\), found float64"),
    "folder": (lambda d: (d / "a.csv").mkdir() or d / "a.csv", "expected images, found none in 0 files"),
    "no file": (lambda d: d / "none.csv", "none.csv: no such file or folder"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_one_line_that_says_what_was_expected(name, tmp_path):
    make, message = MISUSES[name]
    with pytest.raises(InputError, match=message) as caught:
        read(make(tmp_path), types="auto" if name == "folder" else "numbers")
    assert str(caught.value).startswith(f"source: {tmp_path}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [("size", 8, "images"), ("split", "train", "images"), ("color", "gray", "images"), ("max_length", 9, "sentences")],
)
def test_settings_of_other_modalities_are_refused(name, value, kind, tmp_path):
    message = f"^{name}: expected no value but for {kind}, found {value} for .*a.csv, which holds rows$"
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "a.csv", NO_LABEL), **{name: value})


@pytest.mark.parametrize("part", ["train", "test", "all", "unseen"])
def test_data_of_another_kind_than_the_models_are_refused(part, tmp_path):
    path = write(tmp_path / "a.csv", NO_LABEL)
    for like in (Table((3,)), Table((3,), columns=NAMED), Modality((3,))):
        assert read(path, part, like).shape == (3,)
    for like, message in (
        (Table((2,)), "rows of 2 columns, found rows of 3 columns"),
        (Table((3,), columns=["a", "b", "c"]), "column b, found b b"),
        (Modality((2,)), "samples of 2, found rows of 3 columns"),
        (Images((1, 8, 8)), "images as the model has, found rows"),
    ):
        with pytest.raises(InputError, match=f"a.csv: expected {message}$"):
            read(path, part, like)


@pytest.mark.parametrize("case", ["plain", "one column", "constant here", "far away", "not finite", "one row"])
def test_a_picture_of_any_rows_is_drawn(case, tmp_path):
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


def mixed_columns() -> dict[str, np.ndarray]:
    """Columns with a density, then those without one, by what is said of them."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500))
    return {
        "a": a,
        "large": 1e30 * b,
        "near": a + 0.01 * rng.normal(size=500),
        "whole numbers": rng.integers(0, 1000, 500),
        "rounded to": np.round(rng.normal(size=500), 1),
        "0 in 6": np.maximum(0, rng.normal(size=500) - 0.3),
        "a copy or a linear combination": 3 - 5 * a + 2 * b,
    }


def test_columns_without_a_density_are_found():
    """A density has no upper limit on rounded and repeated values and on combinations of other columns."""
    columns = mixed_columns()
    x = np.stack(list(columns.values()), 1).astype(np.float32)
    rows = Samples(x, [str(i) for i in range(500)], None, [], Table((7,), columns=list(columns)))
    found = degenerate_columns(rows).split(", ")
    assert len(found) == 4 and all(f.startswith(f"{n} ({n}") for f, n in zip(found, list(columns)[3:], strict=True))
    assert degenerate_columns(rows.take(np.arange(12))) == ""  # too few rows to tell
    (note,) = rows.modality.notes_of_training(rows, rows)
    assert note.startswith("warning: whole numbers (whole numbers), ") and rows.modality.notes(rows, "it") == []


def test_columns_without_a_density_are_trained_on_only_by_request(tmp_path):
    columns = mixed_columns()
    a, b = columns["a"], columns["rounded to"]
    path = write(tmp_path / "a.csv", text(a, b, header="a,b"))
    quick = {"steps": 1, "progress": False}
    for data, name in ((path, "b"), (np.stack([a, b], 1), "x1"), (pd.DataFrame({"a": a, "b": b}), "b")):
        model = realnvp((2,), flow=RealNVP(depth=1, width=4))
        with pytest.raises(
            InputError, match=rf"^data: .* a density, found {name} \(rounded .*`allow_degenerate` to true$"
        ):
            fit(model, data, **quick)
        assert len(fit(model, data, allow_degenerate=True, **quick)) == 1
    with pytest.raises(InputError, match=r"^allow_degenerate: expected no value but for rows, found True for digits"):
        read("digits", allow_degenerate=True)


def test_copies_of_a_row_are_on_one_side(tmp_path):
    """And rows without copies are where they were."""
    once = read(savez(tmp_path / "a.npz", x=X), "test", held_out=0.3)
    path = savez(tmp_path / "a.npz", x=np.concatenate([X] * 9))
    train, test = (read(path, part, held_out=0.3) for part in ("train", "test"))
    assert len(train) + len(test) == 360 and test.names[: len(once)] == once.names
    assert not set(map(bytes, train.values)) & set(map(bytes, test.values))


@pytest.mark.parametrize("labels", [None, np.arange(40) % 2])
def test_what_is_written_is_what_is_read(labels, tmp_path):
    """Under the columns' and the classes' names."""
    table = Table((3,), ["no", "yes"], NAMED)
    for name in ("a.csv", "a.npz"):
        table.check_out(tmp_path / name)
        table.write(X, tmp_path / name, labels)
        rows = read(tmp_path / name)
        np.testing.assert_array_equal(rows.values, X)
        assert rows.labels is None if labels is None else np.array_equal(rows.labels, labels)
    header = b"a,b b,c/c,label\n" if labels is not None else b"a,b b,c/c\n"
    assert (tmp_path / "a.csv").read_bytes().startswith(header)
    with pytest.raises(InputError, match=r"^out: .*a.png: expected a name that ends in .csv, .npz, for rows$"):
        table.check_out(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"^expected data to look at, as images or sentences, found rows$"):
        table.check_out(tmp_path / "a.csv", sheet=True)


def test_a_first_line_of_numbers_is_a_row_which_is_remarked(tmp_path):
    rows = read(write(tmp_path / "years.csv", text(*X.T, header="2019,2020,2021")))
    assert len(rows) == len(X) + 1
    assert rows.remarks == ["years.csv: no names in the first line, which is taken for the first row"]
    assert rows.modality.notes(rows, "") == rows.remarks and not read(write(tmp_path / "a.csv", NO_LABEL)).remarks


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_are_remarked(mark, tmp_path):
    rows = read(write(tmp_path / "a.csv", NO_LABEL.replace(b",", mark.encode())))
    np.testing.assert_array_equal(rows.values, X)
    assert rows.remarks == [f"a.csv: read with {mark!r} between columns"]


def test_decimal_commas_are_remarked(tmp_path):
    rows = read(write(tmp_path / "a.csv", NO_LABEL.replace(b",", b";").replace(b".", b",")))
    np.testing.assert_array_equal(rows.values, X)
    assert rows.remarks[1] == "a.csv: read with a comma as the decimal point"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_index_of_pandas_is_left_out_and_remarked(kind, tmp_path):
    frame, path = pd.DataFrame(COLUMNS, index=np.arange(40) * 3), tmp_path / f"a.{kind}"
    getattr(frame, f"to_{kind}")(path)
    rows = read(path)
    assert rows.modality.columns == NAMED and len(rows.remarks) == 1 and "left out" in rows.remarks[0]
    np.testing.assert_allclose(rows.values, X, rtol=1e-6)
