"""The identities of the theory (Su & Wu, 2018), in float64, on models put together from their parts."""

import math

import numpy as np
import pytest
import torch
from conftest import SEEN, MeanStd, perturb
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from fvae.conditioners import Constant, SharedStd
from fvae.decoders import DiscretizedGaussian, Exact, Gaussian
from fvae.density import LOG_2PI, LogBetween, bits_per_dim, from_unit, log_between, log_normal, to_unit, total
from fvae.flows import (
    ActNorm,
    Chain,
    Coupling,
    Dequantize,
    Elementwise,
    FactorOut,
    Flatten,
    Flow,
    Inverse,
    InvertibleConv,
    multiscale,
    reverse,
    scaling,
)
from fvae.flows.fused import CouplingNet
from fvae.model import LatentModel, Terms, importance_bound
from fvae.networks.conv import squeezing, unsqueezing, zero_conv
from fvae.recipes import RECIPES, cvae, f_vae, f_vae_general, glow, noisy_flow, realnvp, vae
from fvae.recipes.parts import NICE, Glow, RealNVP
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine

pytestmark = pytest.mark.usefixtures("float64")

IMAGE = (1, 4, 4)
LATENT = (4, 2, 2)
FLOW = {"depth": 2, "width": 6}
CODER = {"size": 3, "width": 6}


def mlp(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(c_in, 8), nn.Tanh(), nn.Linear(8, c_out))


def leaving(c_in: int, c_out: int) -> nn.Module:
    return zero_conv(c_in, 2 * c_out, 3)


def step(shape) -> list[Flow]:
    c = shape[0]
    keep, moved = c // 2, c - c // 2
    return [ActNorm(shape), InvertibleConv(c), Coupling(CouplingNet(keep, 2 * moved, 6), keep)]


def image_flow(shape, levels: int = 2, squeeze_first: bool = False) -> Flow:
    """A small Glow of flat codes, perturbed."""
    return perturb(multiscale(shape, levels, step, leaving, squeeze_first))


def vector_flow(d: int) -> Flow:
    """Two couplings on vectors, perturbed."""
    keep, moved = d // 2, d - d // 2
    return perturb(
        Chain(
            ActNorm((d,)),
            InvertibleConv(d),
            Coupling(mlp(keep, 2 * moved), keep, Affine(bound=1.0)),
            reverse(d),
            Coupling(mlp(keep, moved), keep, Additive()),
            scaling((d,)),
        )
    )


class After(nn.Module):
    """The network G(F^-1(z)): a decoder that undoes a flow first."""

    def __init__(self, flow: Flow, net: nn.Module):
        super().__init__()
        self.flow, self.net = flow, net

    def forward(self, z):
        return self.net(self.flow.inverse(z))


def each(terms: Terms) -> torch.Tensor:
    """The loss of each sample, (B,)."""
    return terms.distortion + terms.rate


def bins(n: int, shape=IMAGE, bits: int = 8) -> torch.Tensor:
    return torch.randint(2**bits, (n, *shape)).to(torch.get_default_dtype())


# The bound's parts


def linear_vae(d: int = 2) -> LatentModel:
    return LatentModel(
        posterior=Elementwise(perturb(mlp(3, 2 * d), 0.5), Affine(bound=3.0)),
        decoder=Gaussian(MeanStd(perturb(mlp(d, 6), 0.5))),
        prior=Flatten((d,)),
        shape=(3,),
        latent=(d,),
    )


@torch.no_grad()
def test_the_closed_form_is_the_formula():
    """Of a Gaussian posterior and prior the rate is 1/2 sum (mu^2 + sigma^2 - log sigma^2 - 1)."""
    model, x, u = linear_vae(), 2 * torch.randn(5, 3), torch.randn(5, 2)
    mean, log_std = model.posterior.parameters_for(x)
    var = torch.exp(2 * log_std)
    terms, sampled = model(x, u=u), model(x, u=u, sampled=True)
    kl = 0.5 * (mean.square() + var - var.log() - 1).sum(1)
    torch.testing.assert_close(terms.rate, kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms.log_u, Normal(0, 1).entropy().neg().expand(5) * 2)
    torch.testing.assert_close(terms.log_det, log_std.sum(1))
    assert torch.equal(terms.log_x, sampled.log_x)
    assert not torch.allclose(terms.rate, sampled.rate)


@torch.no_grad()
def test_the_sampled_rate_means_the_closed_form():
    """The mean over u of the sampled rate is the closed-form KL, and that of every term its closed form."""
    model, x, n = linear_vae(), 2 * torch.randn(3, 3), 50_000
    many = model(x.repeat_interleave(n, 0), sampled=True)
    closed = model(x)
    for name in ("log_u", "log_det", "log_z", "rate"):
        a = getattr(many, name).reshape(3, n)
        error = 5 * a.std(1) / math.sqrt(n) + 1e-12
        assert ((a.mean(1) - getattr(closed, name)).abs() < error).all(), name


@torch.no_grad()
def test_the_loss_is_rate_and_distortion():
    """loss(beta) is the mean over the batch of distortion + beta rate, distortion = -log q(x|z)."""
    terms = Terms(*torch.randn(4, 6))
    torch.testing.assert_close(terms.rate, terms.log_u - terms.log_det - terms.log_z)
    for beta in (0.0, 0.3, 1.0):
        torch.testing.assert_close(terms.loss(beta), (beta * terms.rate - terms.log_x).mean())


