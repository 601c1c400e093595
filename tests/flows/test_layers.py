"""What each layer computes: its equation, and what it takes from data."""

import math

import pytest
import torch
from conftest import perturb
from small import Net, bins, leaving, step
from torch import nn
from torch.distributions import Normal

from fvae.conditioners.base import parameters_of
from fvae.flows import (
    ActNorm,
    Chain,
    Checkerboard,
    Coupling,
    Dequantize,
    FactorOut,
    Flatten,
    InvertibleConv,
    Permute,
    PointMass,
    Standardize,
    multiscale,
    reverse,
    shuffle,
)
from fvae.flows.fused import CouplingNet, one_by_one
from fvae.recipes import Glow, RealNVP, glow, realnvp
from fvae.statistics import initialize
from fvae.transforms import Affine

BOUND = Affine(bound=3.0)
NORMAL = Normal(0, 1)


@torch.no_grad()
def test_chain_composes_in_the_order_written(float64):
    """Chain(f, g) is g after f with log-determinants added."""
    f, g, x = perturb(InvertibleConv(4)), perturb(Coupling(Net(2, 4), 2)), torch.randn(5, 4)
    a, log_det_f = f(x)
    z, log_det_g = g(a)
    torch.testing.assert_close(Chain(f, g)(x), (z, log_det_f + log_det_g))


# Couplings, multi-scale


@torch.no_grad()
def test_coupling_keeps_the_first_half(float64):
    """z_1 = x_1 and z_2 = mean + std x_2: the shift comes after the scale."""
    net, x = perturb(Net(2, 6)), torch.randn(4, 5)
    mean, log_std = parameters_of(net, BOUND, x[:, :2])
    expected = torch.cat([x[:, :2], log_std.exp() * x[:, 2:] + mean], 1)
    torch.testing.assert_close(Coupling(net, 2)(x), (expected, log_std.sum(1)))


@pytest.mark.parametrize("color", [0, 1])
@torch.no_grad()
def test_checkerboard_moves_one_color_by_the_other(color, float64):
    """Pixels of its color stay; the others become mean + std x of what the network makes of the pixels that stay."""
    net, x = perturb(CouplingNet(2, 4, 5)), torch.randn(4, 2, 3, 5)
    stays = torch.tensor([[(i + j) % 2 == color for j in range(5)] for i in range(3)])
    mean, log_std = parameters_of(net, BOUND, torch.where(stays, x, 0))
    expected = torch.where(stays, x, mean + log_std.exp() * x), torch.where(stays, 0, log_std).sum((1, 2, 3))
    torch.testing.assert_close(Checkerboard(net, color)(x), expected)


@torch.no_grad()
def test_a_condition_reaches_only_what_declares_it():
    """A conditioner that doesn't declare that it takes a condition never sees one, in either direction."""
    net, x, y = nn.Linear(2, 6), torch.randn(3, 5), torch.tensor([0, 2, 1])
    flow = perturb(Coupling(net, 2))
    z, _ = flow(x, y)
    assert torch.equal(z, flow(x)[0]) and torch.equal(flow.inverse(z, y), flow.inverse(z))
    net.conditional = True
    with pytest.raises(TypeError):
        Coupling(net, 2)(x, y)


@torch.no_grad()
def test_factor_out_is_the_conditional_gaussian(float64):
    """log N(e) + log-determinant is log N(z_1; mean(z_2), std(z_2)^2) + log N(z_2), as torch has it."""
    net, x = perturb(leaving(2, 2)), torch.randn(3, 4, 2, 3)
    e, log_det = FactorOut(Flatten((2, 2, 3)), net, (4, 2, 3))(x)
    mean, log_std = parameters_of(net, BOUND, x[:, 2:])
    expected = Normal(mean, log_std.exp()).log_prob(x[:, :2]) + NORMAL.log_prob(x[:, 2:])
    torch.testing.assert_close(NORMAL.log_prob(e).sum(1) + log_det, expected.sum((1, 2, 3)))


