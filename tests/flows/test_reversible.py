"""Activations recomputed in backpropagation: the gradients of those that are kept, in less memory."""

import copy
import itertools
import re
from collections.abc import Callable

import pytest
import torch
from conftest import perturb
from small import Net
from stepping import check_gradients, density, difference, gradients, kept_and_recomputed, together
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fvae.density import log_normal
from fvae.flows.fused import CouplingNet, set_reversible
from fvae.recipes import Glow, glow


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
def test_any_condition(pair, float64):
    """A condition is opaque: whole numbers, or several tensors, with the gradients of those that have one."""
    flow = together(3, (5,), lambda keep, moved: Labelled(keep, 2 * moved))
    x, y, a = torch.randn(3, 5), torch.tensor([0, 1, 3]), torch.randn(3, 3, requires_grad=True)
    for p in flow.parameters():
        p.requires_grad_(pair or p.shape != (6, 3))  # without the pair, what opens the vector has no gradient
    cond, inputs = ((y, a), (a,)) if pair else (y, ())
    check_gradients(flow, lambda: gradients(flow, density(flow, x, cond), inputs))


def test_steps_inside_a_checkpoint(float64):
    """torch's own checkpoint around a level gives the same gradients."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2, requires_grad=True)

    def run() -> dict[str, Tensor]:
        z, log_det = checkpoint(flow, x, use_reentrant=False)
        return gradients(flow, -(log_normal(z) + log_det).sum(), (x,))

    check_gradients(flow, run)


@pytest.mark.parametrize("net", [Net(2, 4), CouplingNet(2, 4, 8)], ids=["vectors", "images"])
def test_a_shared_network(net, float64):
    """A network that all couplings share has its gradients added up; frozen, it is passed by."""
    net, shape = copy.deepcopy(net).double(), (4,) if isinstance(net, Net) else (4, 3, 2)
    flow, x = together(3, shape, lambda keep, moved: net), torch.randn(3, *shape)
    for trained in (True, False):
        net.requires_grad_(trained)
        check_gradients(flow, lambda: gradients(flow, density(flow, x)))


ONE_STEP = [rf"flows\.(?!({3 * k}|{3 * k + 1}|{3 * k + 2})\.)" for k in range(3)]


@pytest.mark.parametrize("of_x", [True, False], ids=["", "x without a gradient"])
@pytest.mark.parametrize(
    "frozen",
    ["mean", "log_std", "lu", "weight_1", "2.conditioner", "flows.5", "flows", "weight|bias", *ONE_STEP],
    ids=lambda pattern: "all but one step" if "?" in pattern else pattern,
)
def test_frozen_parameters_are_left_alone(frozen, of_x, float64):
    """Parameters without requires_grad get no gradient, and all others, and x, the ones they had."""
    flow = together(3, (4, 3, 2))
    x = torch.randn(3, 4, 3, 2, requires_grad=of_x)
    every = {"x": x, **dict(flow.named_parameters())}
    for name, p in flow.named_parameters():
        p.requires_grad_(not re.search(frozen, name))
    assert not all(p.requires_grad for p in flow.parameters())

    def run() -> dict[str, Tensor]:
        z, log_det = flow(x)
        found = {"z": z.detach(), "log_det": log_det.detach()}
        if any(p.requires_grad for p in every.values()):
            for p in every.values():
                p.grad = None
            (log_normal(z) + log_det).sum().backward()
        else:
            assert not z.requires_grad and not log_det.requires_grad
        assert all((p.grad is not None) == p.requires_grad for p in every.values())
        return found | {name: p.grad for name, p in every.items() if p.grad is not None}

    check_gradients(flow, run)


def test_a_copy_of_a_reversible_model_is_one(float64):
    """deepcopy recomputes too, of its own parameters, also after use; the state_dict knows nothing of it."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    names = flow.state_dict().keys()
    set_reversible(flow)
    density(flow, x).backward()
    with torch.no_grad():
        flow.inverse(flow(x)[0])
    twin = copy.deepcopy(flow)
    assert twin.reversible and twin.state_dict().keys() == names
    perturb(flow)
    check_gradients(twin, lambda: gradients(twin, density(twin, x)))
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


# Precision and memory


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_recomputing_gives_the_same_gradients_in_every_precision(precision):
    """What is recomputed, also under autocast, is what was computed: of 32 steps a level, to the last bit but one."""
    model = perturb(glow((1, 8, 8), flow=Glow(levels=2, depth=32, width=16)), 0.02)
    x, u = torch.randint(256, (8, 1, 8, 8)), model.noise(8)

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            loss = model(x, u=u).loss()
        return gradients(model, loss)

    kept, recomputed = kept_and_recomputed(model, run)
    assert difference(recomputed, kept) < 1e-6


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes alive at once during a run, above those alive before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_recomputing_keeps_one_tensor_of_the_datas_size_for_each_step():
    """From 4 to 16 steps the peak of forward and backward grows by 12 of them; with activations kept, threefold."""
    peaks: dict[tuple[int, bool], int] = {}
    x = torch.randint(256, (8, 1, 32, 32)).float()
    for depth in (4, 16):
        model = glow((1, 32, 32), flow=Glow(levels=1, depth=depth, width=64))
        u = model.noise(8)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for reversible in (False, True):
            set_reversible(model, reversible)
            peak = peak_bytes(lambda model=model, u=u: model(x, u=u).loss().backward())
            peaks[depth, reversible] = peak
    assert peaks[16, True] - peaks[4, True] < 1.5 * 12 * x.nbytes
    assert peaks[16, False] > 3 * peaks[4, False]
    assert peaks[4, True] < 0.5 * peaks[4, False]
