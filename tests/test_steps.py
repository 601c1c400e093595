"""Glow's steps together are the same: one flow after the other, of torch's own convolutions."""

import itertools
import math

import pytest
import torch
from conftest import perturb, spied
from plain import plain
from stepping import SMALL, check_gradients, density, difference, every_recipe, gradients, made, together
from test_flows import Net
from torch import Tensor, nn

from fvae.flows import ActNorm, Chain, Coupling, InvertibleConv, Squeeze, shuffle
from fvae.flows.fused import FusedSteps, one_by_one, set_reversible
from fvae.flows.fused import steps as steps_module
from fvae.model import LatentModel
from fvae.recipes import RECIPES
from fvae.statistics import initialize


@every_recipe
def test_a_model_is_the_plain_one(name, coupling, mixing, float64):
    """Terms and gradients of the loss are those of the plain way."""
    model, x, u = made(name, coupling, mixing)
    terms = model(x, u=u)
    found = gradients(model, terms.loss())
    with plain(model):
        expected = model(x, u=u)
        assert difference(found, gradients(model, expected.loss())) < 1e-10
    for a, b in zip(terms, expected, strict=True):
        if a is not None or b is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_recipe
def test_codes_are_the_plain_ones(name, coupling, mixing, float64):
    """encode and decode are those of the plain way, with gradients and without, and so are decode's gradients."""
    model, x, _ = made(name, coupling, mixing)
    e = torch.randn(5, math.prod(model.latent), requires_grad=True)
    inputs = [e, *model.prior.parameters()]
    with plain(model):
        codes, images = model.encode(x), model.decode(e)
        expected = torch.autograd.grad(images.sin().sum(), inputs)
    for grad in (True, False, False):  # what is kept is made in the first pass without, and used in the second
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model.encode(x), codes, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(model.decode(e), images, rtol=1e-10, atol=1e-8)
    for a, b in zip(torch.autograd.grad(model.decode(e).sin().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


class PerChannel(nn.Module):
    """A shift from a network and a trained scale a channel."""

    def __init__(self, keep: int, moved: int, *ones: int):
        super().__init__()
        self.net, self.log_std = Net(keep, moved), nn.Parameter(torch.zeros(moved, *ones))

    def forward(self, x1, cond=None):
        return self.net(x1), self.log_std


@pytest.mark.parametrize("shape", [(5, 3, 3), (5, 3, 4), (5,)], ids=["square", "oblong", "vectors"])
def test_couplings_may_broadcast(shape, float64):
    """A coupling's log_std may be one a channel, (C, 1, 1), as that of ``Constant`` is."""
    flow = together(2, shape, lambda keep, moved: PerChannel(keep, moved, *(1 for _ in shape[1:])))
    x = torch.randn(3, *shape)
    with one_by_one(flow):
        z, logdet = flow(x)
    found, logdet_found = flow(x)
    torch.testing.assert_close(found, z)
    torch.testing.assert_close(logdet_found, logdet)
    torch.testing.assert_close(flow.inverse(z), x)


@pytest.mark.parametrize(
    ("flows", "found"),
    [
        ([], "found none$"),
        ([ActNorm((4,)), InvertibleConv(4)], "found ActNorm, InvertibleConv$"),
        ([ActNorm((4,)), Squeeze(2), Coupling(nn.Identity(), 2)], "found ActNorm, Squeeze, Coupling$"),
        ([InvertibleConv(4), ActNorm((4,)), Coupling(nn.Identity(), 2)], "found InvertibleConv, ActNorm, Coupling$"),
        ([ActNorm((4,)), Chain(shuffle(4)), Coupling(nn.Identity(), 2)], "found ActNorm, Chain, Coupling$"),
        (
            [f for m in (shuffle, InvertibleConv) for f in (ActNorm((4,)), m(4), Coupling(nn.Identity(), 2))],
            "found ActNorm, Permute, Coupling, ActNorm, InvertibleConv, Coupling$",
        ),
        (
            [ActNorm((4,)), InvertibleConv(4), Coupling(nn.Identity(), 2), ActNorm((4,))],
            "found ActNorm, InvertibleConv, Coupling, ActNorm$",
        ),
    ],
)
def test_other_patterns_are_refused(flows, found):
    """A ValueError says what the pattern is and what was found."""
    with pytest.raises(ValueError, match=f"ActNorm, InvertibleConv or Permute, Coupling.*{found}"):
        FusedSteps(*flows)


def test_one_by_one_ends():
    """Inside, each flow's own forward runs; once it ends, by an exception too, none does; one within another stays."""
    flow, x = together(2, (4,), lambda keep, moved: Net(keep, 2 * moved)), torch.randn(3, 4)
    seen: list[nn.Module] = []
    for part in flow.flows:
        part.register_forward_hook(lambda part, *_: seen.append(part))
    flow(x)
    assert not seen
    with pytest.raises(KeyError), one_by_one(flow):
        with one_by_one(flow):
            flow(x)
        flow(x)
        assert seen == 2 * list(flow.flows)
        raise KeyError
    flow(x)
    assert len(seen) == 12


@pytest.mark.parametrize(("name", "mixing"), list(itertools.product(SMALL, ("conv", "shuffle"))))
@torch.no_grad()
def test_actnorms_of_steps_are_fitted_one_after_the_other(name, mixing, float64):
    """After initialize each actnorm's output on that batch is whitened, those after others that were set included."""
    model, _, _ = made(name, "affine", mixing)
    set_reversible(model)
    x, u = torch.randint(256, (64, 1, 8, 12)).double(), model.noise(64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "noise", lambda n: u)
        initialize(model, x)
    outputs: list[Tensor] = []
    for m in model.modules():
        if isinstance(m, ActNorm):
            m.register_forward_hook(lambda m, args, result: outputs.append(result[0].transpose(0, 1).flatten(1)))
    with one_by_one(model):
        model(x, u=u)
    assert len(outputs) == 4
    for z in outputs:
        torch.testing.assert_close(z.mean(1), torch.zeros(len(z)), rtol=0, atol=1e-9)
        torch.testing.assert_close(z.std(1, correction=0), torch.ones(len(z)), rtol=0, atol=1e-9)


# What is kept between passes without gradients


def test_what_inference_mode_leaves_behind(float64):
    """After a first pass in inference mode training goes on, with the same gradients."""
    flow, x = together(2, (4, 2, 3)), torch.randn(3, 4, 2, 3)
    with torch.inference_mode():
        flow.inverse(flow(x)[0])
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))


