"""Who computes (mean, log_std): normalized posteriors and their floors, optimal and floored deviations, class means."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from conftest import perturb
from torch import Tensor, nn

from fvae.conditioners import (
    BatchNorm,
    ClassMeans,
    OneSidedBatchNorm,
    OptimalStd,
    RelativeToClass,
    RunningStatistic,
    SharedStd,
    TwoSidedBatchNorm,
)
from fvae.conditioners.batch_norm import MOMENTUM
from fvae.decoders import Gaussian
from fvae.model import LatentModel
from fvae.recipes import OneSided, TwoSided, bn_vae, f_vae, f_vae_reduced, vae
from fvae.statistics import fit_statistics

GAMMAS, TAUS = (0.3, 0.5, 0.7, 1.0), (0.1, 0.5, 0.9)
D = 4


def some_data(model: LatentModel, n: int) -> tuple[Tensor, Tensor | None]:
    x = 2 * torch.randn(n, 3) + 1 if len(model.shape) == 1 else torch.randint(256, (n, *model.shape)).float()
    return x, model.draw_labels(n)


# Floors of the KL


def one_sided_floor(gamma: float) -> float:
    """E KL >= d/2 gamma^2: of means of variance gamma^2, at beta = 0 and std = 1."""
    return D / 2 * gamma**2


def two_sided_floor(tau: float) -> float:
    """E KL >= -d/2 log(1 - tau).

    E mean^2 + E std^2 = 1 leaves E KL = -1/2 E log std^2 >= -1/2 log E std^2, by Jensen, and of all theta
    E std^2 = (1 - tau) sigmoid(-theta) < 1 - tau.
    """
    return -D / 2 * math.log(1 - tau)


FLOORS = {
    **{f"one-sided, {g}": (OneSided(gamma=g), one_sided_floor(g)) for g in GAMMAS},
    **{f"two-sided, {t}": (TwoSided(tau=t), two_sided_floor(t)) for t in TAUS},
}


def kl(model: LatentModel, n: int = 32) -> Tensor:
    x, y = some_data(model, n)
    return model(x, y).rate.mean()


def lowered(model: LatentModel, lr: float = 1e-3) -> list[float]:
    """The KL of each batch in 100 steps that lower the KL alone."""
    optimizer, rates = torch.optim.Adam(model.parameters(), lr=lr), []
    for _ in range(100):
        rate = kl(model)
        optimizer.zero_grad()
        rate.backward()
        optimizer.step()
        rates.append(rate.item())
    return rates


def floored(posterior: OneSided | TwoSided, shape: tuple, classes: int, tiny: bool) -> LatentModel:
    """A bn_vae, with weights of U(+-0.01) where ``tiny``, and classes far apart."""
    model = bn_vae(shape, posterior=posterior, coder={"size": D, "width": 8, "levels": 1}, classes=classes)
    with torch.no_grad():
        for name, p in model.posterior.named_parameters():
            if tiny and "net" in name:
                p.uniform_(-0.01, 0.01)
        if classes:
            model.prior.flows[-1].flow.conditioner.mean.normal_(0, 2)
    return model


every_floor = pytest.mark.parametrize(("posterior", "floor"), FLOORS.values(), ids=FLOORS.keys())
with_classes = pytest.mark.parametrize("classes", [0, 3], ids=["", "classes"])
both_shapes = pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=["vectors", "images"])


@every_floor
@with_classes
@both_shapes
@torch.no_grad()
def test_the_kl_is_above_its_floor_at_the_start(posterior, floor, shape, classes):
    """Of tiny weights too, of which an eps of 1e-8 would take half of it."""
    for tiny in (True, False):
        model = floored(posterior, shape, classes, tiny)
        assert min(kl(model) for _ in range(10)) >= 0.999 * floor


@every_floor
@pytest.mark.parametrize(("shape", "classes"), [((3,), 0), ((3,), 3), ((1, 4, 4), 3)], ids=["", "classes", "images"])
def test_the_kl_does_not_vanish(posterior, floor, shape, classes):
    """The KL of each batch is at least the floor in 100 steps that lower the KL alone, of vectors from tiny weights.

    With an eps of 1e-8 they bring it to 0.
    """
    rates = lowered(floored(posterior, shape, classes, tiny=len(shape) == 1))
    assert min(rates) >= 0.999 * floor


def test_without_a_floor_the_kl_vanishes():
    """The same steps take that of a plain VAE below the lowest floor here."""
    model = vae((3,), coder={"size": D, "width": 8, "levels": 1})
    assert lowered(model, 1e-2)[-1] < 0.1 * min(floor for _, floor in FLOORS.values())


def test_the_two_sided_floor_at_one_half():
    """0.347 nats a dimension, as published; half of log 2."""
    assert two_sided_floor(0.5) / D == pytest.approx(0.347, abs=5e-4)


def test_two_sided_reaches_its_floor(float64):
    """The floor is the best there is: where s is the same for all and theta is low, the KL is -1/2 log(1 - tau)."""
    conditioner = TwoSidedBatchNorm(nn.Identity(), 1, 0.3)
    with torch.no_grad():
        conditioner.theta.fill_(-20)
    mean, log_std = conditioner(torch.tensor([[1.0, 0.7], [2.0, 0.7], [3.0, 0.7], [4.0, 0.7]]))
    kl = 0.5 * (mean.square() + torch.exp(2 * log_std) - 2 * log_std - 1)
    assert kl.mean().item() == pytest.approx(-0.5 * math.log(0.7), abs=1e-6)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
@torch.no_grad()
def test_two_sided_starts_near_the_floor_of_its_theta(tau):
    """At theta = 0 it is -1/2 log((1 - tau) / 2) nats a dimension, where weights are small.

    Deviations of mean 0 are as far from one another whatever the weights: half a nat a dimension above.
    """
    start = -D / 2 * math.log((1 - tau) / 2)
    model = floored(TwoSided(tau=tau), (3,), 0, tiny=True)
    assert 0.999 * start <= kl(model, 256) <= 1.01 * start


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
    mean, var = ours.running.value
    expected = (x - mean.view(-1, *(1 for _ in shape[1:]))) / var.sqrt().view(-1, *(1 for _ in shape[1:]))
    torch.testing.assert_close(ours.eval()(x), expected)


@pytest.mark.parametrize("kind", ["one-sided", "two-sided"])
def test_a_batch_of_one_has_no_statistics(kind):
    """In training it raises; in evaluation it is as good as any."""
    model = bn_vae((3,), posterior={"kind": kind}, coder=SMALL)
    with pytest.raises(ValueError, match="expected a batch of 2 or more, found 1"):
        model(torch.randn(1, 3))
    assert model.eval()(torch.randn(1, 3)).loss().isfinite()


@pytest.mark.parametrize("at", [1e3, -1e3])
@torch.no_grad()
def test_statistics_of_what_hardly_varies_are_finite(at):
    """A constant, however large, is normalized to 0 and not to noise that overflows."""
    z = BatchNorm(2)(torch.full((8, 2), at))
    assert z.isfinite().all() and z.abs().max() <= 1


# Running values


@torch.no_grad()
def test_running_values_are_means_of_all_then_of_the_last():
    """Up to 1 / MOMENTUM batches the plain mean; later ones count for MOMENTUM; restart forgets."""
    running, n = RunningStatistic(torch.tensor(7.0)), round(1 / MOMENTUM)
    seen = torch.rand(n)
    for value in seen:
        running.update(value)
    torch.testing.assert_close(running.value, seen.mean())
    running.update(torch.tensor(5.0))
    torch.testing.assert_close(running.value, (1 - MOMENTUM) * seen.mean() + 5 * MOMENTUM)
    running.restart()
    running.update(torch.tensor(3.0))
    assert running.value == 3


SMALL = {"size": 2, "width": 4}
MODELS: dict[str, Callable[[], LatentModel]] = {
    "one-sided": lambda: bn_vae((3,), posterior=OneSided(), coder=SMALL),
    "two-sided, classes": lambda: bn_vae((3,), classes=3, coder=SMALL),
    "optimal": lambda: vae((3,), decoder={"std": "optimal"}, coder=SMALL),
    "normalized, optimal": lambda: f_vae_reduced(
        (3,),
        **{"posterior": {"normalize": True}, "decoder": {"std": "optimal"}},
        **{"coder": SMALL, "flow": {"depth": 1, "width": 4}},
    ),
    "of images": lambda: f_vae(
        (1, 4, 4),
        **{"posterior": {"normalize": True}, "decoder": {"std": "optimal", "likelihood": "density"}},
        **{"coder": {"squeezes": 1, "blocks": 1, "hidden": 4}, "flow": {"levels": 1, "depth": 1, "width": 4}},
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


# Deviations


def std_of(conditioner: nn.Module) -> float:
    return conditioner.metrics()["std"].item()


@pytest.mark.parametrize("bits", [None, 1, 8])
@torch.no_grad()
def test_the_optimal_deviation_is_the_best(bits, float64):
    """In training OptimalStd's loss is below that of any fixed deviation on a grid; evaluation keeps that one."""
    z = torch.randn(20, 3)
    x = 0.7 * z + 0.2 * torch.randn(20, 3) if bits is None else torch.randint(2**bits, (20, 3)).double()

    def decoder(conditioner: nn.Module) -> nn.Module:
        return Gaussian(conditioner, bits)

    best = decoder(OptimalStd(nn.Identity(), 0.5))
    value = best(x, z).sum()
    std = std_of(best.conditioner)
    for change in (0.01, 0.1, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0, 10.0):
        assert decoder(SharedStd(nn.Identity(), change * std))(x, z).sum() < value
    torch.testing.assert_close(decoder(SharedStd(nn.Identity(), std))(x, z).sum(), value)
    best.eval()
    torch.testing.assert_close(best(x, z).sum(), value)
    best(10 * x, z)
    assert std_of(best.conditioner) == std
    least = decoder(OptimalStd(nn.Identity(), 2 * std, least=1.1 * std))
    torch.testing.assert_close(least(x, z).sum(), decoder(SharedStd(nn.Identity(), 1.1 * std))(x, z).sum())
    assert std_of(least.eval().conditioner) == pytest.approx(1.1 * std)


