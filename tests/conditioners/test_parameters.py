"""Who computes a transform's parameters: their bound and type, deviations, and means of classes."""

import pytest
import torch
from conftest import MeanStd, perturb
from small import Net, bins
from torch import nn

from fvae.conditioners import (
    BatchNorm,
    ClassMeans,
    NetworkStd,
    OneSidedBatchNorm,
    OptimalStd,
    SharedStd,
    TwoSidedBatchNorm,
)
from fvae.conditioners.base import parameters_of
from fvae.decoders import DequantizedGaussian, Gaussian
from fvae.transforms import Additive, Affine


def gaussian(conditioner: nn.Module, bits: int | None) -> Gaussian:
    return DequantizedGaussian(conditioner, bits) if bits else Gaussian(conditioner)


def test_the_bound_is_the_identity_for_small_logs(float64):
    """bound tanh(s / bound) is s for small s and never beyond the bound."""
    s = torch.linspace(-50, 50, 1001)[:, None]
    mean, log_std = parameters_of(nn.Identity(), Affine(bound=2.0), torch.cat([s, s], 1))
    assert torch.equal(mean, s) and log_std.abs().max() <= 2
    near = s.abs() <= 0.05
    torch.testing.assert_close(log_std[near], s[near], rtol=1e-3, atol=0)


CONDITIONERS = {
    "split": MeanStd,
    "shared": lambda net: SharedStd(net, 0.3),
    "optimal": lambda net: OptimalStd(net, 0.3),
    "by a head": lambda net: NetworkStd(net, nn.Linear(6, 6), 0.3),
    "normalized": lambda net: SharedStd(nn.Sequential(net, BatchNorm(6)), 0.3),
    "one-sided": lambda net: OneSidedBatchNorm(net, 3, 0.5),
    "two-sided": lambda net: TwoSidedBatchNorm(net, 3, 0.5),
}


@pytest.mark.parametrize("kind", CONDITIONERS.values(), ids=CONDITIONERS.keys())
@torch.no_grad()
def test_parameters_are_float32_at_least(kind):
    """What a network computes in bfloat16 leaves a conditioner in float32, before any exp or sum; float64 stays."""
    net, x = Net(4, 6), torch.randn(3, 4)
    conditioner = perturb(kind(net))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        assert [a.dtype for a in (*conditioner(x), *parameters_of(net, Additive(), x))] == [torch.float32] * 3
    assert [a.dtype for a in conditioner.double()(x.double())] == [torch.float64] * 2


# Deviations


def std_of(conditioner: nn.Module) -> float:
    return conditioner.metrics()["std"].item()


@pytest.mark.parametrize("bits", [None, 1, 8])
@torch.no_grad()
def test_the_optimal_deviation_is_the_best(bits, float64):
    """In training OptimalStd's loss is below that of any fixed deviation on a grid; evaluation keeps that one."""
    z = torch.randn(20, 3)
    x = 0.7 * z + 0.2 * torch.randn(20, 3) if bits is None else bins(20, (3,), bits)

    def fixed(std: float) -> torch.Tensor:
        return gaussian(SharedStd(nn.Identity(), std), bits)(x, z).sum()

    best = gaussian(OptimalStd(nn.Identity(), 0.5), bits)
    value, std = best(x, z).sum(), std_of(best.conditioner)
    assert all(fixed(change * std) < value for change in (0.01, 0.1, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0, 10.0))
    torch.testing.assert_close(fixed(std), value)
    torch.testing.assert_close(best.eval()(x, z).sum(), value)
    best(10 * x, z)
    assert std_of(best.conditioner) == std
    least = gaussian(OptimalStd(nn.Identity(), 2 * std, least=1.1 * std), bits)
    torch.testing.assert_close(least(x, z).sum(), fixed(1.1 * std))
    assert std_of(least.eval().conditioner) == pytest.approx(1.1 * std)


@pytest.mark.parametrize("shape", [(), (4, 1, 1)], ids=["one", "by channel"])
def test_a_deviation_has_a_least_value(shape, float64):
    """It starts as given, stays above ``least`` however far it is pushed, and has a gradient on the way."""
    conditioner = SharedStd(nn.Identity(), 0.3, shape=shape, least=0.1)
    fixed = SharedStd(nn.Identity(), 0.3, trained=False, least=0.1)
    assert std_of(conditioner) == pytest.approx(0.3) == std_of(fixed)
    optimizer = torch.optim.Adam(conditioner.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        conditioner(torch.zeros(1))[1].sum().backward()
        assert conditioner.log_std.grad.isfinite().all() and conditioner.log_std.grad.all()
        optimizer.step()
        assert std_of(conditioner) > 0.1
    assert std_of(conditioner) == pytest.approx(0.1, rel=1e-2)


# Classes


def test_weights_of_labels_are_labels_in_between():
    """One-hot weights give the label's mean and its gradient; halves the middle; labels may be of any whole type."""
    conditioner, y = perturb(ClassMeans(4, 3), 1.0), torch.tensor([2, 0, 2])
    one_hot = nn.functional.one_hot(y, 4)
    for given in (y.to(torch.uint8), y.to(torch.int32), y, one_hot, one_hot.float()):
        assert torch.equal(conditioner(given), conditioner.mean[y])
    a, b = (torch.autograd.grad(conditioner(c).sin().sum(), conditioner.mean)[0] for c in (y, one_hot))
    torch.testing.assert_close(a, b)
    half = conditioner(torch.tensor([[0.5, 0.0, 0.5, 0.0]]))[0]
    torch.testing.assert_close(half, (conditioner.mean[0] + conditioner.mean[2]) / 2)
