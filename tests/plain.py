"""The plain implementation, which the fast one is measured and checked against: the same weights, one step and one
layer after the other, as the theory writes them and torch computes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import nn

from fvae.flows.fused import CouplingNet, one_by_one


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Until the block ends, ``model`` (and every other's networks) run plainly."""
    with mock.patch.object(CouplingNet, "forward", CouplingNet.by_convolutions), one_by_one(model):
        yield