@pytest.mark.parametrize("shape", [(), (4, 1, 1)], ids=["one", "by channel"])
def test_a_deviation_has_a_least_value(shape, float64):
    """It starts as given, stays above ``least`` however far it is pushed, and has a gradient on the way."""
    conditioner = SharedStd(nn.Identity(), 0.3, shape=shape, least=0.1)
    assert std_of(conditioner) == pytest.approx(0.3)
    assert std_of(SharedStd(nn.Identity(), 0.3, trained=False, least=0.1)) == pytest.approx(0.3)
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
    for kind in (torch.uint8, torch.int32, torch.int64):
        assert torch.equal(conditioner(y.to(kind)), conditioner.mean[y])
    for weights in (one_hot, one_hot.float()):
        assert torch.equal(conditioner(weights), conditioner.mean[y])
    a, b = (torch.autograd.grad(conditioner(c).sin().sum(), conditioner.mean)[0] for c in (y, one_hot))
    torch.testing.assert_close(a, b)
    half = conditioner(torch.tensor([[0.5, 0.0, 0.5, 0.0]]))[0]
    torch.testing.assert_close(half, (conditioner.mean[0] + conditioner.mean[2]) / 2)


@pytest.mark.parametrize("kind", ["one-sided", "two-sided"])
def test_relative_shares_the_priors_means(kind):
    """The posterior moves with the prior's means, of which there is one in weights, parameters and copies."""
    model = bn_vae((3,), posterior={"kind": kind}, classes=3, coder=SMALL)
    plain = bn_vae((3,), posterior={"kind": kind}, coder=SMALL)
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
