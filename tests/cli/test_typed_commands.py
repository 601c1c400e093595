"""The commands on tables of several types: the journey of someone who has only a .csv."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import table

TINY = ["--model.coder.size", "2", "--model.coder.width", "16", "--train.steps", "60", "--train.batch_size", "64"]
TINY += ["--train.accelerator", "cpu", "--train.eval_interval", "30"]
R = np.random.default_rng(0)
N = 300
AGE = R.integers(18, 90, N)
FRAME = pd.DataFrame(
    {
        "age": AGE,
        "sex": R.choice(["Female", "Male"], N),
        "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(R.integers(0, 1000, N), "D"),
        "income": np.where(R.random(N) < 0.1, np.nan, np.exp(R.normal(8 + AGE / 50, 1))),
        "id": [f"person {i}" for i in range(N)],
    }
)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A run on people.csv, and the file."""
    from fvae.cli import main

    home = tmp_path_factory.mktemp("people")
    FRAME.to_csv(home / "people.csv", index=False, date_format="%Y-%m-%d")
    assert main(["train", "vae", "--data", str(home / "people.csv"), "--out", str(home / "run"), *TINY]) == 0
    return home


def test_types_are_shown_before_training_and_kept(people):
    described = (people / "run/data.txt").read_text()
    assert "column age: whole numbers from 18 to 89\n" in described
    assert "column sex: 2 levels\n" in described and "column since: dates from" in described
    assert "column id: left out, text of 2" in described and "% missing" in described
    assert [c["name"] for c in json.loads((people / "run/schema.json").read_text())["columns"]] == list(FRAME)[:4]


def test_evaluate_has_nats_by_column(people, fvae, tmp_path):
    found = fvae("evaluate", people / "run", "--json", "OUT/e.json")
    assert found.status == 0 and "income" in found.out and "density" in found.out and "probability" in found.out
    e = json.loads((tmp_path / "e.json").read_text())
    assert sum(e["nats_by_column"].values()) == pytest.approx(e["distortion"], rel=0.02)
    assert (
        e["likelihood"]
        == "a density of 1 continuous columns, in their units, a probability of 3 discrete and categorical ones"
    )


def test_evaluate_compares_drawn_rows(people, fvae, tmp_path):
    found = fvae("evaluate", people / "run", "--quality", "--target", "sex", "--json", "OUT/e.json")
    assert found.status == 0 and "a boosted classifier's failure to tell them" in found.out
    q = json.loads((tmp_path / "e.json").read_text())["quality"]
    assert (
        set(q["marginals"]) == set(FRAME) - {"id"}
        and 0 <= q["failure_to_tell"] <= 1
        and 0 <= q["accuracy_of_drawn"] <= 1
    )


