"""``fvae train`` and ``fvae demo``: what a run holds, where its settings come from, and how it is resumed."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import DIGITS, STEPS, contents, table
from sources import pngs, write_folder

from fvae.recipes import Grid
from fvae.runs import load

SMALL = ["--model.coder.levels", 1, "--model.coder.width", 4, *STEPS]


def test_a_run_holds_its_settings_model_checkpoint_and_figures(home):
    run = home / "run"
    for name in ("config.yaml", "config.json", "model.safetensors", "metrics.csv", "checkpoints/last.ckpt"):
        assert (run / name).is_file()
    assert len(list((run / "samples").iterdir())) == 2
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.rglob("*.part"))
    assert [row["step"] for row in table(run / "metrics.csv")] == ["2", "4"]


# Where settings come from


def settings(run) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_config_of_a_run_trains_it_again_bit_for_bit(home, fvae, tmp_path):
    assert fvae("train", "--config", "run/config.yaml", "--out", "OUT/again").status == 0
    a, b = load(home / "run").state_dict(), load(tmp_path / "again").state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (home / "run/config.yaml").read_text() == (tmp_path / "again/config.yaml").read_text()


def test_help_shows_the_values_of_a_settings_file_as_defaults(fvae):
    found = fvae("train", "--config", "f_vae_faces_fine", "--help")
    shown = " ".join(found.out.split())
    for text in ("one of gaussian, bernoulli, columns, flow, latent; its settings follow (default: latent)", "linear"):
        assert text in shown
    for flag, default in (
        ("model.coder.upsampling", "shuffle"),
        ("model.flow.depth", "12"),
        ("train.anneal_steps", "500"),
    ):
        assert f"(default: {default})" in shown.partition(f"--{flag} ")[2][:400], flag
    assert "(default: 2000" in " ".join(fvae("train", "vae", "--help").out.split())


def test_later_files_and_flags_override_earlier_ones(fvae, tmp_path):
    (tmp_path / "more.yaml").write_text("model: {flow: {depth: 3, width: 4}}\ntrain: {every: 1}\n")
    files = ["--config", "run/config.yaml", "--config=OUT/more.yaml"]
    found = fvae("train", *files, "--train.steps=2", "--model.flow.depth", 2, "--out", "OUT/r")
    assert found.status == 0
    content = settings(tmp_path / "r")
    assert (content["train"]["steps"], content["train"]["eval_interval"], content["train"]["batch_size"]) == (2, 1, 8)
    assert (content["model"]["flow"]["depth"], content["model"]["flow"]["width"]) == (2, 4)


def test_old_flags_are_accepted_and_the_new_ones_named(fvae, tmp_path):
    steps = [word.replace("eval_interval", "every").replace("eval_samples", "test_images") for word in STEPS]
    old = [*("--model.levels", 1, "--model.width", 4, "--model.latent", 3, "--model.bins=quantised"), *steps]
    found = fvae("train", "vae", *DIGITS, "--data.colour", "grey", "--out", "OUT/r", *old)
    assert found.status == 0
    lines = found.err.splitlines()
    for before, after in (
        ("data.colour", "data.color"),
        ("train.every", "train.eval_interval"),
        ("train.test_images", "train.eval_samples"),
        ("model.latent", "model.coder.size"),
        ("model.bins", "model.decoder.likelihood"),
    ):
        assert lines.count(f"note: --{before} is now --{after}") == 1
    content = settings(tmp_path / "r")
    assert (content["model"]["coder"]["size"], content["model"]["decoder"]["likelihood"]) == (3, "discretized")
    assert (content["train"]["eval_interval"], content["data"]["color"]) == (2, "gray")


def test_a_settings_file_of_fvae_0_1_is_read(fvae, tmp_path):
    content = "data: {colour: grey}\nmodel: {latent: 3, width: 4, levels: 1, sigma_2_kind: closed, bins: dequantised}\n"
    (tmp_path / "old.yaml").write_text(content)
    found = fvae("train", "vae", *DIGITS, "--config", "OUT/old.yaml", "--out", "OUT/r", *STEPS)
    assert found.status == 0 and "old.yaml: read as settings of fvae 0.1, which have other names now" in found.err
    model = settings(tmp_path / "r")["model"]
    assert (model["coder"]["size"], model["coder"]["width"], model["coder"]["levels"]) == (3, 4, 1)
    assert (model["decoder"]["std"], model["decoder"]["likelihood"]) == ("optimal", "density")


@pytest.mark.parametrize("flag", ["--model.flow", "--model.flow.kind"])
def test_a_flag_chooses_the_kind_of_a_part(fvae, tmp_path, flag):
    nice = [flag, "nice", "--model.flow.depth", 3, "--model.flow.width", 8]
    found = fvae("train", "f_vae", *DIGITS, "--out", "OUT/r", *nice, *STEPS)
    assert found.status == 0 and "is now" not in found.err
    expected = {"kind": "nice", "depth": 3, "width": 8, "hidden": 4}
    assert settings(tmp_path / "r")["model"]["flow"] == expected == load(tmp_path / "r").config["settings"]["flow"]


def test_flags_of_parts_inside_parts(fvae, tmp_path):
    """Their kinds are chosen, set and kept, their defaults those of the part they are in, and every verb works."""
    grid = ["--data.size", 16, "--model.coder", "grid", "--model.coder.levels", 2, "--model.coder.width", 4]
    grid += ["--model.decoder", "latent", "--model.decoder.coder.width", 4, "--model.decoder.flow.depth", 1]
    first = [*grid, "--model.decoder.decoder.sigma", 0.2]
    assert fvae("train", "f_vae_reduced", *DIGITS, "--out", "OUT/a", *first, *STEPS).status == 0
    decoder = settings(tmp_path / "a")["model"]["decoder"]
    assert decoder["coder"] == Grid(levels=2, upsampling="shuffle", width=4).model_dump()
    assert (decoder["flow"]["depth"], decoder["flow"]["width"]) == (1, 96)
    assert (decoder["decoder"]["kind"], decoder["decoder"]["sigma"]) == ("gaussian", 0.2)
    second = ["--model.decoder.decoder", "flow", "--model.decoder.decoder.flow.levels", 1]
    second += ["--model.coder.upsampling", "shuffle", "--model.decoder.coder.upsampling", "nearest"]
    second += ["--train.init", "OUT/a", "--train.freeze", "posterior,prior"]
    found = fvae("train", "--config", "OUT/a/config.yaml", "--out", "OUT/b", *second, *STEPS)
    assert found.status == 0
    assert re.search(r"begun from .*/a: \d+ of \d+ tensors; new are decoder\.", found.err)
    assert re.search(r"frozen: posterior, prior; [\d,]+ parameters are trained", found.err)
    model = settings(tmp_path / "b")["model"]
    assert (model["coder"]["upsampling"], model["decoder"]["coder"]["upsampling"]) == ("shuffle", "nearest")
    assert model["decoder"]["decoder"]["flow"]["levels"] == 1
    assert fvae("train", "--out", "OUT/b", "--resume", "--train.steps", 6).status == 0
    for verb, out in (("sample", "s.png"), ("encode", "c.npz"), ("reconstruct", "r.png"), ("score", "s.csv")):
        assert fvae(verb, "OUT/b", "--out", f"OUT/{out}").status == 0, verb
    for seed in (0, 0, 1):
        words = ["OUT/b", "OUT/c.npz", "--exact", "--decoder_temperature", 0.7, "--seed", seed]
        assert fvae("decode", *words, "--out", f"OUT/d{seed}.npz").status == 0
    assert not np.array_equal(*(np.load(tmp_path / f"d{seed}.npz")["images"] for seed in (0, 1)))
    assert fvae("interpolate", "OUT/b", "--drawn", "--steps", 3, "--out", "OUT/i.png").status == 0
    assert np.load(tmp_path / "c.npz")["codes"].shape[1] == 12 * 4 * 4 + 12 * 4 * 4
    found = fvae("train", "f_vae_reduced", *DIGITS, "--out", "OUT/c", *grid, "--model.decoder.flow", "nice")
    assert found.status == 2 and "--model.decoder.flow: expected one that takes a condition" in found.err
    found = fvae("train", "f_vae_reduced", *DIGITS, "--out", "OUT/c", *grid, "--model.decoder.decoder", "none")
    assert found.status == 2 and "--model.decoder.decoder: expected one of gaussian" in found.err


# Resuming


@pytest.fixture
def copy(home, tmp_path):
    """Copies a run to ``OUT/r``, where a test may change it."""
    return lambda run: shutil.copytree(home / run, tmp_path / "r")


@pytest.mark.parametrize("run", ["run", "rows"])
def test_a_run_is_resumed_to_a_new_end_which_it_remembers(fvae, copy, run):
    folder = copy(run)
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0
    for fewer in (6, 3):
        found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", fewer)
        assert found.status == 0 and f"--train.steps {fewer}: nothing to do, it is at step 6" in found.err
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0
    assert settings(folder)["train"]["steps"] == 6
    assert [row["step"] for row in table(folder / "metrics.csv")] == ["2", "4", "6"]
    assert len(list((folder / "samples").glob("*.png"))) == 3


def test_what_changes_when_a_run_is_resumed_is_said(fvae, copy):
    copy("run")
    found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6, "--train.lr", 3e-4)
    assert "resumed with train.steps 6 (was 4), train.lr 0.0003 (was 0.001)\n" in found.err
    assert found.status == 0 and "step 6, best held-out " in found.out


def test_a_run_of_an_older_version_is_resumed(fvae, copy):
    """Settings that its config.yaml doesn't know yet are the defaults, and names of before are read."""
    folder = copy("classes")
    content = settings(folder)
    for name in ("tokenizer", "vocabulary_size", "max_length", "labels"):
        del content["data"][name]
    for name in ("beta", "anneal", "anneal_steps", "free_nats", "free_nats_per_dim", "aggressive"):
        del content["train"][name]
    content["train"]["every"] = content["train"].pop("eval_interval")
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    assert fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6).status == 0


