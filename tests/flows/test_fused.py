"""Fused steps are the flows that they are made of, one after the other, of torch's own convolutions."""

import itertools
from collections.abc import Callable

import pytest
import torch
from conftest import MeanStd, perturb, spied
from plain import plain
from small import Doubled, Net
from stepping import (
    EDITS,
    SMALL,
    check_gradients,
    density,
    difference,
    gradients,
    made,
    together,
)
from torch import Tensor, nn

from fvae.flows import ActNorm, Chain, Coupling, Flow, InvertibleConv, Squeeze, shuffle
from fvae.flows.fused import CouplingNet, FusedSteps, fuse, one_by_one, set_reversible
from fvae.flows.fused import steps as steps_module
from fvae.model import LatentModel
from fvae.recipes import RECIPES
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine

every_model = pytest.mark.parametrize(
    ("name", "coupling", "mixing"), list(itertools.product(SMALL, ("affine", "additive"), ("conv", "shuffle")))
)


@every_model
def test_a_model_is_the_plain_one(name, coupling, mixing, float64):
    """The terms and the gradients of the loss are those of the plain implementation, activations recomputed or not."""
    model, x, u = made(name, coupling, mixing)
    with plain(model):
        expected = model(x, u=u)
    for found, right in zip(model(x, u=u), expected, strict=True):
        assert found is right or torch.allclose(found, right, rtol=1e-10, atol=1e-10)
    check_gradients(model, lambda: gradients(model, model(x, u=u).loss()))