# Equal models


@torch.no_grad()
def test_a_noisy_flow_is_a_latent_model():
    """Posterior F(sigma u + x), decoder N(x; F^-1(z), sigma^2): the flow's NLL of x + sigma u, sample by sample."""
    sigma, flow = 0.07, image_flow(LATENT)
    here = nn.Identity()
    model = LatentModel(
        posterior=Chain(Elementwise(SharedStd(here, sigma, trained=False)), flow),
        decoder=Gaussian(SharedStd(After(flow, here), sigma, trained=False)),
        prior=Flatten((16,)),
        shape=LATENT,
        latent=LATENT,
    )
    x, u = torch.randn(6, *LATENT), torch.randn(6, *LATENT)
    e, log_det = flow(x + sigma * u)
    torch.testing.assert_close(each(model(x, u=u)), -log_normal(e) - log_det, rtol=1e-9, atol=0)


def f_vae_rooms(sigma_1: float = 0.2, sigma_2: float = 0.3) -> tuple[Elementwise, nn.Module, nn.Module, Flow]:
    """Perturbed sigma_1 u + E(x), (G, sigma_2) and F of a small f-VAE of continuous data."""
    encoder, generator = squeezing(1, 1, 1, 4), unsqueezing(1, 1, 1, 4)
    posterior = perturb(Elementwise(SharedStd(encoder, sigma_1)))
    decoder = perturb(SharedStd(generator, sigma_2))
    return posterior, generator, decoder, image_flow(LATENT)


