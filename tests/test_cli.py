"""The command line: each command does its work, and each mistake is one line that says how to mend it."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fvae.checkpoint import load
from fvae.cli import ARGUMENTS, COMMANDS, main
from fvae.data import load_data
from fvae.data.pictures import to_uint8
from fvae.evaluate import bounds
from fvae.recipes import RECIPES
from fvae.runs import flat
from fvae.settings import DataSettings, TrainSettings

DIGITS = ["--data", "digits"]
STEPS = [
    *("--train.steps", "4", "--train.every", "2", "--train.batch_size", "8", "--train.test_images", "8"),
    *("--train.accelerator", "cpu"),
]
TINY = [
    *("--model.coder.squeezes", "1", "--model.coder.blocks", "1", "--model.flow.levels", "1"),
    *("--model.flow.depth", "1", "--model.flow.width", "8", "--model.bits", "4", *STEPS),
]
SMALL = ["--model.coder.levels", "1", "--model.coder.size", "2", "--model.coder.width", "4"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with runs on images, rows and labels, the first's model alone, data, and much that is broken.

    No test may change it.
    """
    home = tmp_path_factory.mktemp("cli")
    assert main(["train", "f_vae", *DIGITS, "--out", str(home / "run"), *TINY]) == 0
    (home / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(home / "run" / name, home / "model" / name)
    rng = np.random.default_rng(0)
    (home / "images").mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(home / f"images/{i}.png")
    Image.fromarray(rng.integers(0, 256, (21, 30, 3), dtype=np.uint8)).save(home / "wide.png")
    Image.fromarray(rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)).save(home / "small.webp")
    (home / "large").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(home / f"large/{i}.png")
    (home / "empty").mkdir()
    (home / "texts").mkdir()
    (home / "texts/readme.txt").write_text("no image")
    (home / "file.txt").write_text("no image")
    (home / "codes.txt").write_text("no codes")
    np.savez(home / "narrow.npz", codes=np.zeros((3, 5), np.float32))
    np.savez(home / "other.npz", images=np.zeros((3, 5), np.float32))
    np.savez(home / "nan.npz", codes=np.full((3, 64), np.nan, np.float32))
    (home / "cut.npz").write_bytes((home / "nan.npz").read_bytes()[:100])
    for name, content in SETTINGS.items():
        (home / name).write_text(content)
    for name in ("no_metrics", "bad_metrics", "other_shape", "cut_checkpoint", "bad_settings"):
        shutil.copytree(home / "run", home / name)
    (home / "no_metrics/metrics.csv").unlink()
    (home / "bad_metrics/metrics.csv").write_text("step,seconds\n1,2\n")
    (home / "bad_settings/config.yaml").write_text("data: {source: digits, size: big}\n")
    checkpoint = home / "cut_checkpoint/checkpoints/last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    shutil.rmtree(home / "other_shape")
    size = ["--data", str(home / "large"), "--data.size", "4", "--out", str(home / "other_shape")]
    assert main(["train", "f_vae", *size, *TINY]) == 0
    write_rows(home)
    for run, recipe, source, settings in (
        ("rows", "glow", home / "rows.csv", ["--model.flow.depth", "2", "--model.flow.width", "8"]),
        ("classes", "cvae", "digits", SMALL),
        ("both", "cvae", home / "both.csv", [*SMALL, "--model.classes", "2"]),
    ):
        argv = ["train", recipe, "--data", str(source), "--out", str(home / run), *settings, *STEPS]
        assert main(argv) == 0
    return home


