"""A stranger's parts: flows, posteriors, decoders and priors that the library doesn't know work everywhere."""

import math

import pytest
import torch
from conftest import perturb
from small import Halved, Sinh
from torch import nn

from fvae import fit, load
from fvae.data import from_memory
from fvae.decoders import Exact, Gaussian
from fvae.density import total
from fvae.flows import ActNorm, Chain, Coupling, Elementwise, Inverse, InvertibleConv, PointMass, Standardize
from fvae.flows.fused import fuse
from fvae.metrics import bounds
from fvae.metrics.bounds import noise_of
from fvae.model import LatentModel
from fvae.recipes import RECIPES, recipe
from fvae.recipes.registry import Classes, Shape
from fvae.schema import Count
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine

D, CLASSES = 4, 3


class ByLabel(nn.Module):
    """A conditioner of half the columns and the label."""

    classes = CLASSES

    def __init__(self):
        super().__init__()
        self.net, self.embed = nn.Linear(2, 4), nn.Embedding(CLASSES, 4)

    def forward(self, x1, y):
        return torch.tanh(self.net(x1) + self.embed(y))


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
    "a third-party layer": lambda: flow_model(Sinh(D), *steps()),
    "a third-party layer backwards": lambda: flow_model(*steps(), Inverse(Sinh(D))),
    "a subclass of Coupling": lambda: flow_model(*fuse(steps(Halved))),
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
    """``fit`` lowers the held-out bound, with its labels, recomputed or not, and evaluates it with them."""
    model, (x, y) = make(), data(256)
    labels = y if model.classes else None
    settings = {"steps": 40, "eval_interval": 20, "batch_size": 64, "lr": 2e-2, "warmup": 1, "reversible": reversible}
    first, last = fit(model, x, labels=labels, ema=0.5, accelerator="cpu", progress=False, **settings)
    assert last["test_nats"] < first["test_nats"] and last["skipped_steps"] == 0
    samples = from_memory(x, labels, model.modality)
    with torch.no_grad():
        found = bounds(model, samples, samples=1, seed=3).tighter
        u = noise_of(model.double(), x.double(), 1, seed=3)[0]  # rows are scored in float64
        terms = model(x.double(), labels, u, sampled=True)
    torch.testing.assert_close(torch.from_numpy(found), terms.rate + terms.distortion)


@pytest.fixture
def strangers_recipe():
    """A recipe of a stranger's parts."""
    known = dict(RECIPES)

    @recipe
    def ring(shape: Shape, width: Count = 2, classes: Classes = CLASSES) -> LatentModel:
        """A posterior, a decoder and a prior of labels that fvae doesn't know."""
        prior = Chain(Inverse(Elementwise(nn.Embedding(classes, width), Additive())))
        return LatentModel(Logistic(), Laplace(), prior, shape, (width,), Standardize(D))

    yield ring
    RECIPES.clear()
    RECIPES.update(known)


def test_it_is_saved_and_loaded(strangers_recipe, tmp_path):
    """A model of a stranger's parts, made by a stranger's recipe, is saved, loaded, resumed and evaluated."""
    model, (x, y) = strangers_recipe((D,)), data(256)
    settings = {"labels": y, "run": tmp_path, "batch_size": 64, "accelerator": "cpu", "progress": False}
    fit(model, x, steps=5, **settings)
    loaded = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    rows = fit(strangers_recipe((D,)), x, steps=8, resume=True, **settings)
    assert [row["step"] for row in rows] == [5, 8]
    assert loaded.config == {"recipe": "ring", "shape": [D], "settings": {"width": 2, "classes": CLASSES}}


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