@torch.no_grad()
def test_the_flow_may_move_from_the_posterior_to_the_prior():
    """Posterior F(sigma_1 u + E(x)) with decoder G(F^-1(z)) has, sample by sample, the loss of F as the prior."""
    posterior, generator, decoder, flow = f_vae_rooms()
    moved = SharedStd(After(flow, generator), decoder.log_std.exp().item())
    published = LatentModel(Chain(posterior, flow), Gaussian(moved), Flatten((16,)), IMAGE, LATENT)
    ours = LatentModel(posterior, Gaussian(decoder), flow, IMAGE, LATENT)
    x, u = torch.randn(6, *IMAGE), torch.randn(6, *LATENT)
    torch.testing.assert_close(each(published(x, u=u)), each(ours(x, u=u)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(published.encode(x), ours.encode(x))
    e = torch.randn(6, 16)
    torch.testing.assert_close(published.decode(e), ours.decode(e), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_explicit_loss_of_f_vae():
    """Every term of the printed loss, D log sigma_2 and the constants too, adds up to the model's."""
    posterior, generator, decoder, flow = f_vae_rooms()
    model = LatentModel(posterior, Gaussian(decoder), flow, IMAGE, LATENT)
    x, u = torch.randn(6, *IMAGE), torch.randn(6, *LATENT)
    log_1, log_2 = posterior.conditioner.log_std, decoder.log_std
    h = log_1.exp() * u + posterior.conditioner.net(x)
    e, log_det = flow(h)
    d = d_latent = 16
    expected = (
        (generator(h) - x).square().sum((1, 2, 3)) / (2 * log_2.exp() ** 2)
        + d * log_2
        + d / 2 * math.log(2 * math.pi)
        - Normal(0, 1).log_prob(e).sum(1)
        - log_det
        - d_latent * log_1
        - d_latent / 2 * math.log(2 * math.pi)
        - u.square().sum((1, 2, 3)) / 2
    )
    torch.testing.assert_close(each(model(x, u=u)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bits", [1, 5, 8])
@torch.no_grad()
def test_dequantization_is_one_more_posterior(bits):
    """Glow's loss is D bits log 2 - log density of the flow at (x + Phi(u)) / 2^bits, sample by sample."""
    flow = image_flow(IMAGE, levels=2, squeeze_first=True)
    model = LatentModel(Dequantize(bits), Exact(bits), flow, IMAGE, IMAGE)
    x, u = bins(5, bits=bits), torch.randn(5, *IMAGE)
    e, log_det = flow((x + Normal(0, 1).cdf(u)) / 2**bits)
    density = Normal(0, 1).log_prob(e).sum(1) + log_det
    torch.testing.assert_close(each(model(x, u=u)), 16 * bits * math.log(2) - density, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_alternating_posterior_flows_are_one_latent_model():
    """z = f_n with f_i = F_i(sigma_i(x) f_{i-1} + mu_i(x)): its log-determinant is autograd's, its loss (1)."""
    a1, a2, a3 = (Elementwise(perturb(mlp(3, 8), 0.4), Affine(bound=3.0)) for _ in range(3))
    f1, f2 = vector_flow(4), vector_flow(4)
    posterior = Chain(a1, f1, a2, f2, a3)
    model = LatentModel(posterior, Gaussian(MeanStd(perturb(mlp(4, 6)))), vector_flow(4), (3,), (4,))
    x, u = torch.randn(2, 3), torch.randn(2, 4)
    jacobian = torch.autograd.functional.jacobian(lambda a: posterior(a, x)[0].sum(0), u).transpose(0, 1)
    z = posterior(u, x)[0]
    e, log_det = model.prior(z)
    expected = log_normal(u) - torch.linalg.slogdet(jacobian).logabsdet - model.decoder(x, z) - log_normal(e) - log_det
    torch.testing.assert_close(each(model(x, u=u)), expected, rtol=1e-10, atol=1e-10)


# Recipes as special cases


F_VAE: dict = {"coder": {"squeezes": 1, "blocks": 1, "hidden": 4}, "flow": {"levels": 1, **FLOW}}


@pytest.mark.parametrize("shape", [IMAGE, (5,)], ids=["images", "vectors"])
@torch.no_grad()
def test_one_round_is_f_vae(shape):
    """f_vae_general of one round is f_vae with sigma_1(x) by a network; more rounds start where one does."""
    general = f_vae_general(shape, rounds=1, **F_VAE)
    simple = f_vae(shape, posterior={"std": "network"}, **F_VAE)
    x, u = bins(4, shape), torch.randn(4, *simple.latent)
    two = f_vae_general(shape, rounds=2, **F_VAE)
    two.prior.load_state_dict(general.prior.state_dict())
    torch.testing.assert_close(each(two(x, u=u)), each(general(x, u=u)), rtol=1e-10, atol=1e-10)
    same = {name.replace("posterior.flows.0.", "posterior."): a for name, a in perturb(general).state_dict().items()}
    simple.load_state_dict(same)
    torch.testing.assert_close(each(simple(x, u=u)), each(general(x, u=u)), rtol=0, atol=0)


@torch.no_grad()
def test_f_vae_with_the_identity_inside_is_a_noisy_flow():
    """On vectors with E = G = 1 and sigma_1 = sigma_2 fixed, f_vae's loss is noisy_flow's, sample by sample."""
    noisy = noisy_flow((5,), sigma=0.1, flow=FLOW)
    fixed = {"sigma": 0.1, "std": "fixed"}
    model = f_vae((5,), coder={"blocks": 0}, posterior=fixed, flow=FLOW, decoder=fixed)
    model.prior.load_state_dict(perturb(noisy.prior).state_dict())
    x, u = torch.randn(6, 5), torch.randn(6, 5)
    torch.testing.assert_close(each(model(x, u=u)), each(noisy(x, u=u)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "flow", [Glow(levels=1, **FLOW), RealNVP(levels=1, **FLOW), NICE(**FLOW)], ids=lambda f: f.kind
)
@torch.no_grad()
def test_the_noisy_flow_is_the_likelihood_of_noisy_data(flow):
    """Of vectors the flow's NLL at x + sigma u, sample by sample; of images that, and the cost of a bin of width w.

    Data in bins cost D (w^2 / (24 sigma^2) - log w) more: the mean over the bin.
    """
    sigma = 0.1
    vectors = perturb(noisy_flow((4,), sigma=sigma, flow=flow))
    vectors.preprocess.fit(5 + 3 * torch.randn(50, 4))
    x, u = torch.randn(6, 4), torch.randn(6, 4)
    standard, volume = vectors.preprocess(x)
    e, log_det = vectors.prior(standard + sigma * u)
    torch.testing.assert_close(each(vectors(x, u=u)), -log_normal(e) - log_det - volume, rtol=1e-10, atol=1e-10)
    images = perturb(noisy_flow(IMAGE, sigma=sigma, flow=flow, bits=5))
    x, u, w = bins(6, bits=5), torch.randn(6, *IMAGE), 2 / 32
    e, log_det = images.prior(to_unit(x, 5) + sigma * u)
    cost = 16 * (w**2 / (24 * sigma**2) - math.log(w))
    torch.testing.assert_close(each(images(x, u=u)), -log_normal(e) - log_det + cost, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [IMAGE, (5,)], ids=["images", "vectors"])
@torch.no_grad()
def test_the_rate_of_a_cvae_is_the_formula(shape):
    """KL(p(z|x) || N(mu^y, I)) = 1/2 sum [(mu - mu^y)^2 + sigma^2 - log sigma^2 - 1]; with one class at 0, a vae's."""
    coder = {**CODER, "levels": 1}
    model = perturb(cvae(shape, classes=4, coder=coder), 0.5)
    x, y, u = bins(6, shape), torch.tensor([0, 1, 2, 3, 3, 0]), torch.randn(6, 3)
    mean, log_std = model.posterior.parameters_for(model.preprocess(x)[0])
    prior = model.prior.flows[1].flow.conditioner.mean[y]
    kl = 0.5 * ((mean - prior).square() + torch.exp(2 * log_std) - 2 * log_std - 1).sum(1)
    torch.testing.assert_close(model(x, y, u).rate, kl, rtol=1e-10, atol=1e-10)
    model.prior.flows[1].flow.conditioner.mean.zero_()
    plain = vae(shape, coder=coder, decoder={"sigma": 1.0, "std": "fixed", "likelihood": "density"})
    plain.load_state_dict({k: a for k, a in model.state_dict().items() if "prior" not in k})
    torch.testing.assert_close(each(model(x, y, u)), each(plain(x, u=u)), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_class_is_drawn_around_its_mean():
    """Of a label z ~ N(mu^y, T^2 I): what is decoded from code e is the mean at e + mu^y, and weights mix the means."""
    model = perturb(cvae((5,), classes=3, coder={"size": 2, "width": 6}), 0.5)
    e, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 1])
    means = model.prior.flows[1].flow.conditioner.mean
    torch.testing.assert_close(model.decode(e, y), model.decoder.mean(e + means[y]))
    half = torch.tensor([[0.5, 0.5, 0.0]]).expand(4, 3)
    torch.testing.assert_close(model.decode(e, half), model.decoder.mean(e + (means[0] + means[1]) / 2))


# Likelihoods


def test_bins_and_the_unit_interval():
    """to_unit puts 2^bits bins of width 2 / 2^bits on [-1, 1], by their middles, and from_unit undoes it."""
    for bits in range(1, 9):
        x = torch.arange(2**bits).double()
        v = to_unit(x, bits)
        width = 2 / 2**bits
        assert v[0] == -1 + width / 2 and v[-1] == 1 - width / 2
        torch.testing.assert_close(v.diff(), torch.full((2**bits - 1,), width))
        torch.testing.assert_close(from_unit(v, bits), x)


@torch.no_grad()
def test_the_gaussian_is_a_density():
    """log q(x|z) is that of torch's normal distribution, and its mean is what is decoded."""
    conditioner = perturb(MeanStd(mlp(2, 6)))
    x, z = torch.randn(5, 3), torch.randn(5, 2)
    mean, log_std = conditioner(z)
    expected = Normal(mean, log_std.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(Gaussian(conditioner)(x, z), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(Gaussian(conditioner).mean(z), mean)


@pytest.mark.parametrize("bits", [1, 3, 8])
@torch.no_grad()
def test_the_binned_gaussian_is_the_mean_over_the_noise(bits):
    """E_U log N(v + U) + D log w: exactly by quadrature, within 5 standard errors by sampling, below the bin's own."""
    conditioner = perturb(MeanStd(mlp(2, 6), bound=6.0), 1.0)
    x, z = bins(40, (3,), bits), torch.randn(40, 2)
    mean, log_std = conditioner(z)
    normal, v, w = Normal(mean, log_std.exp()), to_unit(x, bits), 2 / 2**bits
    value = Gaussian(conditioner, bits)(x, z)

    nodes, weights = np.polynomial.legendre.leggauss(3)  # exact: the integrand is a square
    integral = sum(a / 2 * normal.log_prob(v + w / 2 * t) for t, a in zip(nodes, weights, strict=True))
    torch.testing.assert_close(value, (integral + math.log(w)).sum(1), rtol=1e-10, atol=1e-10)

    noise = w * (torch.rand(20_000, 1, 3) - 0.5)
    drawn = (normal.log_prob(v + noise) + math.log(w)).sum(2)
    assert ((drawn.mean(0) - value).abs() < 5 * drawn.std(0) / math.sqrt(len(drawn))).all()

    assert (value <= DiscretizedGaussian(conditioner, bits)(x, z) + 1e-9).all()


@pytest.mark.parametrize("bits", [2, 8])
@torch.no_grad()
def test_the_binned_gaussian_is_tight_for_a_wide_one(bits):
    """Where the std is many bins wide, the bound is the bin's log-probability by differences of ndtr."""
    std = 20 / 2**bits
    conditioner = SharedStd(nn.Identity(), std)
    x = torch.arange(2**bits).double()[:, None]
    z, w = torch.zeros_like(x), 2 / 2**bits
    v = to_unit(x, bits)
    exact = torch.log(torch.special.ndtr((v + w / 2) / std) - torch.special.ndtr((v - w / 2) / std))
    near = v.abs().flatten() < 4 * std
    value = Gaussian(conditioner, bits)(x, z)
    torch.testing.assert_close(value[near], exact.flatten()[near], rtol=0, atol=0.02)
    assert (value <= exact.flatten() + 1e-12)[near].all()


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("std", [3e-4, 0.01, 0.3, 20.0])
@torch.no_grad()
def test_a_discretized_gaussian_gives_each_bin_its_probability(bits, std):
    """Its probabilities are differences of the normal integral, the tails' in the last bins, and add up to 1."""
    x, w = torch.arange(2**bits).double()[:, None], 2 / 2**bits
    for mean in (-30, -1.7, -0.99, 0.0, 0.31, 1.2, 30):
        decoder, z = DiscretizedGaussian(SharedStd(nn.Identity(), std), bits), torch.full_like(x, mean)
        edges = ((-1 + w * torch.arange(1, 2**bits).double()) - mean) / std
        below = torch.cat([torch.zeros(1), torch.special.ndtr(edges), torch.ones(1)])
        found = decoder(x, z)
        torch.testing.assert_close(found.exp(), below.diff(), rtol=1e-9, atol=1e-12)
        assert found.exp().sum().item() == pytest.approx(1, abs=1e-12) and found.isfinite().all()
        torch.testing.assert_close(decoder.mean(z), Gaussian(decoder.conditioner, bits).mean(z).clamp(0, 2**bits - 1))


def test_a_discretized_gaussian_has_a_gradient_everywhere():
    """In float32 too: finite, towards the bin (or the tail), and to a wider std where it is far, down to w / 20."""
    x = torch.tensor([[0.0], [128.0], [255.0]], dtype=torch.float32)
    for std in (4e-4, 0.01, 1.0, 30.0):
        for mean in (-3.0, -0.5, 0.7, 3.0):
            z = torch.full_like(x, mean, requires_grad=True)
            conditioner = SharedStd(nn.Identity(), std).float()
            DiscretizedGaussian(conditioner, 8)(x, z).sum().backward()
            assert z.grad.isfinite().all() and conditioner.log_std.grad.isfinite()
            assert z.grad[0] <= 0 <= z.grad[2] and z.grad[1] * (to_unit(x[1], 8) - mean) >= 0
            if std <= 0.01:
                assert conditioner.log_std.grad > 0 and z.grad[1] != 0


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
    by_autograd = torch.autograd.grad(plain.sum(), [low, high])
    by_hand = torch.autograd.grad(found.sum(), [low, high])
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-8, atol=1e-10)

    near, far = (end.detach().float().requires_grad_() for end in (low, high))
    single = LogBetween.apply(near, far)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=2e-5)
    for one, other in zip(torch.autograd.grad(single.sum(), [near, far]), by_hand, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=1e-5)


@torch.no_grad()
def test_a_discretized_gaussian_that_hits_is_certain():
    """As std -> 0 the bin that the mean lies in has probability 1 and log 0, where the mean over noise costs more."""
    x = bins(1, (50,), 8)
    conditioner = SharedStd(nn.Identity(), 4e-4)
    z = to_unit(x, 8)
    assert -1e-9 < DiscretizedGaussian(conditioner, 8)(x, z) <= 0
    assert Gaussian(conditioner, 8)(x, z) < -50


@torch.no_grad()
def test_the_best_std_of_the_binned_gaussian():
    """The bound is largest at std^2 = mean squared error + w^2 / 12, also where the mean is the bin itself."""
    x = bins(1, (50,), 4)
    w = 2 / 16
    for error in (0.0, 0.1):
        conditioner = SharedStd(nn.Identity(), math.sqrt(error**2 + w**2 / 12))
        decoder, z = Gaussian(conditioner, 4), to_unit(x, 4) + error
        best = decoder(x, z).item()
        for change in (-0.01, 0.01):
            conditioner.log_std += change
            assert decoder(x, z).item() < best
            conditioner.log_std -= change


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
    posterior = Elementwise(SharedStd(nn.Identity(), 0.1))
    prior = Chain(scaling((3,)), Flatten((3,)))
    prior.flows[0].flow.conditioner.log_std.fill_(math.log(100))
    density, counted = [], []
    for decade in range(12):
        sigma_2 = 10.0**-decade
        gaussian = Gaussian(SharedStd(Rounded(None), sigma_2))
        binned = Gaussian(SharedStd(Rounded(8), sigma_2), 8)
        density.append(each(LatentModel(posterior, gaussian, prior, (3,), (3,))(x, u=u)))
        counted.append(each(LatentModel(posterior, binned, prior, (3,), (3,))(x, u=u)))
    falls = torch.stack(density).diff(dim=0)
    torch.testing.assert_close(falls, torch.full_like(falls, -3 * math.log(10)), rtol=1e-8, atol=1e-8)
    assert density[-1].max() < -40
    assert torch.stack(counted).min() >= 0
    assert counted[-1].min() > 1e6


@pytest.mark.parametrize("std", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("bits", [1, 8])
@torch.no_grad()
def test_the_loss_of_data_in_bins_is_never_negative(std, bits):
    """A bound on -log Q(x) of discrete data is >= 0, on the easiest data there are: one image, known by heart."""
    x = bins(1, (4,), bits)
    by_heart = nn.Linear(2, 4)
    by_heart.weight.zero_()
    by_heart.bias.copy_(to_unit(x[0], bits))
    nothing = nn.Linear(4, 4)
    nothing.weight.zero_()
    nothing.bias.zero_()
    model = LatentModel(
        Elementwise(nothing, Affine(bound=3.0)), Gaussian(SharedStd(by_heart, std), bits), Flatten((2,)), (4,), (2,)
    )
    terms = model(x)
    torch.testing.assert_close(terms.rate, torch.zeros(1), rtol=0, atol=1e-12)
    assert each(terms) >= 0
    model.decoder = Gaussian(SharedStd(by_heart, 0.001))
    assert each(model(to_unit(x, bits))) < 0


# Densities


PLANE = {
    "chain": lambda: vector_flow(2),
    "inverse": lambda: Inverse(vector_flow(2)),
    "deep": lambda: Chain(vector_flow(2), vector_flow(2)),
    "elementwise": lambda: perturb(Elementwise(Constant((2,)))),
    "multiscale": lambda: Chain(Inverse(Flatten((2, 1, 1))), image_flow((2, 1, 1), levels=1, squeeze_first=False)),
    "factor out": lambda: Chain(
        Inverse(Flatten((2, 1, 1))),
        perturb(
            FactorOut(Chain(ActNorm((1, 1, 1)), Flatten((1, 1, 1))), nn.Conv2d(1, 2, 1), (2, 1, 1), Affine(1.0)), 0.5
        ),
    ),
}


@pytest.mark.parametrize("make", PLANE.values(), ids=PLANE.keys())
@torch.no_grad()
def test_densities_integrate_to_one(make):
    """exp(log N(e) + log |det|) sums to 1 over a grid of the plane, half as wide again as samples reach."""
    flow = make()
    reach = flow.inverse(torch.randn(4000, 2))
    low, high = reach.amin(0), reach.amax(0)
    low, high = low - (high - low) / 4, high + (high - low) / 4
    sides = [torch.linspace(a, b, 801) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    grid = torch.cartesian_prod(*sides)
    e, log_det = flow(grid)
    assert not torch.allclose(e, grid, atol=0.1)
    mass = torch.exp(log_normal(e) + log_det).sum() * (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])
    assert mass.item() == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_samples_follow_the_density():
    """The mean of -log q over the flow's own samples is its entropy, by quadrature on a grid."""
    flow = vector_flow(2)
    side = torch.linspace(-16, 16, 801)
    e, log_det = flow(torch.cartesian_prod(side, side))
    log_q = log_normal(e) + log_det
    entropy = -(log_q.exp() * log_q).sum() * (side[1] - side[0]) ** 2
    e, log_det = flow(flow.inverse(torch.randn(100_000, 2)))
    drawn = -(log_normal(e) + log_det)
    assert (drawn.mean() - entropy).abs() < 5 * drawn.std() / math.sqrt(len(drawn))


VECTORS: dict[str, dict] = {
    "nice": {"flow": {**FLOW, "hidden": 1}},
    "realnvp": {"flow": FLOW},
    "glow": {"flow": FLOW},
    "noisy_flow": {"flow": FLOW},
    "vae": {"coder": CODER},
    "cvae": {"coder": CODER, "classes": 2},
    "bn_vae": {"coder": CODER},
    "f_vae": {"coder": {"blocks": 1}, "flow": FLOW},
    "f_vae_general": {"coder": {"blocks": 1}, "flow": {**FLOW, "depth": 1}},
    "f_vae_reduced": {"coder": CODER, "flow": {**FLOW, "depth": 1}},
}


@pytest.mark.parametrize("name", SEEN)
@torch.no_grad()
def test_the_bound_of_vectors_is_on_their_own_scale(name):
    """Data in other units, with Standardize fitted again, cost log |det| more nats; codes and reconstructions agree."""
    model = perturb(RECIPES[name]((4,), **VECTORS[name]), 0.1)
    x, u, y = torch.randn(40, 4) @ torch.randn(4, 4), model.noise(40), torch.arange(40) % 2
    y = y if model.classes else None
    units, origin = torch.tensor([1e-3, 1.0, 7.0, 1e4]), torch.tensor([0.0, 5.0, -3.0, 1e4])
    other = x * units + origin
    model.preprocess.fit(x)
    before, code = each(model(x, y, u)), model.encode(x, y)
    back = model.decode(code, y)
    model.preprocess.fit(other)
    torch.testing.assert_close(each(model(other, y, u)), before + units.log().sum(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.encode(other, y), code, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.decode(code, y), back * units + origin, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
@pytest.mark.parametrize("name", ["realnvp", "glow", "nice"])
@torch.no_grad()
def test_densities_of_vectors_integrate_to_one(name, classes):
    """exp(-loss) of an exact flow on two columns in their units sums to 1 over a grid of the plane, of each label."""
    model = perturb(RECIPES[name]((2,), **VECTORS[name], classes=classes), 0.3)
    model.preprocess.fit(torch.tensor([100.0, -1.0]) + torch.tensor([20.0, 0.1]) * torch.randn(100, 2))
    label = 2 if classes else None
    reach = model.sample(4000, None if label is None else torch.full((4000,), label))
    low, high = reach.amin(0), reach.amax(0)
    low, high = low - (high - low) / 4, high + (high - low) / 4
    sides = [torch.linspace(a, b, 401) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    grid = torch.cartesian_prod(*sides)
    density = torch.exp(-each(model(grid, None if label is None else torch.full((len(grid),), label))))
    mass = density.sum() * (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])
    assert mass.item() == pytest.approx(1, abs=1e-3)


# The tighter bound


def linear_gaussian(exact: bool) -> tuple[LatentModel, MultivariateNormal]:
    """x = A z + b + sigma noise, z ~ N(0, I): the model and its known law of x, with the exact posterior or another."""
    d, dims, sigma = 2, 3, 0.6
    net = nn.Linear(d, dims)
    a, b = net.weight.detach(), net.bias.detach()
    a.copy_(torch.randn(dims, d))
    covariance = torch.linalg.inv(torch.eye(d) + a.T @ a / sigma**2)
    inverse = nn.Linear(dims, d)
    with torch.no_grad():
        inverse.weight.copy_(covariance @ a.T / sigma**2)
        inverse.bias.copy_(-inverse.weight @ b)
        factor = torch.linalg.cholesky(covariance)
        turn = InvertibleConv(d)  # W = L diag(s): u -> W u has the posterior's covariance, correlations too
        turn.order.copy_(torch.arange(d))
        turn.signs.fill_(1)
        turn.lu.copy_((factor / factor.diagonal()).tril(-1) + factor.diagonal().log().diag())
        if not exact:
            turn.lu.copy_((turn.lu.diagonal() + 0.3).diag())
            inverse.bias.add_(0.2)
    posterior = Chain(turn, Elementwise(inverse, Additive()))
    model = LatentModel(posterior, Gaussian(SharedStd(net, sigma)), Flatten((d,)), (dims,), (d,))
    return model, MultivariateNormal(b, a @ a.T + sigma**2 * torch.eye(dims))


KS = (1, 4, 16, 64, 256)


@torch.no_grad()
def test_every_bound_of_the_exact_posterior_is_exact():
    """With p(z|x) = q(z|x) one sample gives -log q(x) without noise, and so does every K."""
    model, law = linear_gaussian(exact=True)
    x = law.sample((20,))
    for k in KS:
        bound = importance_bound(model(x, sampled=True) for _ in range(k))
        torch.testing.assert_close(bound, -law.log_prob(x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_k_sample_bound_falls_to_the_truth():
    """Its mean falls with K towards -log q(x) and is never below; at K = 1 the gap is KL(p(z|x) || q(z|x))."""
    model, law = linear_gaussian(exact=False)
    x = law.sample((500,)).repeat_interleave(10, 0)
    truth = -law.log_prob(x)
    gaps, errors = [], []
    for k in KS:
        gap = importance_bound(model(x, sampled=True) for _ in range(k)) - truth
        gaps.append(gap.mean().item())
        errors.append(gap.std().item() / math.sqrt(len(gap)))
    assert all(gap > -4 * error for gap, error in zip(gaps, errors, strict=True))
    assert gaps[0] > 0.1
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


@torch.no_grad()
def test_one_sample_is_the_plain_bound_and_weights_are_averaged():
    """K = 1 is the loss itself; K terms give -log of the mean weight, without overflow for losses of thousands."""
    terms = [Terms(*(1000 * torch.randn(4, 3))) for _ in range(5)]
    torch.testing.assert_close(importance_bound(iter(terms[:1])), each(terms[0]))
    small = [Terms(*(torch.randn(4, 3))) for _ in range(5)]
    weights = torch.stack([torch.exp(-each(t)) for t in small])
    torch.testing.assert_close(importance_bound(iter(small)), -weights.mean(0).log())
    assert importance_bound(iter(terms)).isfinite().all()


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_the_mass_of_the_cube():
    """Over all 16 one-bit images of 2 x 2, exp(-bound) sums to the flow's mass in [0, 1]^4, hence never above 1."""
    model = perturb(glow((1, 2, 2), flow={"levels": 1, "depth": 2, "width": 4}, bits=1), 0.1)
    images = torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, 1, 2, 2)
    initialize(model, images.repeat(20, 1, 1, 1))
    replicates = 100
    x = images.repeat(replicates, 1, 1, 1)
    p = torch.exp(-importance_bound(model(x) for _ in range(100)))
    sums = p.reshape(replicates, 16).sum(1)
    n = 100_000
    z = model.prior.inverse(torch.randn(n, 4)).flatten(1)
    mass = ((z > 0) & (z < 1)).all(1).double()
    error = math.sqrt(sums.var() / replicates + mass.var() / n)
    assert abs(sums.mean() - mass.mean()) < 5 * error
    assert 0.1 < sums.mean() < 1 + 4 * error
    assert error < 0.01


# What a model says of data


ELBOS = {
    "glow": lambda: glow(IMAGE, flow={"levels": 1, **FLOW}, classes=2),
    "vae": lambda: vae((4,), coder=CODER),
    "f_vae": lambda: f_vae((4,), flow=FLOW),
}


@pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS.keys())
@torch.no_grad()
def test_the_elbo_is_minus_the_bound(make):
    """Of one sample minus rate and distortion, closed form and all; of K minus the K-sample bound of the same noise."""
    model = perturb(make())
    x, y = 2 * torch.randn(5, *model.shape).abs(), model.draw_labels(5)
    for k in (1, 4):
        torch.manual_seed(1)
        found = model.elbo(x, y, samples=k)
        torch.manual_seed(1)
        us = [model.noise(5) for _ in range(k)]
        bound = each(model(x, y, us[0])) if k == 1 else importance_bound(model(x, y, u, sampled=True) for u in us)
        torch.testing.assert_close(found, -bound, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="samples: expected 1 or more, found 0"):
        model.elbo(x, y, samples=0)


@pytest.mark.parametrize("closed", [False, True], ids=["sampled", "closed form"])
@torch.no_grad()
def test_the_elbo_is_below_the_truth(closed):
    """In the mean below log q(x), by less with more samples, also where one sample's rate is in closed form."""
    model, law = linear_gaussian(exact=False)
    if closed:
        model.posterior = Elementwise(SharedStd(model.posterior.flows[1].conditioner, 0.5))
    x = law.sample((5000,))
    assert (model(x).kl is not None) == closed
    gaps = [law.log_prob(x) - model.elbo(x, samples=k) for k in (1, 64)]
    assert all(gap.mean() > -4 * gap.std() / math.sqrt(len(gap)) for gap in gaps)
    assert gaps[0].mean() > 0.1 and gaps[1].mean() < 0.1 * gaps[0].mean()


@pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
@torch.no_grad()
def test_log_prob_of_images_is_the_density_of_their_noisy_bins(classes):
    """Of x + Phi(u) a flow's log-density of (x + Phi(u)) / 2^bits, minus D bits log 2: minus the loss of x and u."""
    model = perturb(glow(IMAGE, flow={"levels": 2, **FLOW}, classes=classes, bits=5))
    x, y, u = bins(6, bits=5), model.draw_labels(6), model.noise(6)
    noisy = x + Normal(0, 1).cdf(u)
    e, log_det = model.prior(noisy / 32, y)
    found = model.log_prob(noisy, y)
    torch.testing.assert_close(found, log_normal(e) + log_det - 16 * 5 * math.log(2), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, -each(model(x, y, u)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
@torch.no_grad()
def test_log_prob_of_vectors_is_minus_the_loss(classes):
    """Of data on their own scale, without noise."""
    model = perturb(realnvp((4,), flow=FLOW, classes=classes))
    x, y = 5 + 3 * torch.randn(50, 4), model.draw_labels(50)
    model.preprocess.fit(x)
    torch.testing.assert_close(model.log_prob(x, y), -each(model(x, y)), rtol=1e-12, atol=1e-12)


def test_log_prob_needs_an_exact_likelihood():
    """A vae has a bound only, which the message names."""
    with pytest.raises(ValueError, match="log_prob: this model has no exact likelihood; elbo gives a lower bound"):
        vae((4,), coder=CODER).log_prob(torch.randn(3, 4))


# Codes


@pytest.mark.parametrize("mixing", ["conv", "shuffle", "reverse"])
@pytest.mark.parametrize("coupling", ["affine", "additive"])
@torch.no_grad()
def test_codes_of_a_flow_are_exact(mixing, coupling):
    """decode(encode(x)) = x for every bin, and encode(decode(e)) = e, to rounding, every level's code kept."""
    flow = Glow(levels=2, depth=3, width=6, mixing=mixing, coupling=coupling)
    model = perturb(glow((3, 8, 4), flow=flow), 0.1)
    x, e = bins(4, (3, 8, 4)), torch.randn(4, 96)
    code = model.encode(x)
    assert code.shape == (4, 96)
    torch.testing.assert_close(model.decode(code), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(model.encode(model.decode(e)), e, rtol=1e-8, atol=1e-8)


STEP = {"levels": 2, "depth": 1, "width": 4}
SMALL = {
    "glow": lambda: glow((1, 4, 8), flow=STEP),
    "vae": lambda: vae((1, 4, 8), coder={"size": 3, "width": 4, "levels": 2}),
    "f_vae": lambda: f_vae((1, 4, 8), coder={"squeezes": 1, "blocks": 1, "hidden": 4}, flow=STEP),
}


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())
@torch.no_grad()
def test_temperature(make):
    """At temperature 0 all samples are the decoded zero code, finite; above it they differ."""
    model = perturb(make())
    cold = model.sample(3, temperature=0.0)
    assert cold.isfinite().all()
    assert torch.equal(cold, cold[:1].expand_as(cold))
    zero = torch.zeros(1, model.noise(1).numel())
    torch.testing.assert_close(cold[:1], model.decode(zero))
    warm = model.sample(3, temperature=0.8)
    assert not torch.allclose(warm[0], warm[1])
    draw = torch.Generator().manual_seed(5)
    e = torch.randn(3, *model.latent, generator=torch.Generator().manual_seed(5)).flatten(1)
    torch.testing.assert_close(model.sample(3, temperature=0.5, generator=draw), model.decode(0.5 * e))


# Units


@pytest.mark.parametrize("bits", [1, 5, 8])
@torch.no_grad()
def test_a_uniform_density_costs_its_bits(bits):
    """A flow of density 1 on the unit cube scores exactly ``bits`` bits a dimension, of any data."""
    uniform = Chain(Flatten((2, 3, 3)), Inverse(Dequantize(0)))  # z -> Phi^-1(z - y)
    uniform.context = 18
    model = LatentModel(Dequantize(bits), Exact(bits), uniform, (2, 3, 3), (2, 3, 3))
    x, u = bins(5, (2, 3, 3), bits), torch.randn(5, 2, 3, 3)
    zero = torch.zeros(5, 18)
    score = bits_per_dim(each(model(x, zero, u)), 18)
    torch.testing.assert_close(score, torch.full((5,), float(bits)), rtol=1e-10, atol=0)


def test_bits_per_dim_is_nats_over_dims_and_log_2():
    """D log 2 nats are one bit a dimension, of a number and of a tensor."""
    assert bits_per_dim(12 * math.log(2), 12) == pytest.approx(1)
    torch.testing.assert_close(bits_per_dim(torch.tensor([3.0, 6.0]), 3), torch.tensor([1.0, 2.0]) / math.log(2))


def test_atoms_sum_in_float32_at_least():
    """total of bfloat16 is float32, and right where a bfloat16 sum is off; log N is torch's."""
    a = torch.full((2, 4096), 0.01, dtype=torch.bfloat16)
    assert total(a).dtype == torch.float32
    torch.testing.assert_close(total(a), a.double().sum(1).float(), rtol=1e-5, atol=0)
    assert total(a.double()).dtype == torch.float64
    e = torch.randn(3, 2, 4)
    torch.testing.assert_close(log_normal(e), Normal(0, 1).log_prob(e).sum((1, 2)))
    assert math.log(2 * math.pi) == LOG_2PI