def test_a_run_of_fvae_0_1_is_refused_with_the_command_that_converts_it(fvae, tmp_path):
    folder = shutil.copytree(Path(__file__).parents[1] / "format_2/realnvp", tmp_path / "r")
    (folder / "config.yaml").write_text("recipe: realnvp\ndata: {source: digits}\nmodel: {levels: 1}\n")
    before = contents(folder)
    for words in ("train --out OUT/r --resume", "sample OUT/r --out OUT/s.npz"):
        found = fvae(*words.split())
        assert found.status == 2 and "written by fvae 0.1; fvae convert RUN --out NEW makes a run" in found.err
    assert contents(tmp_path) == before


def test_a_trained_run_without_its_checkpoint_is_not_trained_anew(fvae, copy):
    folder = copy("run")
    shutil.rmtree(folder / "checkpoints")
    before = contents(folder)
    found = fvae("train", "--out", "OUT/r", "--resume", "--train.steps", 6)
    assert found.status == 2 and "is trained but has no checkpoints/last.ckpt to resume from" in found.err
    assert contents(folder) == before


# Images as they come


def test_images_of_any_size_and_number_of_classes(fvae, tmp_path):
    """Of 30x45 pixels scaled to 10x15, which a model pads inside, and as many classes as there are folders."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_folder(tmp_path / "data" / name, pngs(rng.integers(0, 256, (4, 30, 45), dtype=np.uint8)))
    data = ["--data", "OUT/data", "--data.size", "10x20", "--data.fit", "pad"]
    assert fvae("train", "cvae", *data, "--out", "OUT/r/run", *SMALL, *STEPS).status == 0
    config = json.loads((tmp_path / "r/run/config.json").read_text())
    assert (config["shape"], config["settings"]["classes"], config["labels"]) == ([1, 10, 15], 3, ["a", "b", "c"])
    assert fvae("train", "--out", "OUT/r/run", "--resume", "--train.steps", 6).status == 0
    for name, verb in {"s.npz": "sample", "c.npz": "encode"}.items():
        assert fvae(verb, "OUT/r/run", "--out", f"OUT/r/{name}").status == 0
    assert np.load(tmp_path / "r/s.npz")["images"].shape[1:] == (10, 15, 1)
    other = ["--data", "OUT/data", "--data.fit", "stretch", "--data.size"]
    assert [fvae("evaluate", "OUT/r/run", *other, size).status for size in ("10x15", "10x20")] == [0, 2]


# What is said of data


def test_columns_without_a_density_are_refused(fvae, tmp_path):
    """A column of whole numbers trains on request alone, with a warning that names it; others have none."""
    rows = [f"{a},{i % 7}" for i, a in enumerate(np.random.default_rng(0).normal(size=60))]
    (tmp_path / "mixed.csv").write_text("\n".join(["a,count", *rows]) + "\n")
    small = ["--model.flow.depth", 1, "--model.flow.width", 4, *STEPS]
    words = ["train", "realnvp", "--data", "OUT/mixed.csv", "--out", "OUT/r", *small]
    found = fvae(*words)
    assert found.status == 2 and "--data: expected columns that have a density, found count (whole" in found.err
    assert not (tmp_path / "r").exists()
    found = fvae(*words, "--data.allow_degenerate", "true")
    assert found.status == 0 and found.err.startswith("warning: count (whole numbers): ")
    assert (tmp_path / "r/data.txt").read_text().splitlines()[1] == found.err.splitlines()[0]
    assert "warning" not in fvae("train", "realnvp", "--data", "rows.csv", "--out", "OUT/s", *small).err


def test_a_batch_larger_than_the_data_is_warned_of(fvae):
    found = fvae("train", "vae", "--data", "images", "--out", "OUT/r", *SMALL)
    assert found.status == 0 and "warning: --train.batch_size 8: more than the 3 training images" in found.err


def test_demo_ends_with_all_its_files_and_can_be_run_again(fvae, tmp_path):
    names = ["metrics.json", "samples.png", "temperatures.png", "reconstructions.png"]
    names += ["interpolation_2.png", "interpolation_4.png", "model.safetensors"]
    terminates = signal.getsignal(signal.SIGTERM)
    assert fvae("demo", "--minutes", 0.01, "--out", "OUT/demo").status == 0
    assert signal.getsignal(signal.SIGTERM) is terminates  # of the training alone
    assert all((tmp_path / "demo" / name).stat().st_size > 100 for name in names)
    (tmp_path / "demo/samples.png").unlink()
    assert fvae("demo", "--minutes", 0.01, "--out", "OUT/demo").status == 0
    assert all((tmp_path / "demo" / name).is_file() for name in names)
