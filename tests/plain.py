"""The plain implementation, which the fast one is measured and checked against: the same weights, one step and one
layer after the other, as the theory writes them and torch computes them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from fvae.flows.fused import CouplingNet, one_by_one
from fvae.networks.conv import Conv2d


def three_layers(net: CouplingNet, x: Tensor) -> Tensor:
    """torch's own convolutions of x as it lies in memory, with ReLUs between them."""
    h = F.relu(F.conv2d(x, net.weight_1, net.bias_1, padding=1))
    return F.conv2d(F.relu(F.conv2d(h, net.weight_2, net.bias_2)), net.weight_3, net.bias_3, padding=1)


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Until the block ends, ``model`` (and every other's networks) run plainly."""
    fast = Conv2d.forward, CouplingNet.forward
    try:
        Conv2d.forward, CouplingNet.forward = nn.Conv2d.forward, three_layers
        with one_by_one(model):
            yield
    finally:
        Conv2d.forward, CouplingNet.forward = fast