@torch.no_grad()
def edit_in_place(model: LatentModel, x: Tensor) -> None:
    for p in model.parameters():
        p.data.mul_(1.5)


def edit_one_number(model: LatentModel, x: Tensor) -> None:
    steps = next(m for m in model.modules() if isinstance(m, FusedSteps))
    steps.flows[-3].constant.mean.data[1].add_(0.5)  # of the last step


def another_tensor(model: LatentModel, x: Tensor) -> None:
    for p in model.parameters():
        p.data = 0.7 * p.data


def take_a_step(model: LatentModel, x: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with torch.enable_grad():
        model(x).loss().backward()
    optimizer.step()


def load_another(model: LatentModel, x: Tensor) -> None:
    torch.manual_seed(7)  # other signs and orders too
    settings = model.config["settings"]
    model.load_state_dict(perturb(RECIPES[model.config["recipe"]](model.shape, **settings), 0.1).state_dict())


def refit(model: LatentModel, x: Tensor) -> None:
    initialize(model, x[:2])


def widen(model: LatentModel, x: Tensor) -> None:
    model.double()


CHANGES = [edit_in_place, edit_one_number, another_tensor, take_a_step, load_another, refit, widen]


@pytest.mark.parametrize("change", CHANGES, ids=[f.__name__ for f in CHANGES])
@pytest.mark.parametrize("mixing", ["conv", "shuffle"])
@torch.no_grad()
def test_what_is_kept_is_never_stale(mixing, change):
    """However parameters change, encode and decode after it are the plain ones of the new values."""
    model, x, _ = made("glow", "affine", mixing)
    model = model if change is widen else model.double()
    e = torch.randn(5, math.prod(model.latent), dtype=next(model.parameters()).dtype)
    for _ in range(2):
        before = model.encode(x), model.decode(e)
    change(model, x)
    e = e.double()
    after = model.encode(x), model.decode(e)
    with one_by_one(model):
        expected = model.encode(x), model.decode(e)
    for old, a, b in zip(before, after, expected, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-8)
        assert change is widen or (a - old).abs().max() > 1e-3


@torch.no_grad()
def test_maps_are_made_once(monkeypatch):
    """Without gradients the second encode and decode of the same parameters assemble and invert nothing."""
    model, x, _ = made("glow", "affine", "conv")
    seen: list[str] = []
    for name in ("product", "inverse_product"):
        spied(monkeypatch, steps_module, name, seen)
    for _ in range(3):
        model.decode(model.encode(x))
    assert seen == ["product"] * 2 + ["inverse_product"] * 2