def write_rows(home: Path) -> None:
    """Rows of the columns a, b, c: alone, with labels, and with what no run on them can take."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32) * [1, 10, 0.1]
    rows = [",".join(map(str, row)) for row in x]
    swapped = [",".join(map(str, row[[1, 0, 2]])) for row in x]
    write = {
        "rows.csv": ["a,b,c", *rows],
        "both.csv": ["a,b,c,label", *(f"{row},{'xy'[i % 2]}" for i, row in enumerate(rows))],
        "swapped.csv": ["b,a,c", *swapped],
        "narrow.csv": ["a,b", *(row.rpartition(",")[0] for row in rows)],
        "text.csv": ["a,b,c", *(f"{row}x" for row in rows)],
    }
    for name, lines in write.items():
        (home / name).write_text("\n".join(lines) + "\n")
    np.savez(home / "rows.npz", x=x)
    np.savez(home / "unlabelled.npz", codes=np.zeros((3, 2), np.float32))
    np.savez(home / "mislabelled.npz", codes=np.zeros((3, 2), np.float32), labels=[0, 1, 10])
    np.savez(home / "few_labels.npz", codes=np.zeros((3, 2), np.float32), labels=[0, 1])
    np.savez(home / "blank.npz", images=np.arange(128, dtype=np.uint8).reshape(2, 8, 8))


SETTINGS = {
    "typo.yaml": "data: {source: digits}\ntrain: {stepz: 3}\n",
    "section.yaml": "data: {source: digits}\ntrian: {steps: 3}\n",
    "type.yaml": "data: {source: digits}\ntrain: {steps: three}\n",
    "flat.yaml": "data: digits\n",
    "broken.yaml": "data: {source: [\n: :",
    "words.yaml": "just words",
    "recipe.yaml": "recipe: glow\n",
    "list.yaml": "recipe: [glow]\n",
}


@pytest.fixture
def fvae(home, tmp_path, monkeypatch, capsys):
    """Run a command in ``home``; ``OUT`` in an argument is a fresh folder."""
    monkeypatch.chdir(home)

    def run(*argv: object) -> SimpleNamespace:
        capsys.readouterr()
        status = main([str(word).replace("OUT", str(tmp_path)) for word in argv])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def process(*argv: object, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fvae.cli", *map(str, argv)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


# Training.


def test_run_holds_what_the_design_says(home):
    run = home / "run"
    for name in ("config.yaml", "config.json", "model.safetensors", "metrics.csv", "checkpoints/last.ckpt"):
        assert (run / name).is_file()
    assert len(list((run / "samples").iterdir())) == 2
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.rglob("*.part"))
    assert [row["step"] for row in table(run / "metrics.csv")] == ["2", "4"]


def test_config_of_a_run_trains_it_again_bit_for_bit(home, fvae, tmp_path):
    assert fvae("train", "--config", "run/config.yaml", "--out", "OUT/again").status == 0
    a, b = load(home / "run").state_dict(), load(tmp_path / "again").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (home / "run/config.yaml").read_text() == (tmp_path / "again/config.yaml").read_text()


def test_flags_override_the_settings_file(fvae, tmp_path):
    found = fvae("train", "--config", "run/config.yaml", "--train.steps=2", "--model.flow.depth", 2, "--out", "OUT/r")
    assert found.status == 0
    content = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    assert (content["train"]["steps"], content["model"]["flow"]["depth"], content["train"]["every"]) == (2, 2, 2)


def test_a_flag_of_before_is_accepted_with_its_name_of_today(fvae, tmp_path):
    small = ["--model.coder.levels", 1, "--model.coder.width", 4, *STEPS]
    found = fvae("train", "vae", *DIGITS, "--out", "OUT/r", *small, "--model.latent", 3, "--model.bins=quantised")
    assert found.status == 0
    now = ["fvae: --model.latent is now --model.coder.size", "fvae: --model.bins is now --model.decoder.likelihood"]
    assert found.err.splitlines()[:2] == now
    model = yaml.safe_load((tmp_path / "r/config.yaml").read_text())["model"]
    assert (model["coder"]["size"], model["decoder"]["likelihood"]) == (3, "discretized")


def test_a_flag_chooses_the_kind_of_a_part(fvae, tmp_path):
    nice = ["--model.flow", "nice", "--model.flow.depth", 3, "--model.flow.width", 8]
    found = fvae("train", "f_vae", *DIGITS, "--out", "OUT/r", *nice, *STEPS)
    assert found.status == 0 and "is now" not in found.err
    flow = yaml.safe_load((tmp_path / "r/config.yaml").read_text())["model"]["flow"]
    assert (
        flow == {"kind": "nice", "depth": 3, "width": 8, "hidden": 4} == load(tmp_path / "r").config["settings"]["flow"]
    )


def test_resume_goes_on(fvae, home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "r")
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0
    for fewer in (6, 3):
        found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", fewer)
        assert found.status == 0 and f"--train.steps {fewer}: nothing to do, it is at step 6" in found.err
    steps = [row["step"] for row in table(tmp_path / "r/metrics.csv")]
    assert steps == ["2", "4", "6"]


def test_columns_without_a_density_are_told(fvae, tmp_path):
    """A column of whole numbers trains, with a warning that names it; others have none."""
    rows = [f"{a},{i % 7}" for i, a in enumerate(np.random.default_rng(0).normal(size=60))]
    (tmp_path / "mixed.csv").write_text("\n".join(["a,count", *rows]) + "\n")
    small = ["--model.flow.depth", 1, "--model.flow.width", 4, *STEPS]
    found = fvae("train", "realnvp", "--data", "OUT/mixed.csv", "--out", "OUT/r", *small)
    assert found.status == 0 and found.err.startswith("warning: count: whole numbers")
    assert "warning" not in fvae("train", "realnvp", "--data", "rows.csv", "--out", "OUT/s", *small).err


def test_demo_ends_with_all_its_files_and_can_be_run_again(fvae, tmp_path):
    names = ["metrics.json", "samples.png", "temperatures.png", "reconstructions.png"]
    names += ["interpolation_2.png", "interpolation_4.png", "model.safetensors"]
    assert fvae("demo", "--minutes", 0.01, "--out", "OUT/demo").status == 0
    assert all((tmp_path / "demo" / name).stat().st_size > 100 for name in names)
    (tmp_path / "demo/samples.png").unlink()
    assert fvae("demo", "--minutes", 0.01, "--out", "OUT/demo").status == 0
    assert all((tmp_path / "demo" / name).is_file() for name in names)


# Using a run.


def test_recipes_are_listed(fvae):
    assert [line.split()[0] for line in fvae("recipes").out.splitlines()] == list(RECIPES)


def test_evaluate_and_score_agree(fvae, tmp_path):
    found = fvae("evaluate", "run", "--json", "OUT/e.json")
    assert found.status == 0 and found.err == ""
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["recipe"] == "f_vae" and e["data"] == "digits (held out)" and e["images"] == 95 and e["dimensions"] == 64
    assert e["nats"] == pytest.approx(e["rate"] + e["distortion"])
    assert e["bits_per_dim"] == pytest.approx(e["nats"] / 64 / np.log(2))
    assert f"{e['bits_per_dim']:.4f}" in found.out
    assert fvae("score", "run", "--out", "OUT/s.csv").status == 0
    rows = table(tmp_path / "s.csv")
    assert len({row["name"] for row in rows}) == len(rows) == 95
    assert np.mean([float(row["nats"]) for row in rows]) == pytest.approx(e["nats"], abs=1e-3)
    assert np.mean([float(row["bits_per_dim"]) for row in rows]) == pytest.approx(e["bits_per_dim"], abs=1e-5)


def test_more_samples_tighten_the_bound(fvae, tmp_path):
    assert fvae("evaluate", "run", "--samples", 4, "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["samples"] == 4 and e["tighter_nats"] < e["nats"]
    assert e["tighter_bits_per_dim"] == pytest.approx(e["tighter_nats"] / 64 / np.log(2))


def test_one_image_gives_valid_json(fvae, home, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copy(home / "images/0.png", tmp_path / "one/0.png")
    assert fvae("evaluate", "run", "--data", "OUT/one", "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    assert e["images"] == 1 and e["bits_per_dim_error"] is None


def test_sample_writes_a_picture_an_array_and_a_folder(fvae, tmp_path):
    for out in ("a.png", "b.png", "c.npz", "folder", "a.jpg"):
        assert fvae("sample", "run", "--n", 6, "--seed", 3, "--out", f"OUT/{out}").status == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    images = np.load(tmp_path / "c.npz")["images"]
    assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
    assert len(list((tmp_path / "folder").iterdir())) == 6
    np.testing.assert_array_equal(picture(tmp_path / "folder/00002.png"), images[2, :, :, 0])
    fvae("sample", "run", "--n", 6, "--seed", 4, "--out", "OUT/d.npz")
    assert (np.load(tmp_path / "d.npz")["images"] != images).any()


def test_temperature_scales_the_same_codes(fvae, tmp_path):
    fvae("sample", "run", "--n", 3, "--temperatures", "0,0.8", "--out", "OUT/t.npz")
    assert fvae("sample", "run", "--n", 3, "--temperatures", "0,0.8", "--out", "OUT/t.png").status == 0
    fvae("sample", "run", "--n", 3, "--out", "OUT/s.npz")
    found = np.load(tmp_path / "t.npz")
    assert found["temperatures"].tolist() == [0, 0.8]
    assert (found["images"][0] == found["images"][0, 0]).all()
    np.testing.assert_array_equal(found["images"][1], np.load(tmp_path / "s.npz")["images"])
    height, width = picture(tmp_path / "t.png").shape
    assert height == 2 + 2 * 50 and width > 3 * 50


def test_reconstruct(fvae, tmp_path):
    found = fvae("reconstruct", "run", "--n", 12, "--out", "OUT/r.png")
    assert found.status == 0 and "12 images of digits (held out), root mean square error" in found.out
    assert picture(tmp_path / "r.png").shape[0] == 2 + 4 * 50


@pytest.mark.parametrize("ends", [[], ["images/0.png", "wide.png"], ["images/0.png", "wide.png", "small.webp"] * 2])
def test_interpolate(fvae, tmp_path, ends):
    ends = ends[:4]
    found = fvae("interpolate", "run", *ends, "--steps", 3, "--out", "OUT/i.png")
    assert found.status == 0 and found.err == ""
    assert picture(tmp_path / "i.png").shape == (2 + (1 if len(ends) == 2 else 3) * 50, 2 + 3 * 50)


def test_codes_go_round(fvae, home, tmp_path):
    assert fvae("encode", "run", "--data", "images", "--out", "OUT/c.npz").status == 0
    found = np.load(tmp_path / "c.npz")
    assert found["codes"].shape == (4, 64) and found["names"].tolist() == [f"{i}.png" for i in range(4)]
    assert fvae("decode", "run", "OUT/c.npz", "--out", "OUT/back").status == 0
    assert fvae("decode", "run", "OUT/c.npz", "--out", "OUT/back.npz").status == 0
    back = np.load(tmp_path / "back.npz")["images"]
    np.testing.assert_array_equal(picture(tmp_path / "back/00003.png"), back[3, :, :, 0])
    model = load(home / "run")
    with torch.no_grad():
        again = model.decode(torch.from_numpy(found["codes"])).round().clamp(0, 15)
    np.testing.assert_array_equal(back[:, :, :, 0], (again[:, 0] * 17).byte())


def test_compare(fvae, tmp_path):
    assert fvae("compare", "run", "bad_settings", "--n", 3, "--out", "OUT/c").status == 0
    rows = table(tmp_path / "c/table.csv")
    assert [row["run"] for row in rows] == ["run", "bad_settings"] and rows[0]["step"] == "4"
    assert (tmp_path / "c/table.md").read_text().count("\n") == 4
    assert picture(tmp_path / "c/samples.png").shape[0] == 2 + 2 * 50
    assert picture(tmp_path / "c/curves.png").size


@pytest.mark.parametrize(
    "words",
    [
        "evaluate model --data digits --split test",
        "evaluate model --data large --data.size 8",
        "sample model --out OUT/s.png",
        "reconstruct model --data images --out OUT/r.png",
        "interpolate model --data images --out OUT/i.png",
        "interpolate model wide.png small.webp --out OUT/i.png",
        "encode model --data images --out OUT/c.npz",
        "score model --data images --out OUT/s.csv",
    ],
)
def test_two_files_are_all_that_is_needed_to_use_a_model(fvae, words):
    found = fvae(*words.split())
    assert (found.status, found.err) == (0, "")


# Rows of numbers.


def test_evaluate_and_score_of_rows_are_in_nats(fvae, home, tmp_path):
    found = fvae("evaluate", "rows", "--samples", 2, "--json", "OUT/e.json")
    assert (found.status, found.err) == (0, "") and "bits" not in found.out and " rows of 3 columns" in found.out
    e = json.loads((tmp_path / "e.json").read_text())
    assert e["dimensions"] == 3 and e["bits"] is None and not {"images", "bits_per_dim"} & e.keys()
    assert e["nats"] == pytest.approx(e["rate"] + e["distortion"]) and f"{e['nats']:.4f}" in found.out
    assert e["tighter_nats"] == pytest.approx(e["nats"])  # the flow is exact, and its data have no noise
    assert e["samples"] == 1 and "upper bound" not in e["bound"] and "draw" not in found.out
    assert fvae("score", "rows", "--out", "OUT/s.csv").status == 0
    scores = table(tmp_path / "s.csv")
    assert list(scores[0]) == ["name", "nats"] and len(scores) == e["rows"] < 60
    assert np.mean([float(row["nats"]) for row in scores]) == pytest.approx(e["nats"], abs=1e-5)
    for source in ("rows.csv", "rows.npz"):  # the same, under names and without
        assert fvae("score", "rows", "--data", source, "--out", f"OUT/{source}.csv").status == 0
    a, b = (table(tmp_path / f"rows.{kind}.csv") for kind in ("csv", "npz"))
    assert len(a) == 60 and [row["nats"] for row in a] == [row["nats"] for row in b]


def test_a_run_on_rows_goes_on(fvae, home, tmp_path):
    shutil.copytree(home / "rows", tmp_path / "r")
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0
    assert [row["step"] for row in table(tmp_path / "r/metrics.csv")] == ["2", "4", "6"]
    assert len(list((tmp_path / "r/samples").glob("*.png"))) == 3


def test_rows_are_drawn_as_csv_and_npz(fvae, tmp_path):
    """Under the data's columns and at temperature 1; what is drawn can be scored."""
    for out, temperature in (("a.csv", []), ("b.npz", ["--temperature", 1]), ("c.npz", ["--temperature", 0])):
        found = fvae("sample", "rows", "--n", 5, *temperature, "--out", f"OUT/{out}")
        assert (found.status, found.err) == (0, "")
    rows, x = table(tmp_path / "a.csv"), np.load(tmp_path / "b.npz")["x"]
    assert list(rows[0]) == ["a", "b", "c"] and x.shape == (5, 3) and x.dtype == np.float32
    np.testing.assert_array_equal(np.array([list(row.values()) for row in rows], np.float32), x)
    assert (np.ptp(np.load(tmp_path / "c.npz")["x"], axis=0) == 0).all()
    for source in ("a.csv", "b.npz"):
        assert fvae("score", "rows", "--data", f"OUT/{source}", "--out", "OUT/s.csv").status == 0
        assert len(table(tmp_path / "s.csv")) == 5


