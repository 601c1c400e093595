"""Gaussian decoders: a density of continuous data; of data in bins its mean over a bin, or the bin's probability."""

import functools
import math

import numpy as np
import pytest
import torch
from conftest import MeanStd, perturb
from small import Net, bins, each
from torch import nn
from torch.distributions import Normal

from fvae.conditioners import SharedStd
from fvae.decoders import DequantizedGaussian, DiscretizedGaussian, Gaussian
from fvae.density import to_unit
from fvae.flows import Chain, Elementwise, Flatten, scaling
from fvae.model import LatentModel

pytestmark = pytest.mark.usefixtures("float64")


def around_z(std: float) -> SharedStd:
    """A decoder's conditioner whose mean is z itself."""
    return SharedStd(nn.Identity(), std)


@torch.no_grad()
def test_the_gaussian_is_a_density():
    """log p(x|z) is that of torch's normal distribution, and its mean is what is decoded."""
    conditioner = perturb(MeanStd(Net(2, 6)))
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    mean, log_std = conditioner(z)
    expected = Normal(mean, log_std.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(Gaussian(conditioner)(x, z), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(Gaussian(conditioner).mean(z), mean)


@pytest.mark.parametrize("bits", [1, 3, 8])
@torch.no_grad()
def test_the_binned_gaussian_is_the_mean_over_the_noise(bits):
    """E_U log N(v + U) + D log w: exactly by quadrature, and below the bin's own."""
    conditioner = perturb(MeanStd(Net(2, 6), bound=6.0), 1.0)
    x, z = bins(40, (3,), bits), torch.randn(40, 2)
    mean, log_std = conditioner(z)
    normal, v, w = Normal(mean, log_std.exp()), to_unit(x, bits), 2 / 2**bits
    value = DequantizedGaussian(conditioner, bits)(x, z)
    nodes, weights = np.polynomial.legendre.leggauss(3)  # exact: the integrand is a square
    integral = sum(a / 2 * normal.log_prob(v + w / 2 * t) for t, a in zip(nodes, weights, strict=True))
    torch.testing.assert_close(value, (integral + math.log(w)).sum(1), rtol=1e-10, atol=1e-10)
    assert (value <= DiscretizedGaussian(conditioner, bits)(x, z) + 1e-9).all()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("std", [3e-4, 0.01, 0.3, 20.0])
@torch.no_grad()
def test_a_discretized_gaussian_gives_each_bin_its_probability(bits, std):
    """Its probabilities are differences of the normal integral, the tails' in the last bins, and add up to 1."""
    x, w = torch.arange(2**bits).double()[:, None], 2 / 2**bits
    for mean in (-30, -1.7, -0.99, 0.0, 0.31, 1.2, 30):
        decoder, z = DiscretizedGaussian(around_z(std), bits), torch.full_like(x, mean)
        edges = ((-1 + w * torch.arange(1, 2**bits).double()) - mean) / std
        below = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)])
        found = decoder(x, z)
        torch.testing.assert_close(found.exp(), below.diff(), rtol=1e-9, atol=1e-12)
        assert found.max() <= 0
        assert found.exp().sum().item() == pytest.approx(1, abs=1e-12) and found.isfinite().all()
        torch.testing.assert_close(
            decoder.mean(z), DequantizedGaussian(decoder.conditioner, bits).mean(z).clamp(0, 2**bits - 1)
        )


def test_a_discretized_gaussian_has_a_gradient_everywhere():
    """In float32 too: finite, towards the bin (or the tail), and to a wider std where it is far, down to w / 20."""
    x = torch.tensor([[0.0], [128.0], [255.0]], dtype=torch.float32)
    for std in (4e-4, 0.01, 1.0, 30.0):
        for mean in (-3.0, -0.5, 0.7, 3.0):
            z, conditioner = torch.full_like(x, mean, requires_grad=True), around_z(std).float()
            DiscretizedGaussian(conditioner, 8)(x, z).sum().backward()
            assert z.grad.isfinite().all() and conditioner.log_std.grad.isfinite()
            assert z.grad[0] <= 0 <= z.grad[2] and z.grad[1] * (to_unit(x[1], 8) - mean) >= 0
            if std <= 0.01:
                assert conditioner.log_std.grad > 0 and z.grad[1] != 0


@pytest.mark.parametrize("error", [0.0, 0.1])
@torch.no_grad()
def test_the_best_std_of_the_binned_gaussian(error):
    """The bound is largest at std^2 = mean squared error + w^2 / 12, also where the mean is the bin itself."""
    x = bins(1, (50,), 4)
    z, std = to_unit(x, 4) + error, math.sqrt(error**2 + (2 / 16) ** 2 / 12)
    best, *others = (DequantizedGaussian(around_z(change * std), 4)(x, z) for change in (1.0, 0.99, 1.01))
    assert all(other < best for other in others)


class Rounded(nn.Module):
    """A decoder that hits the bin: it rounds z, and gives it as it is or on [-1, 1]."""

    def __init__(self, bits: int | None):
        super().__init__()
        self.bits = bits

    def forward(self, z):
        return z.round() if self.bits is None else to_unit(z.round(), self.bits)


@torch.no_grad()
def test_without_noise_the_objective_is_unbounded_and_with_it_not():
    """sigma_2 -> 0 on 8-bit data: a density's loss falls by D log 10 a decade, one in bins stays >= 0."""
    x, u = bins(4, (3,)), 0.5 * torch.randn(4, 3)
    posterior, prior = Elementwise(around_z(0.1)), Chain(scaling((3,)), Flatten((3,)))
    prior.flows[0].flow.conditioner.log_std.fill_(math.log(100))

    def losses(bits: int | None) -> torch.Tensor:
        make = functools.partial(DequantizedGaussian, bits=bits) if bits else Gaussian
        decoders = [make(SharedStd(Rounded(bits), 10.0**-decade)) for decade in range(12)]
        return torch.stack([each(LatentModel(posterior, d, prior, (3,), (3,))(x, u=u)) for d in decoders])

    density, counted = losses(None), losses(8)
    falls = density.diff(dim=0)
    torch.testing.assert_close(falls, torch.full_like(falls, -3 * math.log(10)), rtol=1e-8, atol=1e-8)
    assert density[-1].max() < -40
    assert counted.min() >= 0 and counted[-1].min() > 1e6
