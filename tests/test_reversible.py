"""Activations recomputed in backpropagation: the gradients of those that are kept, in less memory."""

import copy
import itertools
import re
import statistics
from collections.abc import Callable

import pytest
import torch
from conftest import MeanStd, perturb, spied
from plain import plain
from stepping import (
    EDITS,
    check_gradients,
    density,
    difference,
    distance,
    every_recipe,
    every_way,
    gradients,
    kept_and_recomputed,
    made,
    together,
)
from test_flows import Net
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fvae.density import log_normal
from fvae.flows import Coupling, InvertibleConv, shuffle
from fvae.flows.fused import CouplingNet, network, one_by_one, set_reversible
from fvae.flows.fused import steps as steps_module
from fvae.model import LatentModel
from fvae.recipes import Glow, glow
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine


@every_recipe
def test_recomputing_gives_the_same_gradients(name, coupling, mixing, float64):
    """Of a model's loss each parameter has the gradient of the plain implementation, activations recomputed or not."""
    model, x, u = made(name, coupling, mixing)
    check_gradients(model, lambda: gradients(model, model(x, u=u).loss()))


WAYS = {  # shape, width; whether networks are by hand with gradients, and without
    "few values": ((2, 4, 6), 16, True, False),
    "few, odd": ((3, 4, 2), 32, True, False),
    "many narrow rows": ((2, 5, 6), 40, True, True),
    "many, odd": ((3, 1, 17), 80, True, True),
    "many, in a column": ((2, 30, 1), 40, True, True),
    "layer by layer": ((4, 5, 4), 8, False, False),
}


