"""A stranger's parts: flows, posteriors, decoders and priors that the library doesn't know work everywhere."""

import math

import pytest
import torch
from conftest import perturb
from torch import nn

from fvae.decoders import Exact, Gaussian
from fvae.density import total
from fvae.flows import ActNorm, Chain, Coupling, Elementwise, Inverse, InvertibleConv, PointMass, Standardize
from fvae.flows.fused import FusedSteps, fuse, set_reversible
from fvae.model import LatentModel
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine

D, CLASSES = 4, 3


class Cubic(nn.Module):
    """A third-party layer, no ``Flow``: z = sinh(a x), whose inverse is asinh(z) / a."""

    def __init__(self):
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(D))

    def forward(self, x, cond=None):
        a = self.log_a.exp()
        return torch.sinh(a * x), (torch.log(torch.cosh(a * x)) + self.log_a).sum(1)

    def inverse(self, z, cond=None):
        return torch.asinh(z) / self.log_a.exp()


class ByLabel(nn.Module):
    """A conditioner of half the columns and the label."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        self.net, self.embed = nn.Linear(2, 4), nn.Embedding(CLASSES, 4)

    def forward(self, x1, y):
        return torch.tanh(self.net(x1) + self.embed(y))


class Sharper(Coupling):
    """A subclass of a known layer, which computes something else."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return 2 * z, log_det + D * math.log(2)

    def inverse_and_log_det(self, z, cond=None):
        x, log_det = super().inverse_and_log_det(z / 2, cond)
        return x, log_det - D * math.log(2)


class Laplace(nn.Module):
    """A decoder of its own: Laplace around a map of z, by label."""

    classes = CLASSES
    likelihood = "a Laplace density"

    def __init__(self):
        super().__init__()
        self.net, self.embed = nn.Linear(2, D), nn.Embedding(CLASSES, D)

    def forward(self, x, z, y):
        return total(-(x - self.mean(z, y)).abs() - math.log(2))

    def mean(self, z, y):
        return self.net(z) + self.embed(y)


class Logistic(nn.Module):
    """A posterior that isn't Gaussian: a logistic of u, around a map of x and of the label."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        self.net, self.embed = nn.Linear(D, 2), nn.Embedding(CLASSES, 2)

    def forward(self, u, cond=None):
        x, y = cond
        return self.net(x) + self.embed(y) + torch.sinh(u), total(torch.log(torch.cosh(u)))

    def inverse(self, z, cond=None):
        x, y = cond
        return torch.asinh(z - self.net(x) - self.embed(y))


def steps(coupling=Coupling) -> list:
    layers = ((ActNorm((D,)), InvertibleConv(D), coupling(nn.Linear(2, 4), 2, Affine(bound=2.0))) for _ in range(2))
    return [f for step in layers for f in step]


def flow_model(*flows: nn.Module) -> LatentModel:
    return LatentModel(PointMass(), Exact(), Chain(*flows), (D,), (D,), Standardize(D))


def vae(posterior: nn.Module, decoder: nn.Module, prior: nn.Module) -> LatentModel:
    return LatentModel(posterior, decoder, prior, (D,), (2,), Standardize(D))


MODELS = {
    "a third-party layer": lambda: flow_model(Cubic(), *steps()),
    "a third-party layer backwards": lambda: flow_model(*steps(), Inverse(Cubic())),
    "a subclass of Coupling": lambda: flow_model(*fuse(steps(Sharper))),
    "a conditional coupling as the prior": lambda: flow_model(*steps(), Coupling(ByLabel(), 2)),
    "a conditional coupling, fused": lambda: flow_model(
        *fuse([ActNorm((D,)), InvertibleConv(D), Coupling(ByLabel(), 2)])
    ),
    "a decoder": lambda: vae(Elementwise(nn.Linear(D, 4)), Laplace(), Chain()),
    "a posterior": lambda: vae(Logistic(), Gaussian(nn.Linear(2, 2 * D)), Chain()),
    "all at once": lambda: vae(
        Logistic(), Laplace(), Chain(Inverse(Elementwise(nn.Embedding(CLASSES, 2), Additive())))
    ),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def data(n: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.randint(CLASSES, (n,))
    t = torch.randn(n, 1)
    x = torch.cat([torch.sin(t + i) for i in range(D)], 1) + y[:, None] + 0.1 * torch.randn(n, D)
    return 10 * x, y


def made(make) -> tuple[LatentModel, torch.Tensor, torch.Tensor | None]:
    model, (x, y) = make(), data()
    y = y if model.classes else None
    initialize(model, x, y)
    return model, x, y


@every_model
@pytest.mark.parametrize("reversible", [False, True])
def test_it_trains(make, reversible):
    """Thirty steps lower the loss, with every parameter's gradient, recomputed or not."""
    model, x, y = made(make)
    set_reversible(model, reversible)
    optimizer, before = torch.optim.Adam(model.parameters(), 2e-2), model(x, y).loss().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(x, y).loss()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert loss.item() < before - 0.2


