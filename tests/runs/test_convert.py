"""Runs of fvae 0.1 (format 2), trained by it and kept in tests/format_2, as runs of today."""

import shutil
from pathlib import Path

import pytest
import torch

from fvae import load
from fvae.cli import main
from fvae.errors import InputError
from fvae.model import LatentModel
from fvae.runs.convert import convert

RUNS = Path(__file__).parents[1] / "format_2"
LOSSES = {  # as fvae 0.1 said
    "bn_vae": 11.4671653729,
    "f_vae_general": 7569.32252773,
    "realnvp": 5.63275982703,
    "text_vae": 10.429479867,
}


def loss(model: LatentModel) -> float:
    """The loss of two samples made by rule, in float64: what fvae 0.1 said is in ``LOSSES``."""
    model.double()
    n = torch.tensor(model.shape).prod().item()
    x = {
        1: torch.linspace(-1, 1, 2 * n).double().view(2, -1),
        2: torch.tensor([[5, 6, 7, 2], [9, 2, 0, 0]]),
        3: (torch.arange(2 * n) * 7 % 256).double().view(2, *model.shape),
    }[len(model.shape)]
    y = torch.tensor([0, 1]) if model.classes else None
    u = torch.linspace(-1, 1, model.noise(2).numel()).double().view(2, *model.noise_shape)
    return model(x, y, u).loss().item()


@pytest.mark.parametrize("name", LOSSES)
@torch.no_grad()
def test_a_converted_run_is_the_same_model(name, tmp_path):
    """Each weight has found its place: the loss is the one of before."""
    convert(RUNS / name, tmp_path / "run")
    assert loss(load(tmp_path / "run")) == pytest.approx(LOSSES[name], rel=1e-10)


def test_an_old_run_is_refused_and_the_command_named():
    with pytest.raises(InputError, match=r"written by fvae 0\.1; fvae convert RUN --out NEW makes a run of this"):
        load(RUNS / "realnvp")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        convert(tmp_path, tmp_path / "out")
    shutil.copytree(RUNS / "realnvp", tmp_path / "there")
    with pytest.raises(InputError, match=r"out: .*there: expected a new folder"):
        convert(RUNS / "realnvp", tmp_path / "there")


def test_the_command_converts(tmp_path, capsys):
    """With the run's figures; of a run of today it says what it expects."""
    argv = ["convert", str(RUNS / "bn_vae"), "--out", str(tmp_path / "new")]
    assert main(argv) == 0 and "format 3; training cannot be resumed from it" in capsys.readouterr().out
    assert {path.name for path in (RUNS / "bn_vae").iterdir()} == {path.name for path in (tmp_path / "new").iterdir()}
    assert main(argv) == 2 and capsys.readouterr().err.endswith("new: expected a new folder\n")
    assert main(["convert", str(tmp_path / "new"), "--out", str(tmp_path / "again")]) == 2
    assert "config.json: format: expected 2, of fvae 0.1, found 3, which needs no conversion" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