@pytest.mark.parametrize("mixing", [InvertibleConv, shuffle], ids=["conv", "shuffle"])
@pytest.mark.parametrize("additive", [False, True], ids=["affine", "additive"])
@pytest.mark.parametrize(("shape", "width", "training", "sampling"), WAYS.values(), ids=WAYS.keys())
def test_every_way_along_the_steps(shape, width, training, sampling, additive, mixing, float64, monkeypatch):
    """However steps and their networks are computed, they have the plain implementation's values and gradients."""
    monkeypatch.setattr(network, "BLOCK", 2**10)

    transform = Additive() if additive else Affine(bound=0.5)
    net = lambda keep, moved: CouplingNet(keep, transform.parameters * moved, width)  # noqa: E731
    flow, x = together(3, shape, net, mixing, transform=transform), torch.randn(4, *shape, requires_grad=True)
    towards, of_logdet = torch.randn_like(x), torch.randn(4)
    with plain(flow):
        expected = flow(x)
    for grad, by_hand in ((True, training), (False, sampling)):
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(grad):
            spied(patch, network, "three_products", seen)
            found = flow(x)
            assert bool(seen) == by_hand
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(flow.inverse(found[0]), x, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(flow.inverse_and_log_det(found[0]), (x, -expected[1]), rtol=1e-8, atol=1e-8)
    for a, b in ((1, 1), (1, 0)):

        def run(a: float = a, b: float = b) -> dict[str, Tensor]:
            z, logdet = flow(x)
            return gradients(flow, a * (z.cos() * towards).sum() + b * (logdet * of_logdet).sum(), (x,))

        check_gradients(flow, run)


CONDITIONAL = {
    "affine": (InvertibleConv, Affine(bound=3.0)),
    "additive": (InvertibleConv, Additive()),
    "permuted": (shuffle, Affine(bound=3.0)),
    "permuted, additive": (shuffle, Additive()),
}


@pytest.mark.parametrize("shape", [(5, 3, 2), (5,)], ids=["images", "vectors"])
@pytest.mark.parametrize(("mixing", "transform"), CONDITIONAL.values(), ids=CONDITIONAL.keys())
def test_recomputing_gives_the_same_gradients_of_inputs(mixing, transform, shape, float64):
    """So have x and the condition, of z and log-determinant together and of each alone."""
    net = lambda keep, moved: Net(keep, transform.parameters * moved, 3)  # noqa: E731
    flow = together(4, shape, net, mixing, transform=transform)
    x, cond = torch.randn(3, *shape, requires_grad=True), torch.randn(3, 3, requires_grad=True)
    towards, of_logdet = torch.randn(3, *shape), torch.randn(3)

    def run(a: float, b: float) -> dict[str, Tensor]:
        z, logdet = flow(x, cond)
        loss = a * (z.cos() * towards).sum() + b * (logdet * of_logdet).sum()
        return gradients(flow, loss, (x, cond))

    for a, b in ((1, 1), (1, 0)):
        check_gradients(flow, lambda a=a, b=b: run(a, b))
    kept, recomputed = kept_and_recomputed(flow, lambda: run(0, 1))
    for name in kept:
        torch.testing.assert_close(recomputed[name], kept[name], rtol=1e-9, atol=1e-12)


class Labelled(nn.Module):
    """A map of x_1 and an embedding of labels, or of a pair of them and a vector."""

    conditional = True

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.net, self.labels = Net(c_in, c_out, 3), nn.Embedding(4, c_out)

    def forward(self, x, cond):
        y, a = cond if isinstance(cond, tuple) else (cond, torch.zeros(len(cond), 3))
        return self.net(x, a) + self.labels(y)


@pytest.mark.parametrize("pair", [False, True], ids=["labels", "pair"])
def test_recomputing_takes_any_condition(pair, float64):
    """A condition is opaque: whole numbers, or several tensors, with the gradients of those that have one."""
    flow = together(3, (5,), lambda keep, moved: Labelled(keep, 2 * moved))
    x, y, a = torch.randn(3, 5), torch.tensor([0, 1, 3]), torch.randn(3, 3, requires_grad=True)
    for p in flow.parameters():
        p.requires_grad_(pair or p.shape != (6, 3))  # without the pair, what opens the vector has no gradient

    def run() -> dict[str, Tensor]:
        return gradients(flow, density(flow, x, (y, a) if pair else y), (a,) if pair else ())

    check_gradients(flow, run)


class Doubled(MeanStd):
    """A conditioner that says otherwise."""

    def forward(self, *cond):
        mean, log_std = super().forward(*cond)
        return 2 * mean, log_std


def doubled(coupling: Coupling) -> None:
    coupling.conditioner = Doubled(coupling.conditioner)


def watched(coupling: Coupling) -> None:
    doubled(coupling)
    coupling.conditioner.register_forward_hook(lambda conditioner, args, pair: (pair[0].sin(), pair[1]))


ON_COUPLINGS = {
    "another conditioner": doubled,
    "a hook on it": watched,
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
                z, logdet = flow(x)
            torch.testing.assert_close(flow(x), (z, logdet))
            torch.testing.assert_close(flow.inverse(z), x)


def test_a_condition_that_networks_do_not_take(float64):
    """It doesn't reach them, as it doesn't when flows run one by one."""
    flow, x, cond = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2), torch.randn(3, 3, requires_grad=True)
    expected = gradients(flow, density(flow, x))
    with one_by_one(flow):
        assert difference(gradients(flow, density(flow, x, cond)), expected) < 1e-10
    for found in kept_and_recomputed(flow, lambda: gradients(flow, density(flow, x, cond))):
        assert difference(found, expected) < 1e-10


@every_way
def test_steps_inside_a_checkpoint(times, float64):
    """torch's own checkpoint around a level gives the same gradients."""
    flow, x = together(3, (4, 3, 2), times=times), torch.randn(3, 4, 3, 2, requires_grad=True)

    def run() -> dict[str, Tensor]:
        z, logdet = checkpoint(flow, x, use_reentrant=False)
        return gradients(flow, -(log_normal(z) + logdet).sum(), (x,))

    check_gradients(flow, run)


@pytest.mark.parametrize(
    ("shape", "width"), [((4,), 0), ((4, 3, 2), 32), ((4, 3, 2), 8)], ids=["vectors", "by hand", "layer by layer"]
)
def test_a_shared_network(shape, width, float64):
    """A network that all couplings share has its gradients added up; frozen, it is passed by."""
    net = CouplingNet(2, 4, width) if width else Net(2, 4)
    flow, x = together(3, shape, lambda keep, moved: net), torch.randn(3, *shape)
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))
    net.requires_grad_(False)
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))


