"""The README, and the page on text: their Python runs, and their commands are the command line's."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

import fvae
from fvae.cli import main, train
from fvae.cli.dispatch import COMMANDS
from fvae.data import Text, Tokenizer
from fvae.errors import InputError
from fvae.recipes import LSTM, RECIPES, TextEncoder, text_vae

README, TEXT = ((Path(__file__).parents[2] / name).read_text() for name in ("README.md", "docs/text.md"))
LINES = [line.strip() for line in (README + TEXT).splitlines()]
SHELL = [line.split("#")[0].strip() for line in LINES if line.startswith("fvae ")]


def python(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.S)


@pytest.mark.slow
@pytest.mark.parametrize("code", python(README), ids=["images", "table", "table of several types", "text"])
def test_python_examples_run(code, tmp_path, monkeypatch):
    """The examples train, score, sample and save as they stand, in a few lines of code."""
    monkeypatch.chdir(tmp_path)
    words = [["a", "the", "one"], ["cat", "dog", "bird"], ["sleeps", "runs", "sings"], ["here", "there", "today"]]
    (tmp_path / "sentences.txt").write_text("".join(" ".join(line) + "\n" for line in itertools.product(*words)))
    code = code.replace("steps=200", "steps=5").replace("Density(", 'Density(training={"steps": 5}, ')
    exec(compile(code, "README.md", "exec"), {})
    assert len(list((tmp_path / "models").glob("*/model.safetensors"))) == 1
    assert len(code.splitlines()) <= 13


def test_the_python_example_on_text_runs(tmp_path, monkeypatch, capsys):
    """The example runs as it stands, in a folder that holds a run as it expects."""
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer.train(["he likes red wine"], "word", 20, 8)
    model = text_vae(tokenizer.shape, encoder=TextEncoder(hidden=8), decoder=LSTM(hidden=8)).eval()
    model.modality = Text(tokenizer.shape, tokenizer=tokenizer)
    fvae.save(model, tmp_path / "runs/text")
    (code,) = python(TEXT)
    exec(compile(code, "docs/text.md", "exec"), {})
    assert capsys.readouterr().out.startswith("['")


@pytest.mark.parametrize("line", SHELL)
def test_commands_have_known_arguments(line, tmp_path, monkeypatch, capsys):
    """Every command of the README has known arguments with good values: all it lacks is the run or the data."""

    def stop(*_):
        raise InputError("no such file")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load_data", stop)
    monkeypatch.setattr(train, "fit", stop)
    status, err = main(shlex.split(line)[1:]), capsys.readouterr().err
    assert "is now" not in err
    assert line == "fvae recipes" or (
        status == 2 and re.search("no such (file|run folder)|holds no run|expected a run folder of", err)
    ), err


def test_every_command_and_recipe_is_named():
    named = {line.split()[1] for line in SHELL}
    assert all(f"`{name}`" in README for name in RECIPES)
    assert COMMANDS.keys() - named <= {"convert", "decode", "demo", "export"}  # in the text, and behind make demo