@pytest.mark.parametrize("out", ["back.csv", "back.npz"])
def test_codes_of_rows_go_round(fvae, home, tmp_path, out):
    """Data to codes and back: exact to float32's precision."""
    assert fvae("encode", "rows", "--data", "rows.csv", "--out", "OUT/c.npz").status == 0
    codes = np.load(tmp_path / "c.npz")
    assert codes["codes"].shape == (60, 3) and "labels" not in codes and codes["names"][7] == "rows.csv[7]"
    found = fvae("decode", "rows", "OUT/c.npz", "--out", f"OUT/{out}")
    assert (found.status, found.out) == (0, f"{tmp_path / out}: 60 rows\n")
    back = load_data(DataSettings(source=str(tmp_path / out)), "all").values
    np.testing.assert_allclose(back / [1, 10, 0.1], np.load(home / "rows.npz")["x"] / [1, 10, 0.1], rtol=0, atol=3e-6)


def test_compare_of_rows(fvae, tmp_path):
    found = fvae("compare", "rows", "both", "--out", "OUT/c")
    assert found.status == 0 and found.out.endswith(": table.md, table.csv, curves.png\n")
    rows = table(tmp_path / "c/table.csv")
    assert [(row["run"], row["told in"]) for row in rows] == [("rows", "nats"), ("both", "nats")]
    assert not {"bits", "tokens"} & rows[0].keys()  # of rows there is nothing to say
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["curves.png", "table.csv", "table.md"]