@pytest.mark.parametrize(
    "frozen", ["mean", "log_std", "lu", "weight_1", "2.conditioner", "flows.5", "flows", "weight|bias"]
)
@every_way
def test_frozen_parameters_are_left_alone(times, frozen, float64):
    """Parameters without requires_grad get no gradient, and all others, and x, the ones they had."""
    flow = together(3, (4, 3, 2), times=times)
    x = torch.randn(3, 4, 3, 2, requires_grad=True)
    for name, p in flow.named_parameters():
        p.requires_grad_(not re.search(frozen, name))
    assert any(not p.requires_grad for p in flow.parameters())

    def run() -> dict[str, Tensor]:
        flow.zero_grad()
        x.grad = None
        density(flow, x).backward()
        assert all((p.grad is not None) == p.requires_grad for p in flow.parameters())
        return {n: p.grad for n, p in [("x", x), *flow.named_parameters()] if p.grad is not None}

    check_gradients(flow, run)


@every_way
@pytest.mark.parametrize("k", range(3))
def test_one_step_alone(k, times, float64):
    """Its gradients, asked for alone or trained alone on an x without a gradient, are those among all."""
    flow, x = together(3, (4, 3, 2), times=times), torch.randn(3, 4, 3, 2)
    step = flow.flows[3 * k : 3 * k + 3]

    def asked_for() -> dict[str, Tensor]:
        return gradients(step, density(flow, x))

    check_gradients(flow, asked_for)
    with plain(flow):
        expected = asked_for()
    flow.requires_grad_(False)
    step.requires_grad_(True)
    for found in kept_and_recomputed(flow, asked_for):
        assert difference(found, expected) < 1e-10