@every_model
def test_codes_are_the_plain_ones(name, coupling, mixing, float64):
    """encode and decode are those of the plain way, with gradients and without, and so are decode's gradients."""
    model, x, _ = made(name, coupling, mixing)
    e = torch.randn(5, model.code_values, requires_grad=True)
    inputs = [e, *model.prior.parameters()]
    with plain(model):
        codes, images = model.encode(x), model.decode(e)
        expected = torch.autograd.grad(images.sin().sum(), inputs)
    for grad in (True, False, False):  # what is kept is made in the first pass without, and used in the second
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model.encode(x), codes, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(model.decode(e), images, rtol=1e-10, atol=1e-8)
    found = torch.autograd.grad(model.decode(e).sin().sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


SHAPES = {"few channels": (2, 4, 6), "odd": (3, 4, 2), "a row": (3, 1, 17), "a column": (2, 9, 1), "more": (9, 3, 4)}


@pytest.mark.parametrize(
    ("mixing", "transform"),
    [(InvertibleConv, Affine(bound=0.5)), (shuffle, Additive())],
    ids=["conv, affine", "shuffle, additive"],
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_way_along_the_steps(shape, mixing, transform, float64):
    """However steps and their networks are computed, they have the plain implementation's values and gradients."""
    net = lambda keep, moved: CouplingNet(keep, transform.parameters * moved, 16)  # noqa: E731
    flow, x = together(3, shape, net, mixing, transform=transform), torch.randn(4, *shape, requires_grad=True)
    towards, of_log_det = torch.randn_like(x), torch.randn(4)
    with plain(flow):
        z, log_det = flow(x)
    for grad, reversible in ((True, False), (False, False), (False, True)):
        set_reversible(flow, reversible)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(flow(x), (z, log_det), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(flow.inverse(z), x, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(flow.inverse_and_log_det(z), (x, -log_det), rtol=1e-8, atol=1e-8)

    def run(of_both: bool) -> dict[str, Tensor]:
        z, log_det = flow(x)
        return gradients(flow, (z.cos() * towards).sum() + of_both * (log_det * of_log_det).sum(), (x,))

    for of_both in (True, False):
        check_gradients(flow, lambda of_both=of_both: run(of_both))


# What couplings may be


class Doubling(MeanStd):
    """A conditioner that says otherwise."""

    def forward(self, *cond):
        mean, log_std = super().forward(*cond)
        return 2 * mean, log_std


def another_conditioner(coupling: Coupling) -> None:
    coupling.conditioner = Doubling(coupling.conditioner)


def a_hook_on_it(coupling: Coupling) -> None:
    another_conditioner(coupling)
    coupling.conditioner.register_forward_hook(lambda conditioner, args, pair: (pair[0].sin(), pair[1]))


ON_COUPLINGS = {
    "another conditioner": another_conditioner,
    "a hook on it": a_hook_on_it,
    **{name: lambda coupling, edit=edit: edit(coupling.conditioner) for name, edit in EDITS.items()},
}


@pytest.mark.parametrize("which", [slice(None), slice(1, 2)], ids=["all", "one"])
@pytest.mark.parametrize("edit", ON_COUPLINGS.values(), ids=ON_COUPLINGS.keys())
def test_networks_that_were_changed(edit, which, float64):
    """Someone's own conditioner, network, parametrizations and hooks count, by every way."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2, requires_grad=True)
    for coupling in flow.couplings[which]:
        edit(coupling)
    check_gradients(flow, lambda: gradients(flow, density(flow, x), (x,)))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with plain(flow):
                z, log_det = flow(x)
            torch.testing.assert_close(flow(x), (z, log_det))
            torch.testing.assert_close(flow.inverse(z), x)


def test_a_condition_that_networks_do_not_take(float64):
    """It doesn't reach them, as it doesn't when flows run one by one."""
    flow, x, cond = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2), torch.randn(3, 3, requires_grad=True)
    without = gradients(flow, density(flow, x))
    check_gradients(flow, lambda: gradients(flow, density(flow, x, cond)))
    assert difference(gradients(flow, density(flow, x, cond)), without) < 1e-10


COUPLING, MIX = Coupling(nn.Identity(), 2), InvertibleConv(4)
REFUSED = [
    [ActNorm((4,)), MIX],
    [ActNorm((4,)), Squeeze(2), COUPLING],
    [MIX, ActNorm((4,)), COUPLING],
    [ActNorm((4,)), Chain(shuffle(4)), COUPLING],
    [ActNorm((4,)), shuffle(4), COUPLING, ActNorm((4,)), MIX, COUPLING],
    [ActNorm((4,)), MIX, COUPLING, ActNorm((4,))],
    [ActNorm((4,)), MIX, Doubled(nn.Identity(), 2)],
]


def names(flows: list[Flow]) -> str:
    return ", ".join(type(flow).__name__ for flow in flows)


@pytest.mark.parametrize("flows", REFUSED, ids=names)
def test_other_patterns_are_refused(flows):
    """A ValueError says what the pattern is and what was found, and ``fuse`` leaves the flows as they are."""
    assert fuse(flows) is flows
    with pytest.raises(ValueError, match=f"ActNorm, InvertibleConv or Permute, Coupling.*found {names(flows)}$"):
        FusedSteps(*flows)


def test_the_pattern_is_fused():
    assert isinstance(fuse([ActNorm((4,)), MIX, COUPLING])[0], FusedSteps)
    with pytest.raises(ValueError, match=r"found none$"):
        FusedSteps(*fuse([]))


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


# What is kept between passes without gradients


def test_what_inference_mode_leaves_behind(float64):
    """After a first pass in inference mode training goes on, with the same gradients."""
    flow, x = together(2, (4, 2, 3)), torch.randn(3, 4, 2, 3)
    with torch.inference_mode():
        flow.inverse(flow(x)[0])
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))


def take_a_step(model: LatentModel, x: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with torch.enable_grad():
        model(x).loss().backward()
    optimizer.step()


def load_another(model: LatentModel, x: Tensor) -> None:
    torch.manual_seed(7)  # other signs and orders too
    settings = model.config["settings"]
    model.load_state_dict(perturb(RECIPES[model.config["recipe"]](model.shape, **settings), 0.1).state_dict())


def edit_one_number(model: LatentModel, x: Tensor) -> None:
    steps = next(m for m in model.modules() if isinstance(m, FusedSteps))
    steps.flows[-3].constant.mean.data[1].add_(0.5)  # of the last step


CHANGES: dict[str, Callable[[LatentModel, Tensor], object]] = {
    "in place": lambda model, x: [p.data.mul_(1.5) for p in model.parameters()],
    "one number in place": edit_one_number,
    "another tensor": lambda model, x: [setattr(p, "data", 0.7 * p.data) for p in model.parameters()],
    "a training step": take_a_step,
    "another model's weights": load_another,
    "another batch's statistics": lambda model, x: initialize(model, x[:2]),
    "another type": lambda model, x: model.double(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mixing", ["conv", "shuffle"])
@torch.no_grad()
def test_what_is_kept_is_never_stale(mixing, change):
    """However parameters change, encode and decode after it are the plain ones of the new values."""
    model, x, _ = made("glow", "affine", mixing)
    model = model if change == "another type" else model.double()
    e = torch.randn(5, model.code_values, dtype=next(model.parameters()).dtype)
    for _ in range(2):
        before = model.encode(x), model.decode(e)
    CHANGES[change](model, x)
    e = e.double()
    after = model.encode(x), model.decode(e)
    with one_by_one(model):
        expected = model.encode(x), model.decode(e)
    torch.testing.assert_close(after, expected, rtol=1e-10, atol=1e-8)
    assert change == "another type" or all((a - old).abs().max() > 1e-3 for a, old in zip(after, before, strict=True))


@torch.no_grad()
def test_maps_are_made_once(monkeypatch):
    """Without gradients the second encode and decode of the same parameters assemble and invert nothing."""
    model, x, _ = made("glow")
    seen: list[str] = []
    for name in ("product", "inverse_product"):
        spied(monkeypatch, steps_module, name, seen)
    for _ in range(3):
        model.decode(model.encode(x))
    assert seen == ["product"] * 2 + ["inverse_product"] * 2