# Labels.


def test_a_label_can_be_drawn(fvae, tmp_path):
    """With --label all are of it, without one they are drawn evenly; the same codes otherwise."""
    for out, label in (("a.npz", []), ("b.npz", ["--label", 3]), ("c.npz", ["--label", 4]), ("d.png", ["--label", 4])):
        found = fvae("sample", "classes", "--n", 50, *label, "--out", f"OUT/{out}")
        assert (found.status, found.err) == (0, "")
    a, b, c = (np.load(tmp_path / f"{name}.npz") for name in "abc")
    assert set(b["labels"]) == {3} and set(c["labels"]) == {4} and set(a["labels"]) == set(range(10))
    same = a["labels"] == 3
    np.testing.assert_array_equal(a["images"][same], b["images"][same])
    assert (b["images"] != c["images"]).any()
    assert fvae("sample", "classes", "--n", 2, "--temperatures", "0,1", "--label", 3, "--out", "OUT/t.npz").status == 0
    assert np.load(tmp_path / "t.npz")["labels"].tolist() == [3, 3]


def test_labels_of_rows_are_a_column(fvae, tmp_path):
    """Called label, so that what was drawn, or decoded, is data with labels again."""
    for out, label in (("a.csv", []), ("b.csv", ["--label", "y"]), ("c.npz", ["--label", 1])):
        assert fvae("sample", "both", "--n", 20, *label, "--out", f"OUT/{out}").status == 0
    a, b = (table(tmp_path / f"{name}.csv") for name in "ab")
    assert list(a[0]) == ["a", "b", "c", "label"]
    assert {row["label"] for row in a} == {"x", "y"} and {row["label"] for row in b} == {"y"}
    assert set(np.load(tmp_path / "c.npz")["labels"]) == {1}
    assert fvae("encode", "both", "--data", "OUT/a.csv", "--out", "OUT/e.npz").status == 0
    assert fvae("decode", "both", "OUT/e.npz", "--out", "OUT/back.csv").status == 0
    assert [row["label"] for row in table(tmp_path / "back.csv")] == [row["label"] for row in a]
    assert fvae("evaluate", "both", "--data", "OUT/back.csv").status == 0


def test_labels_go_by_their_names(fvae, tmp_path):
    """A file that holds only some of the names a run was trained with gives them their numbers; another is refused."""
    assert fvae("sample", "both", "--n", 9, "--label", "y", "--out", "OUT/y.csv").status == 0
    assert fvae("encode", "both", "--data", "OUT/y.csv", "--out", "OUT/y.npz").status == 0
    assert set(np.load(tmp_path / "y.npz")["labels"]) == {1}
    (tmp_path / "z.csv").write_text((tmp_path / "y.csv").read_text().replace(",y", ",z"))
    found = fvae("encode", "both", "--data", "OUT/z.csv", "--out", "OUT/z.npz")
    assert found.status == 2 and "expected the labels x, y, found z" in found.err


@pytest.mark.parametrize(
    "words", ["", "--corners 2", "images/0.png wide.png --labels 3,4", "wide.png " * 4 + "--labels 0,0,9,9"]
)
def test_interpolate_between_labels(fvae, tmp_path, words):
    found = fvae("interpolate", "classes", *words.split(), "--steps", 3, "--out", "OUT/i.png")
    assert (found.status, found.err) == (0, "")
    rows = 1 if words.startswith(("--corners", "images")) else 3
    assert picture(tmp_path / "i.png").shape == (2 + rows * 50, 2 + 3 * 50)


