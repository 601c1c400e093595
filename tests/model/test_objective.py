"""The objective: its terms, and models that are one another's special cases (Su & Wu, 2018), sample by sample."""

import math

import pytest
import torch
from conftest import MeanStd, perturb
from small import Net, bins, each, image_flow, vector_flow
from torch import nn
from torch.distributions import Normal

from fvae.conditioners import SharedStd
from fvae.decoders import ExactBins, Gaussian
from fvae.density import log_normal, to_unit
from fvae.flows import Chain, Dequantize, Elementwise, Flatten, Flow
from fvae.model import LatentModel, Terms
from fvae.networks.conv import squeezing, unsqueezing
from fvae.recipes import NICE, Glow, RealNVP, cvae, f_vae, f_vae_general, noisy_flow, vae
from fvae.transforms import Affine

pytestmark = pytest.mark.usefixtures("float64")

IMAGE, LATENT = (1, 4, 4), (4, 2, 2)
NORMAL = Normal(0, 1)
FLOW = {"depth": 2, "width": 6}
CODER = {"size": 3, "width": 6}
images_and_vectors = pytest.mark.parametrize("shape", [IMAGE, (5,)], ids=["images", "vectors"])


def posterior_of(d: int) -> Elementwise:
    return Elementwise(perturb(Net(3, 2 * d), 0.4), Affine(bound=3.0))


# Rate and distortion


def small_vae() -> LatentModel:
    return LatentModel(posterior_of(2), Gaussian(MeanStd(perturb(Net(2, 6), 0.5))), Flatten((2,)), (3,), (2,))


