"""Runs of fvae 0.1 (format 2), trained by it and kept in tests/format_2, as runs of today."""

import shutil
from pathlib import Path

import pytest
import torch

from fvae import load
from fvae.convert import convert
from fvae.errors import UserError
from fvae.model import LatentModel

RUNS = Path(__file__).parent / "format_2"
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


def test_a_run_of_before_is_refused_with_the_command():
    with pytest.raises(UserError, match=r"written by fvae 0\.1; fvae convert .*realnvp --out NEW makes a run of today"):
        load(RUNS / "realnvp")


def test_what_is_no_such_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected a run folder of fvae 0\.1"):
        convert(tmp_path, tmp_path / "out")
    shutil.copytree(RUNS / "realnvp", tmp_path / "there")
    with pytest.raises(UserError, match=r"--out .*there: expected a new folder"):
        convert(RUNS / "realnvp", tmp_path / "there")