def test_the_way_between_two_labels_has_both_ends(fvae, home, tmp_path):
    """Between one image under two labels the first picture is the first's, the last the second's."""
    out = ["--steps", 2, "--out", "OUT/i.png"]
    assert fvae("interpolate", "classes", "images/0.png", "images/0.png", "--labels", "3,4", *out).status == 0
    model, x = load(home / "classes"), torch.from_numpy(picture(home / "images/0.png").copy())[None, None]
    for column, label in enumerate([3, 4]):
        y = torch.tensor([label])
        with torch.no_grad():
            expected = to_uint8(model.decode(model.encode(x, y), y), 8)[0, :, :, 0]
        found = picture(tmp_path / "i.png")[2:50:6, 2 + 50 * column : 50 + 50 * column : 6]
        np.testing.assert_array_equal(found, expected)


def test_codes_keep_their_labels(fvae, home, tmp_path):
    assert fvae("encode", "classes", "--split", "test", "--out", "OUT/c.npz").status == 0
    assert fvae("decode", "classes", "OUT/c.npz", "--out", "OUT/back.npz").status == 0
    codes, back = np.load(tmp_path / "c.npz"), np.load(tmp_path / "back.npz")
    digits = load_data(DataSettings(source="digits"), "test")
    np.testing.assert_array_equal(codes["labels"], digits.labels)
    np.testing.assert_array_equal(back["labels"], digits.labels)
    model = load(home / "classes")
    with torch.no_grad():
        y = torch.from_numpy(digits.labels)
        expected = to_uint8(model.decode(model.encode(torch.from_numpy(digits.values), y), y), 8)
    assert np.abs(back["images"].astype(int) - expected).max() <= 1


def test_evaluate_takes_the_labels(fvae, home, tmp_path):
    """Its bound is that of each image under its own label."""
    assert fvae("evaluate", "classes", "--json", "OUT/e.json").status == 0
    e = json.loads((tmp_path / "e.json").read_text())
    model, digits = load(home / "classes"), load_data(DataSettings(source="digits"), "test")
    others = replace(digits, labels=(digits.labels + 1) % 10)
    own, other = (bounds(model, data).loss.mean() for data in (digits, others))
    assert e["images"] == len(digits) and e["nats"] == own != other


# Mistakes. Each is one line on standard error and status 2, and leaves no file.

