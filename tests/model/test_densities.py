"""Densities are densities, in the units of the data; codes are exact, and samples follow the density."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import SEEN, perturb
from small import Net, bins, each, image_flow, vector_flow
from torch import Tensor

from fvae.decoders import ExactBins
from fvae.density import bits_per_dim, log_normal
from fvae.flows import ActNorm, Augment, Chain, Dequantize, FactorOut, Flatten, Flow, Inverse
from fvae.model import LatentModel
from fvae.recipes import RECIPES, Glow, f_vae, glow, vae
from fvae.transforms import Affine

pytestmark = pytest.mark.usefixtures("float64")

FLOW = {"depth": 2, "width": 6}
CODER = {"size": 3, "width": 6}


def grid_around(points: Tensor, steps: int = 401) -> tuple[Tensor, Tensor]:
    """A grid of the plane, half as wide again as the points reach, and its cells' area."""
    low, high = points.amin(0), points.amax(0)
    low, high = low - (high - low) / 4, high + (high - low) / 4
    sides = [torch.linspace(a, b, steps) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    return torch.cartesian_prod(*sides), (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])


def log_density(flow: Flow, x: Tensor) -> Tensor:
    e, log_det = flow(x)
    return log_normal(e) + log_det


class AroundCorner(Flow):
    """A flow of the corner of an image, beside the density of what augments it."""

    def __init__(self, flow: Flow, augment: Augment):
        super().__init__()
        self.flow, self.augment = flow, augment

    def forward(self, x, cond=None):
        corner, a = self.augment.corner(x), self.augment
        e, log_det = self.flow(corner)
        noise = (x - F.pad(corner, a.padding, "replicate")) / a.std
        outside = F.pad(torch.zeros_like(corner[0]), a.padding, value=1.0) > 0
        return torch.cat([e, noise[:, outside]], 1), log_det - outside.sum() * math.log(a.std)


@torch.no_grad()
def test_padding_costs_nothing_under_a_prior_that_knows_it():
    """For any noise the bound is then that of the model without padding; the likelihood is not exact any more."""
    small, large, bits = (2, 3, 2), (2, 4, 4), 4
    flow = perturb(Chain(ActNorm(small), Flatten(small)))
    posterior = Augment(Dequantize(bits), small, large)
    padded = LatentModel(posterior, ExactBins(bits, *small[1:]), AroundCorner(flow, posterior), small, large)
    plain = LatentModel(Dequantize(bits), ExactBins(bits), flow, small, small)
    x, u = bins(5, small, bits), torch.randn(5, *large)
    terms, expected = padded(x, u=u), plain(x, u=posterior.corner(u))
    torch.testing.assert_close(terms.rate + terms.distortion, expected.rate + expected.distortion)
    with pytest.raises(ValueError, match="no exact likelihood; elbo gives a lower bound"):
        padded.log_prob(x)


def factored_out() -> Flow:
    rest = Chain(ActNorm((1, 1, 1)), Flatten((1, 1, 1)))
    return perturb(FactorOut(rest, Net(1, 2), (2, 1, 1), Affine(bound=1.0)), 0.5)


PLANE: dict[str, Callable[[], Flow]] = {
    "chain": lambda: vector_flow(2),
    "inverse": lambda: Inverse(vector_flow(2)),
    "multiscale": lambda: Chain(Inverse(Flatten((2, 1, 1))), image_flow((2, 1, 1), levels=1)),
    "factor out": lambda: Chain(Inverse(Flatten((2, 1, 1))), factored_out()),
}


@pytest.mark.parametrize("make", PLANE.values(), ids=PLANE.keys())
@torch.no_grad()
def test_densities_integrate_to_one(make):
    """exp(log N(e) + log |det|) sums to 1 over the plane, and the mean of -log q over samples is its entropy there."""
    flow, n = make(), 50_000
    samples = flow.inverse(torch.randn(n, 2))
    grid, area = grid_around(samples)
    log_q, drawn = log_density(flow, grid), -log_density(flow, samples)
    assert not torch.allclose(flow(grid)[0], grid, atol=0.1)
    assert (log_q.exp().sum() * area).item() == pytest.approx(1, abs=1e-3)
    entropy = -(log_q.exp() * log_q).sum() * area
    assert (drawn.mean() - entropy).abs() < 5 * drawn.std() / math.sqrt(n)


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


@pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
@pytest.mark.parametrize("name", ["realnvp", "glow", "nice"])
@torch.no_grad()
def test_densities_of_vectors_integrate_to_one(name, classes):
    """exp(-loss) of an exact flow on two columns in their units sums to 1 over the plane, of each label."""
    model = perturb(RECIPES[name]((2,), **VECTORS[name], classes=classes), 0.3)
    model.preprocess.fit(torch.tensor([100.0, -1.0]) + torch.tensor([20.0, 0.1]) * torch.randn(100, 2))
    of_label = lambda n: torch.full((n,), 2) if classes else None  # noqa: E731
    grid, area = grid_around(model.sample(4000, of_label(4000)))
    mass = torch.exp(-each(model(grid, of_label(len(grid))))).sum() * area
    assert mass.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", SEEN)
@torch.no_grad()
def test_the_bound_of_vectors_is_on_their_own_scale(name):
    """Data in other units, with Standardize fitted again, cost log |det| more nats; codes and reconstructions agree."""
    model = perturb(RECIPES[name]((4,), **VECTORS.get(name, {})), 0.1)
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


@pytest.mark.parametrize("bits", [1, 5, 8])
@torch.no_grad()
def test_a_uniform_density_costs_its_bits(bits):
    """A flow of density 1 on the unit cube scores exactly ``bits`` bits a dimension, of any data."""
    shape, uniform = (2, 3, 3), Chain(Flatten((2, 3, 3)), Inverse(Dequantize(0)))  # z -> Phi^-1(z - y)
    uniform.context = 18
    model = LatentModel(Dequantize(bits), ExactBins(bits), uniform, shape, shape)
    score = bits_per_dim(each(model(bins(5, shape, bits), torch.zeros(5, 18), torch.randn(5, *shape))), 18)
    torch.testing.assert_close(score, torch.full((5,), float(bits)), rtol=1e-10, atol=0)


# Codes and samples


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
    cold, warm = model.sample(3, temperature=0.0), model.sample(3, temperature=0.8)
    assert cold.isfinite().all()
    torch.testing.assert_close(cold, model.decode(torch.zeros(3, model.code_values)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cold, cold[:1].expand_as(cold), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(warm[0], warm[1])
    found = model.sample(3, temperature=0.5, generator=torch.Generator().manual_seed(5))
    e = model.codes(3, torch.Generator().manual_seed(5))
    torch.testing.assert_close(found, model.decode(0.5 * e))
