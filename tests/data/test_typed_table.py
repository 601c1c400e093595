"""Tables of several types: what is detected, and that cells come back as they came."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest
from sources import read, write

import fvae
from fvae.data import TypedTable
from fvae.data.typed_table import level_key
from fvae.errors import InputError

N = 400
R = np.random.default_rng(0)
TIMES = [datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=float(s)) for s in R.gamma(2, 1e6, N)]
DAYS = [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(d)) for d in R.integers(0, 900, N)]
COLUMNS = {  # name: cells, and what the schema says of them
    "weight": (R.normal(70, 9, N), "continuous"),
    "count": (R.poisson(20, N), r"whole numbers from \d+ to \d+"),
    "quarter": (R.integers(0, 60, N) / 4, r"numbers from 0 to 14.75 in steps of 0.25"),
    "income": (np.exp(R.normal(8, 1.5, N)), "continuous, heavy-tailed"),
    "rain": (np.where(R.random(N) < 0.6, 0.0, R.gamma(2, 3, N)), r"continuous.*, 0 in \d\d%"),
    "city": (R.choice(["Oslo", "Lima", "Rome"], N), "3 levels"),
    "flag": (R.random(N) < 0.3, "2 levels"),
    "zero one": (R.integers(0, 2, N), "2 levels"),
    "day": (DAYS, "dates from .*"),
    "time": (
        [datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=float(s)) for s in R.gamma(2, 1e6, N)],
        "cont",
    ),
    "same": (["x"] * N, "constant, x"),
    "gaps": (np.where(R.random(N) < 0.2, np.nan, R.normal(size=N)), r"continuous, \d\d\.\d% missing"),
    "text gaps": (R.choice(np.array(["a", "b", None], dtype=object), N), r"2 levels, 3\d\.\d% missing"),
}
IDENTIFIERS = {
    "name": ([f"person {i}" for i in range(N)], "text of 400 different values"),
    "row": (np.arange(N) + 7, "count the rows"),
    "key": (R.integers(2**60, 2**62, N), "more than 53 bits"),
    "empty": ([None] * N, "no value in any row"),
}
FRAME = pd.DataFrame({name: cells for name, (cells, _) in (COLUMNS | IDENTIFIERS).items()})
SCHEMA = fvae.detect(FRAME)


def column(name: str) -> fvae.Column:
    return SCHEMA.columns[SCHEMA.names.index(name)]


@pytest.mark.parametrize("name", COLUMNS)
def test_types_are_detected(name):
    assert pytest.importorskip("re").match(COLUMNS[name][1], column(name).description)


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_identifiers_are_left_out_and_said(name):
    assert name not in SCHEMA.names and IDENTIFIERS[name][1] in SCHEMA.left_out[name]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_has_the_types_of_the_data_frame(kind, tmp_path):
    """And its cells, which come back with their names, types and gaps."""
    path = tmp_path / f"a.{kind}"
    FRAME.to_csv(path, index=False) if kind == "csv" else FRAME.to_parquet(path)
    rows = read(path, "all")
    assert isinstance(rows.modality, TypedTable) and rows.values.dtype == np.float64
    assert [c.model_copy(update={"values": "x"}) for c in rows.modality.schema.columns] == [
        c.model_copy(update={"values": "x"}) for c in SCHEMA.columns
    ]
    back = rows.modality.frame(rows.values)
    assert list(back.columns) == list(COLUMNS)
    for name in COLUMNS:
        ours, theirs = back[name], FRAME[name]
        assert (ours.isna() == theirs.isna()).all(), name
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(ours.astype(float), theirs, rtol=1e-7)
        else:
            same = ours.dropna().astype(str).str.slice(0, 19) == theirs.dropna().astype(str).str.slice(0, 19)
            assert same.all(), (name, ours[:3], theirs[:3])
    rows.modality.write(rows.values, tmp_path / "b.csv")
    again = read(tmp_path / "b.csv", "all", like=rows.modality)
    np.testing.assert_allclose(again.values, rows.values, rtol=1e-7)


def test_training_and_held_out_rows_are_those_of_the_file(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    train, test = fvae.read_data(tmp_path / "a.csv", held_out=0.2)
    whole = read(tmp_path / "a.csv", "all", like=train.modality)
    assert len(train) + len(test) == len(whole) == N and not set(train.names) & set(test.names)
    order = np.argsort([int(name[6:-1]) for name in [*train.names, *test.names]])
    np.testing.assert_array_equal(np.concatenate([train.values, test.values])[order], whole.values)


def test_columns_are_taken_by_name_in_any_order(tmp_path):
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    rows = read(tmp_path / "a.csv", "all")
    FRAME[list(FRAME)[::-1]].assign(more=1).to_csv(tmp_path / "b.csv", index=False)
    turned = read(tmp_path / "b.csv", "all", like=rows.modality)
    np.testing.assert_array_equal(turned.values, rows.values)
    assert "columns that the model does not have are left out: more" in turned.remarks
    FRAME.drop(columns="city").to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(InputError, match="expected column city, found columns weight, count"):
        read(tmp_path / "c.csv", "all", like=rows.modality)


def test_new_rows_need_not_vary_and_may_have_new_levels(tmp_path):
    """What the schema doesn't know is a level of its own; text among numbers is refused with its place."""
    modality = TypedTable.of(fvae.detect(FRAME[["weight", "city", "zero one"]]))
    path = write(tmp_path / "a.csv", b"city,weight,zero one\nRome,70,1\nParis,70,2\n,,\n")
    rows = read(path, "all", like=modality)
    np.testing.assert_array_equal(rows.values, [[70, 2, 1], [70, 3, 2], [np.nan] * 3])
    assert modality.cells(rows.values)[1] == ["Rome", None, None]
    path = write(tmp_path / "b.csv", b"city,weight,zero one\nRome,heavy,1\n")
    with pytest.raises(InputError, match="expected numbers in column weight, found 'heavy' in row 0"):
        read(path, "all", like=modality)