def test_a_flow_without_gradients_takes_part_in_none(float64):
    """Frozen whole, on an x without a gradient, it gives what the plain way gives, without a graph."""
    flow, x = together(2, (4, 3, 2)).requires_grad_(False), torch.randn(3, 4, 3, 2)
    with plain(flow):
        expected = flow(x)
    for reversible in (False, True):
        set_reversible(flow, reversible)
        found = flow(x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert not any(a.requires_grad for a in found)


def test_recomputing_without_gradients_is_the_ordinary_pass(monkeypatch):
    """In no_grad nothing is prepared for backpropagation; with gradients z and log-determinant are the same."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    z, logdet = flow(x)
    set_reversible(flow)
    again, logdet_again = flow(x)
    assert again.requires_grad
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(logdet_again, logdet)
    seen: list[str] = []
    spied(monkeypatch, steps_module, "recomputed", seen)
    with torch.no_grad():
        again, logdet_again = flow(x)
    assert not seen
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(logdet_again, logdet)


def test_a_copy_of_a_reversible_model_is_one(float64):
    """deepcopy recomputes too, of its own parameters, also after use; the state_dict knows nothing of it."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    state = {name: a.clone() for name, a in flow.state_dict().items()}
    set_reversible(flow)
    density(flow, x).backward()
    with torch.no_grad():
        flow.inverse(flow(x)[0])
    assert state.keys() == flow.state_dict().keys()
    assert all(torch.equal(a, state[name]) for name, a in flow.state_dict().items())
    twin = copy.deepcopy(flow)
    assert twin.reversible and twin is not flow
    perturb(flow)
    found = gradients(twin, density(twin, x))
    with plain(twin):
        assert difference(found, gradients(twin, density(twin, x))) < 1e-10
    with torch.no_grad():
        torch.testing.assert_close(twin.inverse(twin(x)[0]), x)


def test_a_graph_is_used_twice_or_not_at_all(float64):
    """With retain_graph a second backward adds the same gradients; without, it raises."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    set_reversible(flow)
    loss = density(flow, x)
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in flow.named_parameters()}
    loss.backward()
    assert difference({name: p.grad / 2 for name, p in flow.named_parameters()}, once) < 1e-12
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def digits(n: int) -> Tensor:
    """Images somewhat like digits: a few bright strokes on black, in 256 bins."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    x = torch.zeros(n, 16, 16)
    for _ in range(3):
        a, b, angle = torch.rand(3, n, 1, 1)
        across = (rows - 4 - 8 * a) * torch.cos(3 * angle) + (columns - 4 - 8 * b) * torch.sin(3 * angle)
        along = (columns - 4 - 8 * b) * torch.cos(3 * angle) - (rows - 4 - 8 * a) * torch.sin(3 * angle)
        x = torch.maximum(x, torch.exp(-across.square() - (along / 4).square()))
    return (255 * x).floor()[:, None]


def trained(depth: int, width: int = 16, steps: int = 30) -> tuple[LatentModel, Tensor, Tensor]:
    """A glow after some steps of training, with images and noise."""
    model = glow((1, 16, 16), flow=Glow(levels=2, depth=depth, width=width))
    initialize(model, digits(64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(digits(8)).loss().backward()
        optimizer.step()
    return model, digits(8), model.noise(8)


def test_recomputing_in_float32_at_32_steps():
    """On a trained glow of 32 steps a level, float32 gradients are as near to float64's recomputed as they are kept."""
    model, x, u = trained(32)
    kept, recomputed = kept_and_recomputed(model, lambda: gradients(model, model(x, u=u).loss()))
    model.double()
    set_reversible(model, False)
    exact = gradients(model, model(x.double(), u=u.double()).loss())
    errors = [[((g[name] - a).norm() / a.norm()).item() for name, a in exact.items()] for g in (kept, recomputed)]
    # the median, since a ReLU at 0 may fall to the other side in either and then its gradients are off by 1e-4 or so
    assert statistics.median(b / a for a, b in zip(*errors, strict=True)) < 1.5
    assert max(errors[1]) < 1e-2 and distance(recomputed, exact) < 1e-3


def test_recomputing_under_autocast():
    """In bfloat16 autocast the networks recompute in bfloat16: what that changes is below bfloat16's own rounding."""
    model, x, u = trained(8)

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x, u=u).loss()
        return gradients(model, loss)

    kept, recomputed = kept_and_recomputed(model, run)
    set_reversible(model, False)
    in_float32 = gradients(model, model(x, u=u).loss())
    assert difference(recomputed, kept) < 0.02
    assert distance(recomputed, kept) < 0.2 * distance(kept, in_float32) < 0.01


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes alive at once during a run, above those alive before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_recomputing_takes_memory_that_does_not_grow_with_depth():
    """From 4 to 16 steps the peak of forward and backward grows by less than 5 %; with activations kept, threefold."""
    peaks: dict[tuple[int, bool], int] = {}
    for depth in (4, 16):
        model = glow((1, 32, 32), flow=Glow(levels=1, depth=depth, width=64))
        x, u = torch.randint(256, (8, 1, 32, 32)).float(), model.noise(8)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for reversible in (False, True):
            set_reversible(model, reversible)
            peak = peak_bytes(lambda model=model, x=x, u=u: model(x, u=u).loss().backward())
            peaks[depth, reversible] = peak
    assert peaks[16, True] < 1.05 * peaks[4, True]
    assert peaks[16, False] > 3 * peaks[4, False]
    assert peaks[4, True] < 0.5 * peaks[4, False]
