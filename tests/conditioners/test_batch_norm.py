"""Batch-normalized posteriors: the floors of their KL, and the statistics that evaluation uses."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from conftest import perturb
from small import bins
from torch import Tensor, nn

from fvae.conditioners import BatchNorm, OneSidedBatchNorm, RelativeToClass, RunningStatistic, TwoSidedBatchNorm
from fvae.conditioners.batch_norm import MOMENTUM
from fvae.model import LatentModel
from fvae.recipes import OneSided, TwoSided, bn_vae, f_vae, f_vae_reduced, vae
from fvae.statistics import fit_statistics

D = 4
TAUS = (0.1, 0.5, 0.9)


def some_data(model: LatentModel, n: int) -> tuple[Tensor, Tensor | None]:
    return (2 * torch.randn(n, 3) + 1 if len(model.shape) == 1 else bins(n, model.shape)), model.draw_labels(n)


# Floors of the KL


def two_sided_floor(tau: float) -> float:
    """E KL >= -d/2 log(1 - tau).

    E mean^2 + E std^2 = 1 leaves E KL = -1/2 E log std^2 >= -1/2 log E std^2, by Jensen, and of all theta
    E std^2 = (1 - tau) sigmoid(-theta) < 1 - tau.
    """
    return -D / 2 * math.log(1 - tau)


FLOORS = {  # one-sided E KL >= d/2 gamma^2: of means of variance gamma^2, at beta = 0 and std = 1
    **{f"one-sided, {gamma}": (OneSided(gamma=gamma), D / 2 * gamma**2) for gamma in (0.3, 1.0)},
    **{f"two-sided, {tau}": (TwoSided(tau=tau), two_sided_floor(tau)) for tau in TAUS},
}


def kl(model: LatentModel, n: int = 32) -> Tensor:
    return model(*some_data(model, n)).rate.mean()


def lowered(model: LatentModel, steps: int, lr: float = 1e-3) -> list[float]:
    """The KL of each batch in steps that lower the KL alone."""
    optimizer, rates = torch.optim.Adam(model.parameters(), lr=lr), []
    for _ in range(steps):
        rate = kl(model)
        optimizer.zero_grad()
        rate.backward()
        optimizer.step()
        rates.append(rate.item())
    return rates


@torch.no_grad()
def floored(posterior: OneSided | TwoSided, shape: tuple[int, ...], classes: int, tiny: bool) -> LatentModel:
    """A bn_vae, with weights of U(+-0.01) where ``tiny``, and classes far apart."""
    model = bn_vae(shape, posterior=posterior, coder={"size": D, "width": 8, "levels": 1}, classes=classes)
    for name, p in model.posterior.named_parameters():
        if tiny and "net" in name:
            p.uniform_(-0.01, 0.01)
    if classes:
        model.prior.flows[-1].flow.conditioner.mean.normal_(0, 2)
    return model


@pytest.mark.parametrize(("posterior", "floor"), FLOORS.values(), ids=FLOORS.keys())
@pytest.mark.parametrize(
    ("shape", "classes", "tiny"),
    [((3,), 0, True), ((3,), 3, True), ((3,), 0, False), ((1, 4, 4), 3, False), ((1, 4, 4), 0, True)],
    ids=["vectors", "classes", "large weights", "images, classes", "images"],
)
def test_the_kl_does_not_vanish(posterior, floor, shape, classes, tiny):
    """The KL of each batch is at least the floor, at the start and in steps that lower the KL alone.

    From tiny weights on, 100 steps would bring it to 0 if 1e-8 were added to the variances.
    """
    rates = lowered(floored(posterior, shape, classes, tiny), 100 if shape == (3,) and tiny else 10)
    assert min(rates) >= 0.999 * floor


def test_without_a_floor_the_kl_vanishes():
    """The same steps take that of a plain VAE below the lowest floor here."""
    model = vae((3,), coder={"size": D, "width": 8, "levels": 1})
    assert lowered(model, 100, 1e-2)[-1] < 0.1 * min(floor for _, floor in FLOORS.values())


def test_two_sided_reaches_its_floor(float64):
    """The floor is the best there is: where s is the same for all and theta is low, the KL is -1/2 log(1 - tau).

    At tau = 1/2 that is the published 0.347 nats a dimension.
    """
    conditioner = TwoSidedBatchNorm(nn.Identity(), 1, 0.5)
    with torch.no_grad():
        conditioner.theta.fill_(-20)
    mean, log_std = conditioner(torch.tensor([[1.0, 0.7], [2.0, 0.7], [3.0, 0.7], [4.0, 0.7]]))
    found = 0.5 * (mean.square() + torch.exp(2 * log_std) - 2 * log_std - 1)
    assert found.mean().item() == pytest.approx(two_sided_floor(0.5) / D, abs=1e-6) == pytest.approx(0.347, abs=5e-4)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
@torch.no_grad()
def test_two_sided_starts_near_the_floor_of_its_theta(tau):
    """At theta = 0 it is -1/2 log((1 - tau) / 2) nats a dimension, where weights are small.

    Deviations of mean 0 are as far from one another whatever the weights: half a nat a dimension above.
    """
    start = -D / 2 * math.log((1 - tau) / 2)
    assert 0.999 * start <= kl(floored(TwoSided(tau=tau), (3,), 0, tiny=True), 256) <= 1.01 * start


# Normalized posteriors


@pytest.mark.parametrize("tau", TAUS)
@torch.no_grad()
def test_two_sided_codes_have_variance_one(tau, float64):
    """Over a batch mean has mean 0 and mean^2 + std^2 is 1 in each dimension, of any network and any theta."""
    conditioner = perturb(TwoSidedBatchNorm(nn.Linear(5, 2 * D), D, tau), 1.0)
    mean, log_std = conditioner(3 * torch.randn(50, 5) + 2)
    torch.testing.assert_close(mean.mean(0), torch.zeros(D), rtol=0, atol=1e-9)
    torch.testing.assert_close(mean.square().mean(0) + torch.exp(2 * log_std).mean(0), torch.ones(D))
    assert (mean.square().mean(0) >= tau * (1 - 1e-6)).all()


@torch.no_grad()
def test_one_sided_means_have_deviation_gamma(float64):
    """Over a batch mean has mean beta and deviation gamma; gamma is kept with the weights and not trained."""
    conditioner = perturb(OneSidedBatchNorm(nn.Linear(5, 2 * D), D, 0.7), 0.5)
    mean, _ = conditioner(torch.randn(50, 5))
    torch.testing.assert_close(mean.mean(0), conditioner.beta)
    torch.testing.assert_close(mean.std(0, correction=0), torch.full((D,), 0.7))
    assert "gamma" in conditioner.state_dict() and "gamma" not in dict(conditioner.named_parameters())


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2)], ids=["vectors", "images"])
def test_statistics_are_those_of_batch_normalization(shape, float64):
    """The output and its gradient are torch's, of the same eps, in training; in evaluation of the running values."""
    ours, theirs = BatchNorm(4), (nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(4, eps=1e-12, affine=False)
    x = (3 * torch.randn(6, *shape) - 1).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(*(torch.autograd.grad(f(x).sin().sum(), x)[0] for f in (ours, theirs)))
    mean, var = (a.view(-1, *(1 for _ in shape[1:])) for a in ours.running.value)
    torch.testing.assert_close(ours.eval()(x), (x - mean) / var.sqrt())


@pytest.mark.parametrize("at", [1e3, -1e3])
@torch.no_grad()
def test_statistics_of_what_hardly_varies_are_finite(at):
    """A constant, however large, is normalized to 0 and not to noise that overflows."""
    z = BatchNorm(2)(torch.full((8, 2), at))
    assert z.isfinite().all() and z.abs().max() <= 1


SMALL = {"size": 2, "width": 4}
both_kinds = pytest.mark.parametrize("kind", ["one-sided", "two-sided"])


@both_kinds
def test_a_batch_of_one_has_no_statistics(kind):
    """In training it raises; in evaluation it is as good as any."""
    model = bn_vae((3,), posterior={"kind": kind}, coder=SMALL)
    with pytest.raises(ValueError, match="expected a batch of 2 or more, found 1"):
        model(torch.randn(1, 3))
    assert model.eval()(torch.randn(1, 3)).loss().isfinite()


@both_kinds
def test_relative_shares_the_priors_means(kind):
    """The posterior moves with the prior's means, of which there is one in weights, parameters and copies."""
    model, plain = (bn_vae((3,), posterior={"kind": kind}, classes=k, coder=SMALL) for k in (3, 0))
    assert len(model.state_dict()) == len(plain.state_dict()) + 1
    assert len(list(model.parameters())) == len(list(plain.parameters())) + 1
    twin = copy.deepcopy(model)
    for one in (model, twin, copy.deepcopy(twin).double()):
        relative, means = one.posterior.conditioner, one.prior.flows[-1].flow.conditioner
        assert isinstance(relative, RelativeToClass) and relative.means[0] is means
        x, y = torch.randn(4, 3, dtype=means.mean.dtype), torch.tensor([0, 1, 2, 0])
        before = relative((x, y))[0]
        with torch.no_grad():
            means.mean += 1
        torch.testing.assert_close(relative((x, y))[0], before + 1)


# Statistics for evaluation


@torch.no_grad()
def test_running_values_are_means_of_all_then_of_the_last():
    """Up to 1 / MOMENTUM batches the plain mean; later ones count for MOMENTUM; restart forgets."""
    running, seen = RunningStatistic(torch.tensor(7.0)), torch.rand(round(1 / MOMENTUM))
    for value in seen:
        running.update(value)
    torch.testing.assert_close(running.value, seen.mean())
    running.update(torch.tensor(5.0))
    torch.testing.assert_close(running.value, (1 - MOMENTUM) * seen.mean() + 5 * MOMENTUM)
    running.restart()
    running.update(torch.tensor(3.0))
    assert running.value == 3


NORMALIZED: dict = {"posterior": {"normalize": True}, "decoder": {"std": "optimal", "likelihood": "density"}}
MODELS: dict[str, Callable[[], LatentModel]] = {
    "one-sided": lambda: bn_vae((3,), posterior=OneSided(), coder=SMALL),
    "two-sided, classes": lambda: bn_vae((3,), classes=3, coder=SMALL),
    "optimal": lambda: vae((3,), decoder={"std": "optimal"}, coder=SMALL),
    "normalized, optimal": lambda: f_vae_reduced((3,), **NORMALIZED, coder=SMALL, flow={"depth": 1, "width": 4}),
    "of images": lambda: f_vae(
        (1, 4, 4), **NORMALIZED, coder={"hidden": 4}, flow={"levels": 1, "depth": 1, "width": 4}
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
@torch.no_grad()
def test_fitted_statistics_are_those_of_the_data(make):
    """After fit_statistics evaluation gives on the data what training gives, whatever was seen before."""
    model = perturb(make())
    for _ in range(3):
        x, y = some_data(model, 8)
        model(10 * x, y)
    x, y = some_data(model, 40)
    u = model.noise(40, torch.Generator().manual_seed(0))  # its own
    expected = model(x, y, u)
    state = {name: p.clone() for name, p in model.named_parameters()}
    model.eval()
    fit_statistics(model, [(x, y)])
    assert not model.training and all(torch.equal(p, state[name]) for name, p in model.named_parameters())
    torch.testing.assert_close(model(x, y, u), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_statistics_of_many_batches_are_their_mean():
    """fit_statistics takes the mean over the batches; a model without statistics is not even called."""
    model = perturb(MODELS["one-sided"]())
    x, running = some_data(model, 60)[0], model.posterior.conditioner.statistics.running
    values = []
    for part in x.chunk(3):
        fit_statistics(model, [(part, None)])
        values.append(running.value.clone())
    fit_statistics(model, [(part, None) for part in x.chunk(3)])
    torch.testing.assert_close(running.value, torch.stack(values).mean(0))
    fit_statistics(vae((3,), coder=SMALL), [(torch.randn(0, 99), None)])
