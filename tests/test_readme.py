"""The README, and the page on text: their Python runs, and their commands are the command line's."""

import re
import shlex
from pathlib import Path

import pytest

from fvae.cli import ARGUMENTS, COMMANDS, make_parser, parse, run_command
from fvae.data import Text, Vocabulary
from fvae.errors import UserError
from fvae.recipes import RECIPES, glow, text_vae

README, TEXT = ((Path(__file__).parents[1] / name).read_text() for name in ("README.md", "docs/text.md"))
LINES = [line.strip() for line in (README + TEXT).splitlines()]
SHELL = [line.split("#")[0].strip() for line in LINES if line.startswith("fvae ")]


def python(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    return code


def test_python_runs(tmp_path, monkeypatch):
    """The example runs as it stands, in a folder that holds a run as its last lines expect."""
    from fvae import save

    monkeypatch.chdir(tmp_path)
    save(glow((1, 8, 8), flow={"levels": 1, "depth": 1, "width": 8}), tmp_path / "runs/demo")
    exec(compile(python(README), "README.md", "exec"), {})


def test_python_of_text_runs(tmp_path, monkeypatch, capsys):
    from fvae import save

    monkeypatch.chdir(tmp_path)
    vocabulary = Vocabulary.built(["he likes red wine"], "word", 20, 8)
    model = text_vae(vocabulary.shape, encoder={"hidden": 8}, decoder={"hidden": 8}).eval()
    model.modality = Text(vocabulary.shape, known=vocabulary)
    save(model, tmp_path / "runs/text")
    exec(compile(python(TEXT), "docs/text.md", "exec"), {})
    assert capsys.readouterr().out.startswith("['")


@pytest.mark.parametrize("line", SHELL)
def test_commands_parse(line, monkeypatch):
    """Every command of the README is taken by the parser, up to the run folder that is not here."""
    _, command, *argv = shlex.split(line)
    if command == "train":
        seen: list = []
        monkeypatch.setattr("fvae.commands.train", lambda *args: seen.append(args))
        if "--resume" in argv:
            with pytest.raises(UserError, match="holds no run; name a recipe to begin one"):
                run_command(command, argv)
        else:
            run_command(command, argv)
            assert seen[0][0] in RECIPES
    else:
        parser = make_parser(command)
        for add in ARGUMENTS[command]:
            add(parser)
        parse(parser, ["--data.source" if a == "--data" else a for a in argv])


def test_every_command_and_recipe_is_named():
    named = {line.split()[1] for line in SHELL}
    assert COMMANDS.keys() - named <= {"convert", "decode", "demo"}  # in the text, and behind make demo
    assert all(f"`{name}`" in README for name in RECIPES)
