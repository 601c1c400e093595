"""What every test stands on: a seed, one thread, and weights that have left their zeros."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch import nn

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