def test_a_schema_of_a_file_overrides_what_would_be_detected(tmp_path):
    FRAME[["count", "city"]].to_csv(tmp_path / "a.csv", index=False)
    found = json.loads(fvae.detect(tmp_path / "a.csv").model_dump_json())
    values = sorted(set(FRAME["count"].tolist()))
    counts = {"name": "count", "type": "categorical", "values": "integer", "levels": values}
    found["columns"][0] = counts | {"shares": [1 / len(values)] * len(values)}
    (tmp_path / "schema.json").write_text(json.dumps(found))
    rows = read(tmp_path / "a.csv", "all", types=str(tmp_path / "schema.json"))
    assert rows.modality.schema.columns[0].description == f"{len(values)} levels"
    found["columns"][0]["shares"] = []
    (tmp_path / "schema.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"schema.json: columns.0.shares: expected \d+, found 0"):
        read(tmp_path / "a.csv", "all", types=str(tmp_path / "schema.json"))


def test_numbers_alone_stay_a_table_of_numbers_unless_asked(tmp_path):
    path = write(tmp_path / "a.csv", FRAME[["weight", "count"]].to_csv(index=False).encode())
    assert not isinstance(read(path, "all").modality, TypedTable)
    assert read(path, "all", types="detect").modality.schema.columns[1].type == "discrete"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[70, np.inf]], "expected finite numbers, or NaN where a cell is missing, found inf at row 0, column city"),
        ([[70, 4]], "expected the index of a level, 0 to 2, 3 for another, or NaN, found 4 at row 0, column city"),
        ([[70, 0.5]], "found 0.5 at row 0, column city"),
        ([[70]], r"expected \(N, 2\) for this model, found \(1, 1\)"),
    ],
)
def test_cells_that_are_none_are_refused(cells, message):
    modality = TypedTable.of(fvae.detect(FRAME[["weight", "city"]]))
    with pytest.raises(InputError, match=message):
        modality.to_stored(np.array(cells, dtype=float))


def test_levels_are_compared_by_value():
    assert level_key(True) == level_key(1.0) == level_key(1) != level_key("1")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 1e12, 1e100])
def test_numbers_that_are_not_rounded_have_no_step(scale):
    """At any scale, also where one value repeats."""
    x = np.where(R.random(2000) < 0.3, 0.0, np.abs(R.normal(size=2000)) * scale)
    assert fvae.detect(pd.DataFrame({"x": x})).columns[0].type == "continuous"
    whole = np.round(x / scale * 20)
    assert fvae.detect(pd.DataFrame({"x": whole})).columns[0].step == 1


def test_rising_whole_numbers_are_identifiers_of_a_part_too(tmp_path):
    pd.DataFrame({"id": np.arange(400), "x": R.normal(size=400)}).assign(y="a").to_csv(tmp_path / "a.csv", index=False)
    train, _ = fvae.read_data(tmp_path / "a.csv", held_out=0.2)
    assert train.modality.names == ["x", "y"] and "id" in train.modality.schema.left_out


def test_two_dates_are_dates_and_zones_are_utc():
    frame = pd.DataFrame({"d": pd.to_datetime(["2020-01-01", "2021-01-01"] * 50).date, "x": ["a", "b"] * 50})
    modality = TypedTable.of(fvae.detect(frame))
    assert modality.schema.columns[0].type == "discrete"
    assert str(modality.frame(modality.row({"d": "2020-05-31"}))["d"][0])[:10] == "2020-05-31"
    times = pd.date_range("2024-01-01", periods=200, freq="37min", tz="Europe/Berlin")
    modality = TypedTable.of(fvae.detect(pd.DataFrame({"t": times})))
    given = modality.row({"t": "2024-01-02T05:20:00+01:00"})
    assert modality.frame(given)["t"][0] == pd.Timestamp("2024-01-02 04:20")


def test_rounded_numbers_are_on_their_steps_to_the_last_bit():
    """Whatever arithmetic they came by, and of 32 bits."""
    modality = TypedTable.of(fvae.detect(pd.DataFrame({"x": R.integers(0, 8, 500) / 10})))
    a, b, c = (modality.rows(pd.DataFrame({"x": [v]}))[0, 0].item() for v in (0.7, 0.1 * 7, float(np.float32(0.7))))
    assert a == b == c == modality.schema.columns[0].high


def test_levels_of_digits_are_text_where_training_had_text(tmp_path):
    modality = TypedTable.of(fvae.detect(pd.DataFrame({"code": ["12", "13", "A1"] * 20})))
    rows = read(write(tmp_path / "a.csv", b"code\n13\n12\n99\n"), "all", like=modality)
    assert rows.values[:, 0].tolist() == [1, 0, 3]


def test_words_for_missing_are_levels_of_text(tmp_path):
    """NA is Namibia; among numbers it is a gap."""
    rows = read(write(tmp_path / "a.csv", b"c,n\n" + b"NA,1.5\nDE,NA\nFR,2.5\n" * 20), "all")
    assert rows.modality.schema.columns[0].levels == ["DE", "FR", "NA"]
    assert rows.modality.schema.columns[1].missing == pytest.approx(1 / 3)
