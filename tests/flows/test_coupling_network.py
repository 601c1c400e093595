"""A coupling's network is its three convolutions, by whichever way it is computed."""

from unittest import mock

import pytest
import torch
from conftest import perturb
from small import LAYOUTS

from fvae.flows.fused import CouplingNet

SIZES = {  # c_in, c_out, height, width
    "few channels": (2, 4, 4, 5),
    "one": (1, 1, 2, 3),
    "as few as count": (8, 8, 3, 3),
    "one position": (3, 2, 1, 1),
    "a row": (2, 1, 1, 7),
    "a column": (1, 2, 7, 1),
    "more channels leave": (4, 9, 3, 4),
    "more channels enter": (9, 4, 3, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_coupling_network_is_its_three_convolutions(size, layout, float64):
    """By either way value and gradients are those of torch's convolutions and ReLUs, whatever the memory of x."""
    c_in, c_out, h, w = size
    net, x = perturb(CouplingNet(c_in, c_out, 16)), layout(3, c_in, h, w).requires_grad_()
    expected = net.by_convolutions(x)
    with mock.patch.object(CouplingNet, "by_products", autospec=True, side_effect=CouplingNet.by_products) as products:
        z = net(x)
    assert products.called == (max(c_in, c_out) <= 8)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    of, towards = [x, *net.parameters()], layout(*z.shape)
    found, right = (torch.autograd.grad(a, of, towards) for a in (z, expected))
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


def test_under_autocast_convolutions_run():
    """Sums of nine products in bfloat16 would lose digits."""
    net, x = perturb(CouplingNet(2, 4, 16)), torch.randn(3, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        torch.testing.assert_close(net(x), net.by_convolutions(x), rtol=0, atol=0)
