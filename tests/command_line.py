"""Fixtures of the command line: runs on images, tables and text, much that is broken, and a way to run a command."""

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import cut
from PIL import Image
from sources import LINES, write_lines

from fvae.cli import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # of processes
DIGITS = ["--data", "digits"]
STEPS = [
    *("--train.steps", "4", "--train.eval_interval", "2", "--train.batch_size", "8", "--train.eval_samples", "8"),
    *("--train.accelerator", "cpu"),
]
TINY = [
    *("--model.coder.squeezes", "1", "--model.coder.blocks", "1", "--model.flow.levels", "1"),
    *("--model.flow.depth", "1", "--model.flow.width", "8", "--model.bits", "4", *STEPS),
]
LANGUAGE = ["--model.decoder.embedding", "8", "--model.decoder.hidden", "12", "--model.decoder.dropout", "0", *STEPS]
SENTENCES = [*("--model.latent", "3", "--model.encoder.embedding", "8", "--model.encoder.hidden", "12"), *LANGUAGE]
SENTENCES += ["--data.held_out", "0.3"]
SMALL = ["--model.coder.levels", "1", "--model.coder.size", "2", "--model.coder.width", "4"]
CONFIGS = {
    "typo.yaml": "data: {source: digits}\ntrain: {stepz: 3}\n",
    "section.yaml": "data: {source: digits}\ntrian: {steps: 3}\n",
    "type.yaml": "data: {source: digits}\ntrain: {steps: three}\n",
    "bool.yaml": "data: {source: digits}\ntrain: {steps: true}\n",
    "model.yaml": "recipe: f_vae\ndata: {source: digits}\nmodel: {flow: {depth: 0}}\n",
    "flat.yaml": "data: digits\n",
    "broken.yaml": "data: {source: [\n: :",
    "words.yaml": "just words",
    "recipe.yaml": "recipe: glow\n",
    "list.yaml": "recipe: [glow]\n",
}


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A folder with runs on images, tables and text, the first's model alone, data, and much that is broken.

    No test may change it.
    """
    home = tmp_path_factory.mktemp("cli")
    write_images(home)
    write_tables(home)
    write_codes(home)
    write_lines(home / "cats.txt", LINES * 8)
    write_lines(home / "labels.txt", list("01101") * 8)
    write_lines(home / "two.txt", LINES[:2])
    labels = ["--data.labels", str(home / "labels.txt"), "--model.classes", "2"]
    for name, content in CONFIGS.items():
        (home / name).write_text(content)
    for run, recipe, source, settings in (
        ("run", "f_vae", "digits", TINY),
        ("other_shape", "f_vae", home / "large", [*TINY, "--data.size", "4"]),
        ("rows", "glow", home / "rows.csv", ["--model.flow.depth", "2", "--model.flow.width", "8", *STEPS]),
        ("classes", "cvae", "digits", [*SMALL, *STEPS]),
        ("both", "cvae", home / "both.csv", [*SMALL, "--model.classes", "2", *STEPS]),
        ("text", "text_vae", home / "cats.txt", SENTENCES),
        ("text_classes", "text_vae", home / "cats.txt", [*SENTENCES, *labels]),
        ("characters", "text_vae", home / "cats.txt", [*SENTENCES, "--data.tokenizer", "character"]),
        ("language", "language_model", home / "cats.txt", LANGUAGE),
    ):
        assert main(["train", recipe, "--data", str(source), "--out", str(home / run), *settings]) == 0
    (home / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(home / "run" / name, home / "model" / name)
    for name in ("no_metrics", "bad_metrics", "cut_checkpoint", "bad_settings"):
        shutil.copytree(home / "run", home / name)
    (home / "no_metrics/metrics.csv").unlink()
    (home / "bad_metrics/metrics.csv").write_text("step,seconds\n1,2\n")
    (home / "bad_settings/config.yaml").write_text("data: {source: digits, size: big}\n")
    cut(home / "cut_checkpoint/checkpoints/last.ckpt")
    return home


def write_images(home: Path) -> None:
    """Pictures of several sizes and kinds, and files that are none."""
    rng = np.random.default_rng(0)
    for folder, n, size in (("images", 4, 8), ("large", 3, 20)):
        (home / folder).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8)).save(home / folder / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (21, 30, 3), dtype=np.uint8)).save(home / "wide.png")
    Image.fromarray(rng.integers(0, 256, (5, 5, 4), dtype=np.uint8)).save(home / "small.webp")
    (home / "empty").mkdir()
    (home / "file.txt").write_text("no image")


def write_tables(home: Path) -> None:
    """Tables of the columns a, b, c: alone, with labels, and those that no run on them can use."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32) * [1, 10, 0.1]
    rows = [",".join(map(str, row)) for row in x]
    swapped = [",".join(map(str, row[[1, 0, 2]])) for row in x]
    for name, lines in {
        "rows.csv": ["a,b,c", *rows],
        "both.csv": ["a,b,c,label", *(f"{row},{'xy'[i % 2]}" for i, row in enumerate(rows))],
        "swapped.csv": ["b,a,c", *swapped],
        "narrow.csv": ["a,b", *(row.rpartition(",")[0] for row in rows)],
    }.items():
        (home / name).write_text("\n".join(lines) + "\n")
    np.savez(home / "rows.npz", x=x)


def write_codes(home: Path) -> None:
    """Codes that don't fit, or none."""
    (home / "codes.txt").write_text("no codes")
    codes = np.zeros((3, 2), np.float32)
    np.savez(home / "narrow.npz", codes=np.zeros((3, 5), np.float32))
    np.savez(home / "nan.npz", codes=np.full((3, 64), np.nan, np.float32))
    np.savez(home / "nothing.npz", codes=codes[:, :0])
    np.savez(home / "unlabelled.npz", codes=codes)
    np.savez(home / "mislabelled.npz", codes=codes, labels=[0, 1, 10])
    np.savez(home / "few_labels.npz", codes=codes, labels=[0, 1])


@pytest.fixture
def fvae(home, tmp_path, monkeypatch, capsys) -> Callable[..., Result]:
    """Run a command in ``home``; ``OUT`` in an argument is a new folder."""
    monkeypatch.chdir(home)

    def run(*argv: object) -> Result:
        capsys.readouterr()
        status = main([str(word).replace("OUT", str(tmp_path)) for word in argv])
        return Result(status, *capsys.readouterr())

    return run


def program(*argv: object) -> list[str]:
    """The command line of a process of its own."""
    return [sys.executable, "-m", "fvae", *map(str, argv)]


def process(*argv: object, **options) -> subprocess.CompletedProcess:
    """Run a command in a process of its own."""
    return subprocess.run(program(*argv), env=ENVIRONMENT, capture_output=True, text=True, timeout=240, **options)


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
