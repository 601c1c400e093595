"""What every test stands on: a seed, one thread, weights that have left their zeros; calls noted, and edits."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fvae.conditioners.base import parameters_of
from fvae.recipes import RECIPES
from fvae.transforms import Affine

TEXT = ("text_vae", "language_model")
SEEN = [name for name in RECIPES if name not in TEXT]  # recipes of images and rows

pytest_plugins = ["command_line"]  # fixtures of the command line: home, fvae

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests run first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def seed():
    """Each test starts from the same random state, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def float64():
    """Double precision, where equality is claimed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@torch.no_grad()
def perturb(module: nn.Module, scale: float = 0.15) -> nn.Module:
    """Move every parameter off its start: a zero-initialised flow is the identity and would hide errors."""
    for parameter in module.parameters():
        parameter.add_(scale * torch.randn_like(parameter))
    return module


def spied(patch: pytest.MonkeyPatch, owner: object, name: str, seen: list[str]) -> None:
    """Note the name in ``seen`` at each call of owner.name."""
    before = getattr(owner, name)

    def spy(*args, **kwargs):
        seen.append(name)
        return before(*args, **kwargs)

    patch.setattr(owner, name, spy)


def savez(path: Path, **arrays) -> Path:
    """Arrays as an .npz, at ``path``."""
    np.savez(path, **arrays)
    return path


def cut(path: Path) -> Path:
    """Half of a file is lost."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


class MeanStd(nn.Module):
    """A conditioner of a network's two outputs: (mean, bound tanh(s / bound)), as a pair."""

    def __init__(self, net: nn.Module, bound: float = 3.0):
        super().__init__()
        self.net, self.transform = net, Affine(bound)

    def forward(self, *cond):
        return parameters_of(self.net, self.transform, *cond)