@pytest.mark.parametrize("value", [1e4, -1e4, 1e30, -1e30])
@torch.no_grad()
def test_diverged_networks_stay_finite_in_both_directions(value):
    """Affine bounds log_std, so that outputs of 1e4 and more overflow neither forward nor inverse."""
    net, x = nn.Conv2d(2, 4, 1), torch.randn(3, 4, 2, 2)
    nn.init.zeros_(net.weight)
    nn.init.constant_(net.bias, value)
    for flow in (Coupling(net, 2), FactorOut(Flatten((2, 2, 2)), net, (4, 2, 2))):
        z, log_det = flow(x)
        assert z.isfinite().all() and flow.inverse(z).isfinite().all()
        torch.testing.assert_close(log_det.abs(), torch.full((3,), 3.0 * 8))


# Mixing


def test_permutations_are_what_they_say():
    """reverse reverses; a shuffle is a permutation that depends on the seed; any order is kept."""
    x = torch.arange(7.0).expand(1, 7)
    assert torch.equal(reverse(7)(x)[0], x.flip(1))
    shuffles = [shuffle(7)(x)[0] for _ in range(2)]
    assert not torch.equal(*shuffles) and all(torch.equal(z.sort().values, x) for z in shuffles)
    assert Permute(torch.tensor([2, 0, 1]))(x[:, :3])[0].tolist() == [[2.0, 0.0, 1.0]]


def test_convolution_starts_as_a_rotation(float64):
    """W W^T = I at the start, another W for another seed, and the log-determinant 0."""
    w, log_det = InvertibleConv(6)(torch.eye(6))
    torch.testing.assert_close(w @ w.T, torch.eye(6), rtol=0, atol=1e-12)
    assert log_det.abs().max() < 1e-12
    assert not torch.allclose(w, InvertibleConv(6)(torch.eye(6))[0])


@torch.no_grad()
def test_a_determinant_that_underflows_float32():
    """Of 48 channels and weights of size 0.1 det W is 0 in float32; the log-determinant is right."""
    flow, x = InvertibleConv(48), torch.randn(2, 48, 2, 3)
    log_s = flow.lu.diagonal() + math.log(0.1)
    flow.lu.copy_(flow.lu.tril(-1) + 0.1 * flow.lu.triu(1) + log_s.diag())
    w = flow(torch.eye(48))[0].T
    expected = 6 * torch.linalg.slogdet(w.double()).logabsdet.float()
    z, log_det = flow(x)
    assert torch.linalg.det(w) == 0 and expected < 6 * -110
    torch.testing.assert_close(log_det, expected.expand(2), rtol=1e-5, atol=0)
    torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_realnvp_moves_every_column(d):
    """Whatever the shuffles, since every other mixing is a reversal: no value of the code is an affine map of x."""
    for seed in range(8):
        torch.manual_seed(seed)
        prior = perturb(realnvp((d,), flow=RealNVP(depth=4, width=8)).prior, 0.5)
        a, b = (torch.autograd.functional.jacobian(lambda x, f=prior: f(x)[0][0], torch.randn(1, d)) for _ in range(2))
        assert ((a - b).abs().amax((1, 2)) > 1e-6).all()


# Posteriors of exact flows


def test_point_mass_takes_no_noise():
    """z is the condition, whatever u, of which there is none; the log-determinant is 0 for each sample."""
    x, u = torch.randn(4, 3), torch.randn(4, *PointMass.noise_shape)
    z, log_det = PointMass()(u, x)
    assert u.numel() == 0 and torch.equal(z, x) and torch.equal(log_det, torch.zeros(4))
    assert torch.equal(PointMass().inverse(z, x), u)


@pytest.mark.parametrize("bits", range(1, 9))
def test_dequantized_data_fill_their_bin(bits, float64):
    """x / 2^bits <= z <= (x + 1) / 2^bits, whatever u, and u = 0 is the middle: log N(u) - log |det| is D bits log 2.

    z 2^bits - x passes Kolmogorov and Smirnov's test for U(0, 1), at the 0.1 % level.
    """
    flow, x, u, n = Dequantize(bits), bins(5000, (2, 2), bits), torch.randn(5000, 2, 2), 20_000
    z, log_det = flow(u, x)
    noise = (z * 2**bits - x).flatten().sort().values
    assert noise[0] >= 0 and noise[-1] <= 1 and torch.equal(flow(0 * u, x)[0], (x + 0.5) / 2**bits)
    far = flow((3 * u).float(), x.float())[0] * 2**bits - x  # exact in float32: no rounding leaves the bin either
    assert far.min() >= 0 and far.max() <= 1
    steps = torch.arange(n + 1) / n
    assert torch.maximum((steps[1:] - noise).max(), (noise - steps[:-1]).max()) * math.sqrt(n) < 1.95
    cost = NORMAL.log_prob(u).sum((1, 2)) - log_det
    torch.testing.assert_close(cost, torch.full((5000,), 4 * bits * math.log(2)), rtol=1e-12, atol=0)