CLASSES = " ".join([*SMALL, *STEPS])
TRAIN = "train f_vae --data digits --out OUT/r " + " ".join(TINY)
MISTAKES = {
    # names
    "trane": "trane: no such command; did you mean train?",
    "train fvae --data digits --out OUT/r": "fvae: no such recipe; did you mean f_vae?",
    "train": "train: which recipe?",
    "train f_vae --data digits": "train: expected --out",
    "train f_vae --out OUT/r": "--data: expected a source",
    "sample run": "--out: expected a name to write to, found nothing",
    "evaluate": "evaluate: expected RUN",
    f"{TRAIN} --train.stepz 3": "--train.stepz: no such flag of fvae train; did you mean --train.steps?",
    f"{TRAIN} --train.step 3": "--train.step: no such flag of fvae train; did you mean --train.steps?",
    "sample run --temp 1 --out OUT/s.png": "--temp: no such flag of fvae sample",
    "sample run --data digits --out OUT/s.png": "--data: no such flag of fvae sample",
    "evaluate run --out OUT/e": "--out: no such flag of fvae evaluate; --help lists them",
    "evaluate run --jsn OUT/e": "--jsn: no such flag of fvae evaluate; did you mean --json?",
    "evaluate run --dat digits": "--dat: no such flag of fvae evaluate; did you mean --data?",
    f"{TRAIN} stray": "stray: one argument too many",
    f"{TRAIN} --recipe glow": "--recipe: is of recipe glow, the command says f_vae",
    # values
    f"{TRAIN} --train.steps abc": "--train.steps: expected a whole number or null, found abc",
    f"{TRAIN} --train.lr fast": "--train.lr: expected a number, found fast",
    f"{TRAIN} --train.lr": "--train.lr: expected a value",
    f"{TRAIN} --model.coder.tanh perhaps": "--model.coder.tanh: expected true or false, found perhaps",
    f"{TRAIN} --model.flow.mixing nope": "--model.flow.mixing: expected one of conv, shuffle, reverse, found nope",
    f"{TRAIN} --model x": "--model: no such flag of fvae train",
    f"{TRAIN} --model.bits 9": "--model: f_vae: bits: input should be less than or equal to 8, found 9",
    f"{TRAIN} --model.flow nix": "--model.flow.kind: invalid choice: 'nix' (choose from",
    f"{TRAIN} --model.flow.depth 0": "--model: f_vae: flow.depth: input should be greater than or equal to 1, found 0",
    f"{TRAIN} --model.flow.dpth 1": "--model.flow.dpth: no such flag of fvae train; did you mean --model.flow.depth?",
    f"{TRAIN} --train.steps -1": "--train.steps: expected a number above 0, found -1",
    f"{TRAIN} --train.lr 0": "--train.lr: expected a number above 0, found 0",
    f"{TRAIN} --train.batch_size 9 --train.devices 2": "--train.batch_size: expected a multiple of the 2 devices",
    f"{TRAIN} --train.accelerator nonsense": "--train.accelerator nonsense: not possible on this machine: ",
    f"{TRAIN} --train.strategy nonsense": "--train.strategy nonsense: not possible on this machine: ",
    f"{TRAIN} --train.precision nonsense": "--train.precision: expected one of 32-true, bf16-mixed, found nonsense",
    f"{TRAIN} --train.reversible true --train.compile true": "--train.reversible and --train.compile: expected one of",
    # settings files
    f"{TRAIN} --config none.yaml": "none.yaml: no such file",
    f"{TRAIN} --config empty": "empty: expected a YAML file: Is a directory",
    f"{TRAIN} --config wide.png": "wide.png: expected a YAML file, found one that is no text",
    f"{TRAIN} --config typo.yaml": "typo.yaml: train.stepz: no such setting; did you mean train.steps?",
    f"{TRAIN} --config section.yaml": "section.yaml: trian.steps: no such setting; did you mean train.steps?",
    "train f_vae --out OUT/r --config type.yaml": "type.yaml: train.steps: expected a whole number or null, found",
    f"{TRAIN} --config flat.yaml": "flat.yaml: data: expected settings by name, found 'digits'",
    f"{TRAIN} --config broken.yaml": "broken.yaml, line 2: not YAML",
    f"{TRAIN} --config words.yaml": "words.yaml: expected settings by name (recipe, data, model, train)",
    f"{TRAIN} --config recipe.yaml": "recipe.yaml: is of recipe glow, the command says f_vae",
    "train --out OUT/r --config list.yaml": "list.yaml: recipe: expected a name, found ['glow']",
    # data
    f"{TRAIN} --data ./nowhere": "--data ./nowhere: no such file or folder",
    f"{TRAIN} --data empty": "--data empty: expected images, found none in 0 files",
    f"{TRAIN} --data texts": "--data texts: expected images, found none in 1 files (readme.txt: not an image (.txt))",
    f"{TRAIN} --data file.txt": "--data file.txt: text needs a text recipe",
    f"{TRAIN} --data wide.png": "--data wide.png: one image file is not a data set",
    f"{TRAIN} --model.coder.squeezes 4": "found 8x8: give smaller numbers there, or --data.size 16",
    f"{TRAIN} --data.size 9": "found 9x9: give smaller numbers there, or --data.size 10",
    f"{TRAIN} --data.split nope": "--data.split nope: no such split in digits",
    # the place to write to
    f"{TRAIN} --out run": "--out run: holds a run already; give --resume",
    f"{TRAIN} --out model": "--out model: holds a run already",
    f"{TRAIN} --out model --resume": "--resume: model has config.json but no config.yaml",
    f"{TRAIN} --out file.txt": "--out file.txt: expected a folder at file.txt, found a file",
    f"{TRAIN} --out file.txt/run": "--out file.txt/run: expected a folder at file.txt, found a file",
    "sample run --out file.txt/s.png": "--out file.txt/s.png: expected a folder at file.txt, found a file",
    "sample run --out OUT/s.foo": "s.foo: expected a picture's name such as x.png, an .npz, or a folder's name",
    "sample run --out run": "--out run: expected a folder for images, found a run",
    "sample run --out ": "--out: no path: ''",
    "reconstruct run --out OUT/r.npz": "r.npz: expected a picture's name that ends in .png",
    "encode run --out OUT/c.png": "c.png: expected a name that ends in .npz",
    "evaluate run --json run/config.json": "--json run/config.json: belongs to a run; take another name",
    "sample run --out images": "--out images: expected a new or empty folder, found one with files in it",
    "sample run --out s.png --seed 99999999999": "--seed: expected 0 or more and below 2^32, found 99999999999",
    f"{TRAIN} --train.seed 99999999999": "--train.seed: expected at most 4.29497e+09, found 99999999999",
    "evaluate run --json empty": "--json empty: expected a file's name, found a folder",
    "score run --out empty": "--out empty: expected a name that ends in .csv",
    # going on
    "train --out none --resume": "--resume: none holds no run; name a recipe to begin one",
    "train --out run --resume --model.flow.depth 2": "--model.flow.depth: run was begun with 1 and can't go on with 2",
    "train --out run --resume --data images": "--resume: run/checkpoints/last.ckpt was begun with other data than",
    "train --out run --resume --train.seed 1": "--train.seed: run was begun with 0 and can't go on with 1",
    "train glow --out run --resume": "run/config.yaml: is of recipe f_vae, the command says glow",
    "train --out cut_checkpoint --resume --train.steps 6": "last.ckpt: damaged, or not a checkpoint of fvae",
    "train --out rows --resume --data swapped.csv": "rows/checkpoints/last.ckpt was begun with other data than",
    "train --out rows --resume --data digits": "these weights are not of the model of",
    # rows
    f"{TRAIN} --data narrow.csv --data.size 8": "--data.size 8: is for images; narrow.csv holds rows of numbers",
    f"{TRAIN} --data rows.csv --data.split train": "--data.split train: is for images",
    f"{TRAIN} --data text.csv": "--data text.csv: expected numbers in column c, found string; leave it out or call it",
    "reconstruct rows --out OUT/r.png": "reconstruct: makes pictures; rows was trained on rows of numbers: see fvae",
    "interpolate rows --out OUT/i.png": "interpolate: makes pictures; rows was trained on rows of numbers",
    "interpolate rows images/0.png images/1.png --out OUT/i.png": "interpolate: makes pictures; rows was trained on",
    "sample rows --temperatures 0,1 --out OUT/s.npz": "--temperatures: makes a row of images for each; rows holds rows",
    "sample rows --temperatures 0,1 --out OUT/s.png": "--temperatures: makes a row of images for each; rows holds rows",
    "sample rows --out OUT/s.png": "s.png: expected a name that ends in .csv or .npz, for rows of numbers",
    "sample rows --out OUT/folder": "folder: expected a name that ends in .csv or .npz, for rows of numbers",
    "sample rows --label 1 --out OUT/s.csv": "--label 1: rows holds a glow, which was trained without labels",
    "sample run --out OUT/s.csv": "s.csv: expected a picture's name such as x.png",
    "decode rows nan.npz --out OUT/d.png": "d.png: expected a name that ends in .csv or .npz, for rows of numbers",
    "decode run nan.npz --out OUT/d.csv": "d.csv: expected a picture's name such as x.png",
    "evaluate rows --data swapped.csv": "expected column a as rows was trained on, found b",
    "evaluate rows --data narrow.csv": "narrow.csv: expected 3 columns as the model has, found 2 columns",
    "evaluate rows --data digits": "--data digits: expected rows as the model has, found images",
    "evaluate rows --data digits --data.size 8": "--data digits: expected rows as the model has, found images",
    "evaluate rows --data.size 8": "--data.size 8: is for images",
    "score rows --data none.csv --out OUT/s.csv": "--data none.csv: no such file or folder",
    "evaluate run --data rows.csv": "expected images as the model has, found rows",
    "compare run rows --out OUT/c": "compare: expected runs on data of one kind, found images and rows",
    # labels
    "sample classes --label 10 --out OUT/s.png": "--label 10: classes knows the labels 0 to 9",
    "sample classes --label -1 --out OUT/s.png": "--label -1: classes knows the labels 0 to 9",
    "sample classes --label three --out OUT/s.png": "--label three: classes knows the labels 0 to 9",
    f"train cvae --data images --out OUT/r {CLASSES}": "--model.classes 10: --data images: expected labels, found none",
    f"train cvae --data rows.csv --out OUT/r {CLASSES}": "--model.classes 10: --data rows.csv: expected labels, found",
    f"train cvae --data digits --out OUT/r {CLASSES} --model.classes 9": "expected labels from 0 to 8, found 0 to 9",
    f"{TRAIN} --model.classes 2": "--model.classes 2: --data digits: expected labels from 0 to 1, found 0 to 9",
    f"{TRAIN} --model.classes -1": "--model: f_vae: classes: input should be greater than or equal to 0, found -1",
    "evaluate classes --data images": "images (the test split if it has one, else whole): expected labels, found none",
    "encode both --data rows.csv --out OUT/c.npz": "rows.csv (whole): expected labels, found none",
    "decode classes unlabelled.npz --out OUT/d": "unlabelled.npz: expected `labels` (3,), with which classes was tr",
    "decode classes few_labels.npz --out OUT/d": "few_labels.npz: expected `labels` (3,), with which classes was",
    "decode classes mislabelled.npz --out OUT/d": "mislabelled.npz: expected labels from 0 to 9, found 0 to 10",
    "interpolate classes wide.png wide.png --out OUT/i.png": "classes was trained with labels; --labels: expected",
    "interpolate both --out OUT/i.png": "interpolate: makes pictures; both was trained on rows of numbers",
    "interpolate classes wide.png wide.png --labels 1 --out OUT/i.png": "--labels: expected one for each of 2 images",
    "interpolate classes wide.png wide.png --labels 1,x --out OUT/i.png": "--labels x: classes knows the labels 0 to",
    "interpolate classes wide.png wide.png --labels 1,10 --out OUT/i.png": "--labels 10: classes knows the labels 0 to",
    "interpolate classes --labels 1,2 --out OUT/i.png": "--labels: are those of the images named",
    "interpolate run wide.png wide.png --labels 1,2 --out OUT/i.png": "--labels 1: run holds a f_vae, which was",
    # use
    "sample nowhere --out OUT/s.png": "nowhere: no such run folder",
    "sample empty --out OUT/s.png": "empty: not a run folder",
    "sample run --label 3 --out OUT/s.png": "--label 3: run holds a f_vae, which was trained without labels",
    "sample run --temperature -1 --out OUT/s.png": "--temperature: expected 0 or more, found -1",
    "sample run --temperatures 0,x --out OUT/s.png": "--temperatures: expected numbers with commas between",
    "sample run --temperatures 0,-1 --out OUT/s.png": "--temperatures: expected 0 or more, found -1",
    "sample run --temperatures 0,nan --out OUT/s.png": "--temperatures: expected 0 or more, found nan",
    "sample run --temperatures 0,inf --out OUT/s.png": "--temperatures: expected a finite number, found inf",
    "sample run --n 0 --out OUT/s.png": "--n: expected 1 or more, found 0",
    "sample run --n x --out OUT/s.png": "--n: expected a whole number, found x",
    "evaluate run --samples 0": "--samples: expected 1 or more, found 0",
    "evaluate run --split nope": "--split: invalid choice: 'nope' (choose from",
    "evaluate run --data large": "found (1, 20, 20); bring them there with --data.size 8",
    "evaluate run --data.size 16": "--data.size 16: the model's images are 8x8",
    "evaluate model": "--data: model has no config.yaml to say what it was trained on; name a source",
    "evaluate bad_settings": "bad_settings/config.yaml: data.size: expected a whole number or null, found big",
    "interpolate run wide.png a.png b.png --out OUT/i.png": "2 images or sentences (a row) or 4 (a square), found 3",
    "interpolate run wide.png none.png --out OUT/i.png": "expected an image: none.png: No such file",
    "interpolate run wide.png file.txt --out OUT/i.png": "expected an image: file.txt: not an image",
    "interpolate run --steps 1 --out OUT/i.png": "--steps: expected 2 or more, found 1",
    "decode run none.npz --out OUT/d": "none.npz: no such file",
    "decode run codes.txt --out OUT/d": "codes.txt: expected an .npz with an array `codes`",
    "decode run cut.npz --out OUT/d": "cut.npz: expected an .npz with an array `codes`",
    "decode run other.npz --out OUT/d": "other.npz: expected an .npz with an array `codes`",
    "decode run narrow.npz --out OUT/d": "narrow.npz: expected codes (N, 64) of floats for run, found (3, 5)",
    "decode run nan.npz --out OUT/d": "nan.npz: expected finite codes, found NaN or infinity",
    "compare run nowhere --out OUT/c": "nowhere: no such run folder",
    "compare run no_metrics --out OUT/c": "no_metrics: has no metrics.csv",
    "compare run bad_metrics --out OUT/c": "bad_metrics/metrics.csv: expected numbers under step",
    "compare run other_shape --out OUT/c": "compare: expected runs with images of one shape, found run (8, 8, 1)",
    "compare run --n 0 --out OUT/c": "--n: expected 1 or more, found 0",
    "demo --minutes 0 --out OUT/d": "--minutes: expected a number above 0, found 0",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistake_is_one_line_and_status_2(fvae, home, tmp_path, words):
    before = contents(home)
    found = fvae(*words.split(" "))
    assert found.status == 2
    assert found.err.startswith("fvae: ") and found.err.count("\n") == 1
    assert MISTAKES[words] in found.err
    assert "Traceback" not in found.err and "class '" not in found.err
    assert contents(home) == before and not list(tmp_path.rglob("*"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without accelerator")
def test_an_absent_gpu_is_named(fvae):
    found = fvae(*TRAIN.split(), "--train.accelerator", "gpu")
    assert found.status == 2
    assert found.err.startswith("fvae: --train.accelerator gpu: not possible on this machine: ")


# Faults of the machine, and the whole program.


def limit(size: int) -> None:
    """Make the disk one on which no file of this process can be longer than ``size`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_disk_full_at_the_weights_spoils_nothing(home, fvae, tmp_path):
    shutil.copytree(home / "run", tmp_path / "r")
    before = contents(tmp_path / "r")
    limit((home / "run/model.safetensors").stat().st_size // 2)
    try:
        found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6)
    finally:
        limit(resource.RLIM_INFINITY)
    assert found.status == 1
    assert found.err.splitlines()[-1] == f"fvae: could not write {tmp_path}/r/model.safetensors: File too large"
    check_unspoilt(tmp_path / "r", before)


def test_a_disk_full_at_the_checkpoint_spoils_nothing(home, tmp_path):
    shutil.copytree(home / "run", tmp_path / "r")
    before, size = contents(tmp_path / "r"), (home / "run/checkpoints/last.ckpt").stat().st_size
    argv = ["train", "--out", "r", "--resume", "--train.steps", "6"]
    found = process(*argv, cwd=tmp_path, preexec_fn=lambda: limit(int(0.97 * size)))
    assert found.returncode == 1, found.stderr
    lines = found.stderr.splitlines()
    assert lines[-1] == "fvae: could not write r/checkpoints/last.ckpt: File too large"
    assert [line.split()[0] for line in lines] == ["training", "step", "fvae:"]
    check_unspoilt(tmp_path / "r", before)


def check_unspoilt(run: Path, before: dict[Path, bytes]) -> None:
    """The checkpoint is what it was, the model is whole, nothing half-written lies about, and the run goes on."""
    assert not list(run.rglob("*.part"))
    assert (run / "checkpoints/last.ckpt").read_bytes() == before[run / "checkpoints/last.ckpt"]
    load(run)
    assert main(["train", "--out", str(run), "--resume", "--train.steps", "6"]) == 0


def test_a_device_is_written_to_and_not_replaced(fvae, tmp_path):
    link = tmp_path / "full"  # a link, so that a mistake here can't harm the machine's own /dev
    link.symlink_to("/dev/full")
    found = fvae("evaluate", "run", "--json", link)
    assert (found.status, found.err) == (1, f"fvae: could not write {link}: No space left on device\n")
    assert link.is_symlink() and link.is_char_device()


def test_full_standard_output_is_one_line(home):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fvae.cli", "recipes"]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (1, "fvae: standard output: No space left on device\n")


def test_training_says_little_and_nothing_of_its_parts(home, tmp_path):
    found = process("train", "--config", home / "run/config.yaml", "--out", tmp_path / "r")
    assert found.returncode == 0
    assert found.stdout.startswith(f"{tmp_path / 'r'}: step 4, held-out ")
    lines = found.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["training", "step", "step"]


@pytest.mark.parametrize(("sent", "status", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_an_end_is_one_line_and_can_go_on(sent, status, said, home, tmp_path):
    """Of a user, or of a machine that wants its place: no success, and nothing lost."""
    argv = ["train", "--config", home / "run/config.yaml", "--out", tmp_path / "r", "--train.steps", 100000]
    command = [sys.executable, "-m", "fvae.cli", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}

    def hear() -> None:  # a test run in the background of a shell would leave SIGINT ignored in its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, preexec_fn=hear, **pipes) as child:
        begun = time.monotonic()  # a busy machine takes its time
        while not (tmp_path / "r/checkpoints/last.ckpt").is_file() and time.monotonic() < begun + 200:
            time.sleep(0.1)
        child.send_signal(getattr(signal, sent))
        _, err = child.communicate(timeout=60)
    assert child.returncode == status, err
    last = err.splitlines()[-1]
    assert last == f"fvae: {said}; fvae train --out {tmp_path / 'r'} --resume goes on with it"
    assert "Traceback" not in err and "KeyboardInterrupt" not in err and not list(tmp_path.rglob("*.part"))
    step = int(table(tmp_path / "r/metrics.csv")[-1]["step"])
    assert main(["train", "--out", str(tmp_path / "r"), "--resume", "--train.steps", str(step + 4)]) == 0


def test_help_needs_no_torch():
    code = "import sys; from fvae.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0
    assert all(f"\n  {name}" in found.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(fvae, command):
    found = fvae(command, "--help")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith(f"usage: fvae {command}") and "<" not in found.out
    assert command == "train" or command in ARGUMENTS


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_of_a_recipe_shows_every_setting_with_its_default(fvae, recipe):
    found = fvae("train", recipe, "--help")
    text = " ".join(found.out.split())
    assert (RECIPES[recipe].__doc__ or "").splitlines()[0].rstrip(".") in text  # with its source
    groups = {
        "model": flat(RECIPES[recipe].settings().model_dump()),
        "data": vars(DataSettings()),
        "train": vars(TrainSettings()),
    }
    for group, defaults in groups.items():
        for name, default in defaults.items():
            entry = text.rpartition(f"--{group}.{name} ")[2]
            entry = re.split(r" --\S+ [A-Z{]", entry)[0]
            assert len(entry.split()) >= 3, f"{group}.{name} has no text"
            assert default in (None, "") or f"default: {default})" in entry


def test_a_new_budget_is_remembered(home, fvae, tmp_path):
    """--resume --train.steps 6 is written down: the next plain --resume has the same end."""
    shutil.copytree(home / "run", tmp_path / "r")
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0
    assert yaml.safe_load((tmp_path / "r/config.yaml").read_text())["train"]["steps"] == 6


def test_trained_weights_without_their_checkpoint_are_not_trained_over(home, fvae, tmp_path):
    shutil.copytree(home / "run", tmp_path / "r")
    shutil.rmtree(tmp_path / "r/checkpoints")
    before = contents(tmp_path / "r")
    found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6)
    assert found.status == 2 and "is trained but has no checkpoints/last.ckpt to go on from" in found.err
    assert contents(tmp_path / "r") == before