def test_samples_have_the_types_of_the_file(people, fvae, tmp_path):
    assert fvae("sample", people / "run", "--n", 50, "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert list(rows[0]) == list(FRAME)[:4] and len(rows) == 50
    assert all(18 <= int(row["age"]) <= 89 and row["sex"] in ("Female", "Male") for row in rows)
    assert all(pd.Timestamp(row["since"]).year in (2020, 2021, 2022) and float(row["income"]) for row in rows)


def test_samples_given_columns_have_them(people, fvae, tmp_path):
    given = "age=40, sex=Female,since=2021-05-03"
    assert fvae("sample", people / "run", "--n", 20, "--given", given, "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert {(row["age"], row["sex"], row["since"]) for row in rows} == {("40", "Female", "2021-05-03")}
    assert len({row["income"] for row in rows}) > 10


def test_several_givens_are_taken_together(people, fvae, tmp_path):
    words = ["sample", people / "run", "--n", 5, "--given", "age=40", "--given", "sex=Male", "--out", "OUT/s.csv"]
    assert fvae(*words).status == 0
    assert {(row["age"], row["sex"]) for row in table(tmp_path / "s.csv")} == {("40", "Male")}


def test_the_decoder_by_column_takes_numbers_alone_too(fvae, home, tmp_path):
    """Their types are then detected, which a table of numbers needs not."""
    words = ["train", "vae", "--data", "rows.csv", "--out", "OUT/run", "--model.decoder.kind", "columns", *TINY]
    found = fvae(*words)
    assert found.status == 0 and (tmp_path / "run/schema.json").exists() and "continuous" in found.err


def test_gaps_are_filled_and_the_rest_is_kept(people, fvae, tmp_path):
    assert fvae("impute", people / "run", "--data", people / "people.csv", "--out", "OUT/f.csv").status == 0
    rows, missing = table(tmp_path / "f.csv"), FRAME["income"].isna()
    assert len(rows) == N and all(row["income"] for row in rows)
    kept = np.array([float(row["income"]) for row in rows])[~missing]
    np.testing.assert_allclose(kept, FRAME["income"][~missing], rtol=1e-6)
    assert [row["age"] for row in rows] == FRAME["age"].astype(str).tolist()


def test_rows_are_scored_encoded_and_decoded(people, fvae, tmp_path):
    assert fvae("score", people / "run", "--data", people / "people.csv", "--out", "OUT/s.csv").status == 0
    assert len(table(tmp_path / "s.csv")) == N
    assert fvae("encode", people / "run", "--out", "OUT/c.npz").status == 0
    assert fvae("decode", people / "run", "OUT/c.npz", "--out", "OUT/d.csv").status == 0
    assert set(table(tmp_path / "d.csv")[0]) == set(FRAME) - {"id"}


def test_a_run_on_types_is_resumed(people, fvae, tmp_path):
    words = ["train", "vae", "--data", people / "people.csv", "--out", "OUT/run", *TINY]
    assert fvae(*words).status == 0
    found = fvae("train", "--out", "OUT/run", "--resume", "--train.steps", 90)
    assert found.status == 0 and "step 90" in found.out


def test_flows_take_numbers_alone(people, fvae):
    found = fvae("train", "realnvp", "--data", people / "people.csv", "--out", "OUT/run", *TINY[4:])
    assert found.status == 2 and "expected numbers in column" in found.err and "f_vae or vae" in found.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["sample", "PEOPLE", "--given", "sex=Woman", "--out", "OUT/s.csv"],
            "sex: expected one of Female, Male",
        ),
        (
            ["sample", "PEOPLE", "--given", "age=old", "--out", "OUT/s.csv"],
            "age: expected a number, found old",
        ),
        (["sample", "PEOPLE", "--given", "since=x", "--out", "OUT/s.csv"], "since: expected a date, as 2024-"),
        (
            ["sample", "PEOPLE", "--given", "age=40.5", "--out", "OUT/s.csv"],
            "age: expected 18 and steps of 1 from",
        ),
        (["sample", "PEOPLE", "--given", "age=4,age=5", "--out", "OUT/s.csv"], "expected one value of age, found two"),
        (
            ["sample", "PEOPLE", "--given", "age=40", "--given", "age=50", "--out", "OUT/s.csv"],
            "--given: age: expected one value, found 40 and 50",
        ),
        (["sample", "PEOPLE", "--given", "name=x", "--out", "OUT/s.csv"], "--given: name: no such column"),
        (["sample", "PEOPLE", "--given", "age", "--out", "OUT/s.csv"], "--given: expected NAME=VALUE, found 'age'"),
        (
            ["sample", "rows", "--given", "a=1", "--out", "OUT/s.csv"],
            "--given: expected a model of a table",
        ),
        (["evaluate", "PEOPLE", "--quality", "--target", "age"], "expected a categorical column (sex), found age"),
        (["evaluate", "PEOPLE", "--target", "sex"], "--target: expected --quality beside it, found none"),
        (["evaluate", "rows", "--quality"], "--quality: expected a model of a table"),
        (["impute", "rows", "--out", "OUT/s.csv"], "expected a model of a table with a likelihood for each column"),
        (["impute", "PEOPLE", "--out", "OUT/s.png"], "expected a name that ends in .csv, .npz"),
    ],
)
def test_mistakes_are_one_line(words, message, people, fvae):
    found = fvae(*[people / "run" if word == "PEOPLE" else word for word in words])
    assert found.status == 2 and message in found.err and found.err.count("\n") == 1
