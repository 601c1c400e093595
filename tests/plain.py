"""The plain implementation, which the fast one is measured and checked against: the same weights, one step and one
layer after the other, as the theory writes them and torch computes them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from fvae.flows import one_by_one
from fvae.nets.products import Conv2d, CouplingNet


def convolution(conv: Conv2d, x: Tensor) -> Tensor:
    """torch's own convolution of x as it lies in memory, then the ReLU."""
    z = nn.Conv2d.forward(conv, x)
    return F.relu(z) if conv.relu else z


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Until the block ends, ``model`` (and every other's networks) run plainly."""
    fast = Conv2d.forward, CouplingNet.forward
    try:
        Conv2d.forward, CouplingNet.forward = convolution, nn.Sequential.forward
        with one_by_one(model):
            yield
    finally:
        Conv2d.forward, CouplingNet.forward = fast
