"""What a model says of data: the elbo, the tighter bound of K samples, and the exact likelihood of flows."""

import math

import pytest
import torch
from conftest import perturb
from small import bins, each
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from fvae.conditioners import SharedStd
from fvae.decoders import Gaussian
from fvae.flows import Chain, Elementwise, Flatten, InvertibleConv
from fvae.model import LatentModel, Terms, importance_bound
from fvae.recipes import glow, vae
from fvae.statistics import initialize
from fvae.transforms import Additive

pytestmark = pytest.mark.usefixtures("float64")

IMAGE = (1, 4, 4)
KS = (1, 4, 16, 64, 256)


@torch.no_grad()
def linear_gaussian(exact: bool) -> tuple[LatentModel, MultivariateNormal]:
    """x = A z + b + sigma noise, z ~ N(0, I): the model and its known law of x, with the exact posterior or another."""
    d, dims, sigma = 2, 3, 0.6
    net, inverse, turn = nn.Linear(d, dims), nn.Linear(dims, d), InvertibleConv(d)
    a, b = net.weight.copy_(torch.randn(dims, d)), net.bias
    covariance = torch.linalg.inv(torch.eye(d) + a.T @ a / sigma**2)
    inverse.weight.copy_(covariance @ a.T / sigma**2)
    inverse.bias.copy_(-inverse.weight @ b)
    factor = torch.linalg.cholesky(covariance)
    turn.order.copy_(torch.arange(d))  # W = L diag(s): u -> W u has the posterior's covariance, correlations too
    turn.signs.fill_(1)
    turn.lu.copy_((factor / factor.diagonal()).tril(-1) + factor.diagonal().log().diag())
    if not exact:
        turn.lu.copy_((turn.lu.diagonal() + 0.3).diag())
        inverse.bias.add_(0.2)
    posterior = Chain(turn, Elementwise(inverse, Additive()))
    model = LatentModel(posterior, Gaussian(SharedStd(net, sigma)), Flatten((d,)), (dims,), (d,))
    return model, MultivariateNormal(b, a @ a.T + sigma**2 * torch.eye(dims))


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
    x = law.sample((5000,))
    gaps = [importance_bound(model(x, sampled=True) for _ in range(k)) + law.log_prob(x) for k in KS]
    assert all(gap.mean() > -4 * gap.std() / math.sqrt(len(gap)) for gap in gaps)
    means = [gap.mean().item() for gap in gaps]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.1 and means[-1] < 0.1 * means[0]


@torch.no_grad()
def test_one_sample_is_the_plain_bound_and_weights_are_averaged():
    """K = 1 is the loss itself; K terms give -log of the mean weight, without overflow for losses of thousands."""
    large, small = ([Terms(*(scale * torch.randn(4, 3))) for _ in range(5)] for scale in (1000, 1))
    torch.testing.assert_close(importance_bound(iter(large[:1])), each(large[0]))
    assert importance_bound(iter(large)).isfinite().all()
    weights = torch.stack([torch.exp(-each(t)) for t in small])
    torch.testing.assert_close(importance_bound(iter(small)), -weights.mean(0).log())


ELBOS = {
    "glow": lambda: glow(IMAGE, flow={"levels": 1, "depth": 2, "width": 6}, classes=2),
    "vae": lambda: vae((4,), coder={"size": 3, "width": 6}),
}


@pytest.mark.parametrize("make", ELBOS.values(), ids=ELBOS.keys())
@torch.no_grad()
def test_the_elbo_is_minus_the_bound(make):
    """Of one sample minus rate and distortion, closed form and all; of K minus the K-sample bound of the same noise."""
    model = perturb(make())
    x, y = 2 * torch.randn(5, *model.shape).abs(), model.draw_labels(5)
    x = x.round() if model.modality.bits else x
    for k in (1, 4):
        torch.manual_seed(1)
        found = model.elbo(x, y, samples=k)
        torch.manual_seed(1)
        us = [model.noise(5) for _ in range(k)]
        bound = each(model(x, y, us[0])) if k == 1 else importance_bound(model(x, y, u, sampled=True) for u in us)
        torch.testing.assert_close(found, -bound, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="samples: expected 1 or more, found 0"):
        model.elbo(x, y, samples=0)


@pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
@torch.no_grad()
def test_log_prob_of_images_is_the_density_of_their_noisy_bins(classes):
    """Of x + Phi(u) a flow's log-density of (x + Phi(u)) / 2^bits, minus D bits log 2: minus the loss of x and u."""
    model = perturb(glow(IMAGE, flow={"levels": 2, "depth": 2, "width": 6}, classes=classes, bits=5))
    x, y, u = bins(6, IMAGE, 5), model.draw_labels(6), model.noise(6)
    noisy, normal = x + Normal(0, 1).cdf(u), Normal(0, 1)
    e, log_det = model.prior(noisy / 32, y)
    expected = normal.log_prob(e).sum(1) + log_det - 16 * 5 * math.log(2)
    torch.testing.assert_close(model.log_prob(noisy, y), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(-each(model(x, y, u)), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_the_mass_of_the_cube():
    """Over all 16 one-bit images of 2 x 2, exp(-bound) sums to the flow's mass in [0, 1]^4, hence never above 1."""
    model = perturb(glow((1, 2, 2), flow={"levels": 1, "depth": 2, "width": 4}, bits=1), 0.1)
    images = torch.cartesian_prod(*[torch.arange(2.0)] * 4).reshape(16, 1, 2, 2)
    initialize(model, images.repeat(20, 1, 1, 1))
    replicates, n = 100, 100_000
    p = torch.exp(-importance_bound(model(images.repeat(replicates, 1, 1, 1)) for _ in range(100)))
    sums = p.reshape(replicates, 16).sum(1)
    z = model.prior.inverse(torch.randn(n, 4)).flatten(1)
    mass = ((z > 0) & (z < 1)).all(1).double()
    error = math.sqrt(sums.var() / replicates + mass.var() / n)
    assert error < 0.01 and abs(sums.mean() - mass.mean()) < 5 * error
    assert 0.1 < sums.mean() < 1 + 4 * error
