"""Density arithmetic: sums in float32 or wider, bins and the unit interval, units, and integrals of the normal law."""

import math

import pytest
import torch
from torch.distributions import Normal

from fvae.density import LOG_2PI, LogBetween, bits_per_dim, from_unit, log_between, log_normal, to_unit, total

pytestmark = pytest.mark.usefixtures("float64")


def test_atoms_sum_in_float32_at_least():
    """total of bfloat16 is float32, and right where a bfloat16 sum is off; log N is torch's."""
    a = torch.full((2, 4096), 0.01, dtype=torch.bfloat16)
    assert total(a).dtype == torch.float32
    torch.testing.assert_close(total(a), a.double().sum(1).float(), rtol=1e-5, atol=0)
    assert total(a.double()).dtype == torch.float64
    e = torch.randn(3, 2, 4)
    torch.testing.assert_close(log_normal(e), Normal(0, 1).log_prob(e).sum((1, 2)))
    assert math.log(2 * math.pi) == LOG_2PI


def test_bits_per_dim_is_nats_over_dims_and_log_2():
    """D log 2 nats are one bit a dimension, of a number and of a tensor."""
    assert bits_per_dim(12 * math.log(2), 12) == pytest.approx(1)
    torch.testing.assert_close(bits_per_dim(torch.tensor([3.0, 6.0]), 3), torch.tensor([1.0, 2.0]) / math.log(2))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bins_and_the_unit_interval(bits):
    """to_unit puts 2^bits bins of width 2 / 2^bits on [-1, 1], by their middles, and from_unit undoes it."""
    x, width = torch.arange(2**bits).double(), 2 / 2**bits
    v = to_unit(x, bits)
    torch.testing.assert_close(v, -1 + width / 2 + width * x)
    torch.testing.assert_close(from_unit(v, bits), x)


@pytest.mark.parametrize("half", [1e-3, 0.1, 1.0, 30.0])
def test_the_integral_between_two_points_keeps_its_precision_in_the_tails(half):
    """Against differences of log_ndtr in float64; float32 and the gradient by hand against float64's by autograd."""
    middle = torch.linspace(-60, 60, 1201).float()  # float32's own numbers, so that all see the same
    low, high = ((middle + step).double().requires_grad_() for step in (-half, half))
    middle = middle.double()
    below, above = torch.where(middle > 0, -high, low), torch.where(middle > 0, -low, high)
    a, b = torch.special.log_ndtr(below), torch.special.log_ndtr(above)
    exact = b + torch.log(-torch.expm1(a - b))
    plain, found = log_between(low, high), LogBetween.apply(low, high)
    assert torch.equal(plain, found)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-10)
    by_autograd, by_hand = (torch.autograd.grad(f.sum(), [low, high]) for f in (plain, found))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-8, atol=1e-10)

    near, far = (end.detach().float().requires_grad_() for end in (low, high))
    single = LogBetween.apply(near, far)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=2e-5)
    for one, other in zip(torch.autograd.grad(single.sum(), [near, far]), by_hand, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=1e-5)
