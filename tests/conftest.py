"""What every test stands on: a seed, one thread, weights that have left their zeros; calls noted, and edits."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fvae.nets.products import Conv2d, CouplingNet
from fvae.recipes import RECIPES

TEXT = ("text_vae", "language_model")
SEEN = [name for name in RECIPES if name not in TEXT]  # recipes of images and rows

torch.set_num_threads(1)


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


class Louder(Conv2d):
    """A convolution of someone's own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Halved(CouplingNet):
    """A network of someone's own."""

    def forward(self, x):
        return super().forward(x) / 2


def middle(net: CouplingNet, kind: type[Conv2d], size: int, bias: bool = True) -> None:
    """Put another convolution in the middle."""
    n = net[0].out_channels
    net[1] = perturb(kind(n, n, size, bias=bias, relu=True))


def reclass(net: CouplingNet) -> None:
    net.__class__ = Halved


EDITS: dict[str, Callable[[CouplingNet], object]] = {  # what someone may do to a coupling's network
    "a layer more": lambda net: net.append(nn.Tanh()),
    "another layer": lambda net: net.__setitem__(1, nn.Tanh()),
    "another class": reclass,
    "a layer of another class": lambda net: middle(net, Louder, 1),
    "a larger kernel": lambda net: middle(net, Conv2d, 3),
    "no bias": lambda net: middle(net, Conv2d, 1, bias=False),
    "no ReLU": lambda net: setattr(net[0], "relu", False),
    "a ReLU more": lambda net: setattr(net[2], "relu", True),
    "weight norm": lambda net: [nn.utils.parametrizations.weight_norm(layer) for layer in net],
    "a hook before": lambda net: net.register_forward_pre_hook(lambda net, args: (args[0].sin(),)),
    "a hook after": lambda net: net.register_forward_hook(lambda net, args, z: z.sin()),
    "a hook before a layer": lambda net: net[1].register_forward_pre_hook(lambda layer, args: (args[0].sin(),)),
    "a hook after a layer": lambda net: net[1].register_forward_hook(lambda layer, args, z: z.sin()),
    "a hook on gradients": lambda net: net[1].register_full_backward_hook(lambda layer, din, dout: (2 * din[0],)),
    "a hook before gradients": lambda net: net[1].register_full_backward_pre_hook(lambda layer, dz: (2 * dz[0],)),
}
