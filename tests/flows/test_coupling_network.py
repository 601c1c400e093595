"""A coupling's network is its three convolutions, by whichever way it is computed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import perturb, spied
from plain import plain
from small import LAYOUTS, elsewhere
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev

from fvae.flows.fused import CouplingNet, network
from fvae.flows.fused.network import products_are_faster

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
Size = tuple[int, int, int, int, int, int]  # c_in, c_out, width, batch, height, width

NETWORKS: dict[str, tuple[Size, bool, bool]] = {  # by hand with gradients, and without, of blocks of 256 values
    "few values": ((1, 2, 16, 3, 3, 3), True, False),
    "few, of one position": ((3, 2, 24, 5, 1, 1), True, False),
    "few, in a row": ((2, 1, 16, 2, 1, 7), True, False),
    "few, in a column": ((1, 2, 16, 2, 7, 1), True, False),
    "many narrow rows": ((1, 2, 40, 3, 5, 7), True, True),
    "many, in a column": ((2, 1, 40, 9, 17, 1), True, True),
    "many, wider than a block": ((1, 1, 300, 1, 2, 2), True, True),
    "by the library": ((3, 3, 8, 2, 5, 5), False, False),
}
every_way_by_hand = pytest.mark.parametrize("size", [NETWORKS["few values"][0], NETWORKS["many narrow rows"][0]])


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 256 values."""
    monkeypatch.setattr(network, "BLOCK", 2**8)


def network_and_x(size: Size, layout: Callable[..., Tensor] = torch.randn) -> tuple[CouplingNet, Tensor]:
    c_in, c_out, width, b, h, w = size
    return perturb(CouplingNet(c_in, c_out, width)), layout(b, c_in, h, w).requires_grad_()


def runs(net: CouplingNet, x: Tensor) -> bool:
    """Whether a network of this input would run by hand."""
    return products_are_faster(x.permute(0, 2, 3, 1), net.weight_1, net.weight_3)


def by_hand(call: Callable[[], Any]) -> tuple[Any, bool]:
    """What a call gives, and whether a network ran by hand in it."""
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        spied(patch, network, "three_products", seen)
        return call(), bool(seen)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("size", "training", "sampling"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_coupling_network_is_its_three_convolutions(size, training, sampling, layout, float64, small_blocks):
    """By either way value and gradients are those of torch's convolutions and ReLUs, whatever the memory of x."""
    net, x = network_and_x(size, layout)
    with plain(net):
        expected = net(x)
    z, went = by_hand(lambda: net(x))
    assert went == training
    with torch.no_grad():
        without, went = by_hand(lambda: net(x))
    assert went == sampling
    close((z, without), (expected, expected))
    of, towards = [x, *net.parameters()], layout(*z.shape)
    close(torch.autograd.grad(z, of, towards), torch.autograd.grad(expected, of, towards))


CHOICES: dict[str, tuple[Size, bool, bool]] = {  # by hand with gradients, and without, of blocks of 100 values
    "4 blocks, 20 times wider": ((1, 1, 20, 2, 2, 5), True, True),
    "of several channels": ((2, 2, 40, 2, 5, 1), True, True),
    "under 20 times wider": ((1, 1, 19, 2, 3, 4), False, False),
    "than what enters": ((2, 1, 39, 1, 3, 4), False, False),
    "than what leaves": ((1, 2, 39, 1, 3, 4), False, False),
    "under 4 blocks": ((1, 1, 20, 1, 19, 1), False, False),
    "2 blocks": ((1, 1, 20, 1, 2, 5), False, False),
    "under 2 blocks": ((1, 1, 20, 1, 3, 3), True, False),
    "under 2 blocks, 8 times wider": ((1, 1, 8, 2, 3, 4), True, False),
    "2 blocks, 8 times wider": ((1, 1, 8, 1, 5, 5), False, False),
    "under 8 times wider": ((1, 1, 7, 1, 1, 3), False, False),
    "8 times wider than what enters alone": ((1, 2, 15, 1, 1, 3), False, False),
    "8 times wider than what leaves alone": ((2, 1, 15, 1, 1, 3), False, False),
}


@pytest.mark.parametrize(("size", "training", "sampling"), CHOICES.values(), ids=CHOICES.keys())
def test_the_choice_of_a_way(size, training, sampling, monkeypatch):
    """By hand from 4 blocks of values and 20 times the channels; below 2 blocks, in training alone, from 8 times."""
    monkeypatch.setattr(network, "BLOCK", 100)
    net, x = network_and_x(size)
    assert runs(net, x) == training
    with torch.no_grad():
        assert runs(net, x) == sampling


@pytest.mark.parametrize("where", ["on a GPU", "compiling"])
@every_way_by_hand
def test_elsewhere_networks_run_layer_by_layer(size, where, small_blocks, monkeypatch):
    """On a GPU, while a graph is compiled, and under autocast, in bfloat16, nothing runs by hand."""
    net, x = network_and_x(size)
    assert runs(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs(net, x) and net(x).dtype == torch.bfloat16
    assert not runs(net, elsewhere(where, x, monkeypatch))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@every_way_by_hand
def test_transforms_of_a_network(size, float64, small_blocks):
    """torch.func's Jacobians and Hessian are autograd's, by hand or plain."""
    net, x = network_and_x(size)
    x = x.detach()
    jacobian, went = by_hand(lambda: torch.autograd.functional.jacobian(net, x))
    assert went
    for transform in (jacrev, jacfwd):
        found, went = by_hand(lambda transform=transform: transform(net)(x))
        assert not went
        close(found, jacobian)
    loss = lambda a: net(a).sin().sum()  # noqa: E731
    with plain(net):
        expected = torch.autograd.functional.hessian(loss, x)
    close(hessian(loss)(x), expected)