@every_model
@torch.no_grad()
def test_its_verbs_agree(make):
    """encode and decode are inverse where the model is a flow; elbo is log_prob there, else a bound by more samples."""
    model, x, y = made(make)
    perturb(model, 0.05).double()
    x = x.double()
    e = model.encode(x, y)
    assert e.shape == (64, math.prod(model.latent)) and model.sample(64, y).shape == (64, D)
    if isinstance(model.posterior, PointMass):
        torch.testing.assert_close(model.decode(e, y), x, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(model.log_prob(x, y), model.elbo(x, y), rtol=1e-10, atol=1e-10)
    else:
        with pytest.raises(ValueError, match=r"log_prob: .* elbo"):
            model.log_prob(x, y)
        assert model.elbo(x, y, samples=50).mean() > model.elbo(x, y).mean()


@every_model
@torch.no_grad()
def test_its_labels_reach_it_or_are_refused(make):
    """Another label is another density where a part declares classes; elsewhere labels are an error."""
    model, x, _ = made(make)
    y = torch.zeros(len(x), dtype=torch.long)
    if not model.classes:
        with pytest.raises(ValueError, match="y: expected no labels"):
            model.elbo(x, y)
        return
    u = model.noise(len(x))
    perturb(model, 0.1)
    assert not torch.allclose(model(x, y, u).loss(), model(x, y + 1, u).loss())
    with pytest.raises(ValueError, match=r"y: expected labels 0 \.\. 2, found none"):
        model.elbo(x)


@every_model
@torch.no_grad()
def test_its_weights_are_all_of_it(make):
    """One made anew does the same once the weights are loaded."""
    model, x, y = made(make)
    again = make()
    again.load_state_dict(model.state_dict())
    u = model.noise(len(x))
    assert torch.equal(model(x, y, u).loss(), again(x, y, u).loss())


def test_only_the_exact_pattern_is_fused():
    assert isinstance(fuse(steps())[0], FusedSteps)
    assert len(fuse(steps(Sharper))) == 6


def test_parts_that_disagree_on_classes_are_refused():
    other = Elementwise(nn.Linear(D, 4))
    other.classes = 5
    with pytest.raises(ValueError, match=r"classes: expected one number in all of LatentModel, found \[3, 5\]"):
        vae(other, Laplace(), Chain())


class Twice(Elementwise):
    """A Gaussian posterior made wider: what its parent offers as mean and deviation is no longer right."""

    def forward(self, u, cond=None):
        z, log_det = super().forward(2 * u, cond)
        return z, log_det + z[0].numel() * math.log(2)


def test_a_subclass_does_not_inherit_what_no_longer_holds():
    """The objective takes the subclass's own forward, not its parent's mean and deviation."""
    model = vae(Twice(nn.Linear(D, 4)), Gaussian(nn.Linear(2, 2 * D)), Chain())
    x, u = data(8)[0], torch.randn(8, 2)
    terms = model(x, u=u)
    assert terms.kl is None and torch.equal(terms.log_det, model.posterior(u, model.preprocess(x)[0])[1])
