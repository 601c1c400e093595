"""3x3 and 1x1 convolutions are torch's own: values and gradients, of every shape and memory."""

from functools import partial

import pytest
import torch
from conftest import spied
from small import LAYOUTS, elsewhere
from torch import nn

from fvae.networks.conv import Conv2d

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)

CONVOLUTIONS = {  # c_in, c_out, size, height, width
    "1x1": (5, 7, 1, 4, 6),
    "1x1 of one position": (3, 4, 1, 1, 1),
    "1x1 of one channel": (1, 6, 1, 5, 2),
    "3x3": (3, 5, 3, 6, 3),
    "one position": (4, 3, 3, 1, 1),
    "a column": (2, 2, 3, 3, 1),
    "a row": (5, 4, 3, 1, 16),
    "widening": (2, 64, 3, 5, 6),
    "one channel": (1, 32, 3, 2, 4),
    "narrowing": (64, 2, 3, 5, 6),
}
every_convolution = pytest.mark.parametrize(
    ("c_in", "c_out", "size", "h", "w"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@every_convolution
def test_a_convolution_is_torchs(c_in, c_out, size, h, w, layout, float64):
    """Value and gradients of x, weight and bias are those of nn.Conv2d, whatever x's memory; channels end innermost.

    A 1x1 convolution never goes to the library's.
    """
    x = layout(3, c_in, h, w).requires_grad_()
    for bias in (True, False):
        conv = Conv2d(c_in, c_out, size, bias=bias)
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            spied(patch, nn.Conv2d, "forward", seen)
            z = conv(x)
        expected = nn.Conv2d.forward(conv, x)
        assert z.shape == expected.shape and len(seen) == (size == 3)
        assert z.permute(0, 2, 3, 1).is_contiguous() or 1 in (c_in, h)  # whose order in memory can't be told
        of, towards = [x, *conv.parameters()], layout(*z.shape)
        assert len(of) == 2 + bias
        close(z, expected)
        close(torch.autograd.grad(z, of, towards), torch.autograd.grad(expected, of, towards))


@pytest.mark.parametrize("where", ["on a GPU", "compiling"])
def test_a_convolution_elsewhere_takes_x_as_it_lies(where, monkeypatch):
    """On a GPU, and while a graph is compiled, a 3x3 convolution leaves the memory's order to others."""
    x, given = elsewhere(where, torch.randn(2, 3, 4, 5), monkeypatch), []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda conv, x: given.append(x) or x)
    Conv2d(3, 3, 3)(x)
    assert given[0] is x