@torch.no_grad()
def test_the_closed_form_is_the_formula():
    """Of a Gaussian posterior and prior the rate is 1/2 sum (mu^2 + sigma^2 - log sigma^2 - 1)."""
    model, x, u = small_vae(), 2 * torch.randn(5, 3), torch.randn(5, 2)
    mean, log_std = model.posterior.parameters_for(x)
    var = torch.exp(2 * log_std)
    terms, sampled = model(x, u=u), model(x, u=u, sampled=True)
    kl = 0.5 * (mean.square() + var - var.log() - 1).sum(1)
    torch.testing.assert_close(terms.rate, kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(terms.log_u, torch.full((5,), -(1 + math.log(2 * math.pi))))
    torch.testing.assert_close(terms.log_det, log_std.sum(1))
    assert torch.equal(terms.log_x, sampled.log_x)
    assert not torch.allclose(terms.rate, sampled.rate)


@torch.no_grad()
def test_the_sampled_rate_means_the_closed_form():
    """The mean over u of the sampled rate is the closed-form KL, and that of every term its closed form."""
    model, x, n = small_vae(), 2 * torch.randn(3, 3), 20_000
    many, closed = model(x.repeat_interleave(n, 0), sampled=True), model(x)
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


class After(nn.Module):
    """The network G(F^-1(z)): a decoder that undoes a flow first."""

    def __init__(self, flow: Flow, net: nn.Module):
        super().__init__()
        self.flow, self.net = flow, net

    def forward(self, z):
        return self.net(self.flow.inverse(z))


@torch.no_grad()
def test_a_noisy_flow_is_a_latent_model():
    """Posterior F(sigma u + x), decoder N(x; F^-1(z), sigma^2): the flow's NLL of x + sigma u, sample by sample."""
    sigma, flow, here = 0.07, image_flow(LATENT), nn.Identity()
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


def f_vae_parts() -> tuple[Elementwise, nn.Module, nn.Module, Flow]:
    """Perturbed sigma_1 u + E(x), G, (G, sigma_2) and F of a small f-VAE of continuous data."""
    encoder, generator = squeezing(1, 1, 1, 4), unsqueezing(1, 1, 1, 4)
    posterior = perturb(Elementwise(SharedStd(encoder, 0.2)))
    return posterior, generator, perturb(SharedStd(generator, 0.3)), image_flow(LATENT)


@torch.no_grad()
def test_the_flow_may_move_from_the_posterior_to_the_prior():
    """Posterior F(sigma_1 u + E(x)) with decoder G(F^-1(z)) has, sample by sample, the loss of F as the prior."""
    posterior, generator, decoder, flow = f_vae_parts()
    moved = SharedStd(After(flow, generator), decoder.log_std.exp().item())
    published = LatentModel(Chain(posterior, flow), Gaussian(moved), Flatten((16,)), IMAGE, LATENT)
    ours = LatentModel(posterior, Gaussian(decoder), flow, IMAGE, LATENT)
    x, u, e = torch.randn(6, *IMAGE), torch.randn(6, *LATENT), torch.randn(6, 16)
    torch.testing.assert_close(each(published(x, u=u)), each(ours(x, u=u)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(published.encode(x), ours.encode(x))
    torch.testing.assert_close(published.decode(e), ours.decode(e), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_explicit_loss_of_f_vae():
    """Every term of the printed loss, D log sigma_2 and the constants too, adds up to the model's."""
    posterior, generator, decoder, flow = f_vae_parts()
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
        - NORMAL.log_prob(e).sum(1)
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
    flow = image_flow(IMAGE, squeeze_first=True)
    model = LatentModel(Dequantize(bits), ExactBins(bits), flow, IMAGE, IMAGE)
    x, u = bins(5, IMAGE, bits), torch.randn(5, *IMAGE)
    e, log_det = flow((x + NORMAL.cdf(u)) / 2**bits)
    expected = 16 * bits * math.log(2) - NORMAL.log_prob(e).sum(1) - log_det
    torch.testing.assert_close(each(model(x, u=u)), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_alternating_posterior_flows_are_one_latent_model():
    """z = f_n with f_i = F_i(sigma_i(x) f_{i-1} + mu_i(x)): its log-determinant is autograd's, its loss (1)."""
    posterior = Chain(posterior_of(4), vector_flow(4), posterior_of(4), vector_flow(4), posterior_of(4))
    model = LatentModel(posterior, Gaussian(MeanStd(perturb(Net(4, 6)))), vector_flow(4), (3,), (4,))
    x, u = torch.randn(2, 3), torch.randn(2, 4)
    jacobian = torch.autograd.functional.jacobian(lambda a: posterior(a, x)[0].sum(0), u).transpose(0, 1)
    z = posterior(u, x)[0]
    e, log_det = model.prior(z)
    expected = log_normal(u) - torch.linalg.slogdet(jacobian).logabsdet - model.decoder(x, z) - log_normal(e) - log_det
    torch.testing.assert_close(each(model(x, u=u)), expected, rtol=1e-10, atol=1e-10)


# Recipes as special cases

F_VAE: dict = {"coder": {"squeezes": 1, "blocks": 1, "hidden": 4}, "flow": {"levels": 1, **FLOW}}


@images_and_vectors
@torch.no_grad()
def test_one_round_is_f_vae(shape):
    """f_vae_general of one round is f_vae with sigma_1(x) by a network; more rounds start where one does."""
    general, two = (f_vae_general(shape, rounds=rounds, **F_VAE) for rounds in (1, 2))
    simple = f_vae(shape, posterior={"std": "network"}, **F_VAE)
    x, u = bins(4, shape), torch.randn(4, *simple.latent)
    two.load_state_dict({**two.state_dict(), **general.state_dict()})
    torch.testing.assert_close(each(two(x, u=u)), each(general(x, u=u)), rtol=1e-10, atol=1e-10)
    weights = {name.replace("posterior.flows.0.", "posterior."): a for name, a in perturb(general).state_dict().items()}
    simple.load_state_dict(weights)
    torch.testing.assert_close(each(simple(x, u=u)), each(general(x, u=u)), rtol=0, atol=0)


@torch.no_grad()
def test_f_vae_with_the_identity_inside_is_a_noisy_flow():
    """On vectors with E = G = 1 and sigma_1 = sigma_2 fixed, f_vae's loss is noisy_flow's, sample by sample."""
    noisy, fixed = noisy_flow((5,), sigma=0.1, flow=FLOW), {"sigma": 0.1, "std": "fixed"}
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
    sigma, w = 0.1, 2 / 32
    vectors, images = (perturb(noisy_flow(shape, sigma=sigma, flow=flow, bits=5)) for shape in ((4,), IMAGE))
    vectors.preprocess.fit(5 + 3 * torch.randn(50, 4))
    x, u = torch.randn(6, 4), torch.randn(6, 4)
    standard, volume = vectors.preprocess(x)
    e, log_det = vectors.prior(standard + sigma * u)
    torch.testing.assert_close(each(vectors(x, u=u)), -log_normal(e) - log_det - volume, rtol=1e-10, atol=1e-10)
    x, u = bins(6, IMAGE, 5), torch.randn(6, *IMAGE)
    e, log_det = images.prior(to_unit(x, 5) + sigma * u)
    cost = 16 * (w**2 / (24 * sigma**2) - math.log(w))
    torch.testing.assert_close(each(images(x, u=u)), -log_normal(e) - log_det + cost, rtol=1e-10, atol=1e-10)


@images_and_vectors
@torch.no_grad()
def test_the_rate_of_a_cvae_is_the_formula(shape):
    """KL(p(z|x) || N(mu^y, I)) = 1/2 sum [(mu - mu^y)^2 + sigma^2 - log sigma^2 - 1]; with one class at 0, a vae's."""
    coder = {**CODER, "levels": 1}
    model = perturb(cvae(shape, classes=4, coder=coder), 0.5)
    x, y, u = bins(6, shape), torch.tensor([0, 1, 2, 3, 3, 0]), torch.randn(6, 3)
    mean, log_std = model.posterior.parameters_for(model.preprocess(x)[0])
    means = model.prior.flows[1].flow.conditioner.mean
    kl = 0.5 * ((mean - means[y]).square() + torch.exp(2 * log_std) - 2 * log_std - 1).sum(1)
    torch.testing.assert_close(model(x, y, u).rate, kl, rtol=1e-10, atol=1e-10)
    means.zero_()
    plain = vae(shape, coder=coder, decoder={"sigma": 1.0, "std": "fixed", "likelihood": "density"})
    plain.load_state_dict({k: a for k, a in model.state_dict().items() if "prior" not in k})
    torch.testing.assert_close(each(model(x, y, u)), each(plain(x, u=u)), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_class_is_drawn_around_its_mean():
    """Of a label z ~ N(mu^y, T^2 I): what is decoded from code e is the mean at e + mu^y, and weights mix the means."""
    model = perturb(cvae((5,), classes=3, coder={"size": 2, "width": 6}), 0.5)
    e, y, half = torch.randn(4, 2), torch.tensor([0, 1, 2, 1]), torch.tensor([[0.5, 0.5, 0.0]]).expand(4, 3)
    means = model.prior.flows[1].flow.conditioner.mean
    torch.testing.assert_close(model.decode(e, y), model.decoder.mean(e + means[y]))
    torch.testing.assert_close(model.decode(e, half), model.decoder.mean(e + (means[0] + means[1]) / 2))