# What is fitted to data


@pytest.mark.parametrize("shape", [(3, 4, 5), (3,)], ids=["images", "vectors"])
def test_actnorm_fit_normalizes_and_floors(shape, float64):
    """After fit each channel has mean 0 and variance 1; a constant channel's std is 1e-3, not 0."""
    flow = perturb(ActNorm(shape))
    scale = torch.tensor([2.0, 0.0, 30.0]).reshape(3, *(1 for _ in shape[1:]))
    x = 5 + scale * torch.randn(64, *shape)
    flow.fit(x)
    z = flow(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.var(1, correction=0), torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-10)
    assert flow.constant.log_std.flatten()[1].item() == pytest.approx(math.log(1e-3))


def test_standardize_is_fitted_and_not_trained(float64):
    """After fit each column has mean 0 and deviation 1, however small its unit; it has no parameters."""
    flow = Standardize(3)
    x = 5 + torch.tensor([1e-12, 1.0, 1e12]) * torch.randn(64, 3)
    flow.fit(x)
    z, log_det = flow(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(log_det, -x.std(0, correction=0).log().sum().expand(64))
    assert not list(flow.parameters()) and len(flow.state_dict()) == 2


def test_a_column_that_is_constant_in_the_sample_keeps_its_scale():
    """A rare flag isn't blown up by a deviation of 0; a large offset costs no digits of the deviation."""
    flow = Standardize(2)
    flow.fit(torch.stack([torch.zeros(1000), 1e6 + torch.randn(1000)], 1))
    assert flow(torch.tensor([[1.0, 1e6]]))[0][0, 0] == 1.0
    assert flow.constant.log_std[0] == 0 and flow.constant.log_std[1].abs() < 0.1


MODELS = {
    "layers": lambda: multiscale((1, 8, 8), 3, lambda shape: [f for _ in range(3) for f in step(shape)], leaving),
    "fused": lambda: glow((1, 8, 8), flow=Glow(levels=2, depth=2, width=5, mixing="shuffle")).prior,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
@torch.no_grad()
def test_initialize_normalizes_every_layer_in_one_pass(make, float64):
    """Each ActNorm's output on the batch is normalized, those after others that were set included."""
    flow, x = perturb(make()), 3 * torch.randn(32, 1, 8, 8) + 7
    initialize(flow, x)
    layers, outputs = [m for m in flow.modules() if isinstance(m, ActNorm)], []
    for layer in layers:
        layer.register_forward_hook(lambda _, args, result: outputs.append(result[0].transpose(0, 1).flatten(1)))
    with one_by_one(flow):
        flow(x)
    assert len(outputs) == len(layers) in (4, 9)
    for z in outputs:
        torch.testing.assert_close(z.mean(1), torch.zeros(len(z)), rtol=0, atol=1e-9)
        torch.testing.assert_close(z.std(1, correction=0), torch.ones(len(z)), rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_fitted_model_is_left_alone():
    """Later batches, in training or not, never fit again; and initialize takes its hooks with it, also on failure."""
    model = glow((1, 4, 4), flow=Glow(levels=2, depth=2, width=5))
    with pytest.raises(RuntimeError):
        initialize(model, torch.randn(2, 3, 5, 5))
    initialize(model, bins(16, (1, 4, 4)))
    state = {name: a.clone() for name, a in model.state_dict().items()}
    other = bins(16, (1, 4, 4), bits=4)
    model.train()(other)
    model.eval()(other)
    model.decode(model.encode(other))
    model.sample(2)
    assert all(torch.equal(a, state[name]) for name, a in model.state_dict().items())
