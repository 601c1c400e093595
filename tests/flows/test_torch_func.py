"""torch.func's transforms, second derivatives and torch.compile over Glow's steps: right, or refused."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from plain import plain
from stepping import SMALL, density, difference, gradients, made, together
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from fvae.flows.fused import FusedSteps, one_by_one, set_reversible

kept_or_recomputed = pytest.mark.parametrize("reversible", [False, True], ids=["kept", "recomputed"])
with_gradients_or_without = pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@with_gradients_or_without
def test_forward_mode_derivatives_in_parameters(grad, float64):
    """Tangents of parameters reach z, also without gradients, after a pass that kept its maps."""
    flow, x = small()
    at = {name: p.detach() for name, p in flow.named_parameters()}
    along = {name: torch.randn_like(p) for name, p in at.items()}

    def moved(t: float) -> Tensor:
        return functional_call(flow, {n: at[n] + t * along[n] for n in at}, (x,))[0]

    with torch.set_grad_enabled(grad), one_by_one(flow):
        expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        flow(x)
        z, _ = functional_call(flow, {n: forward_ad.make_dual(at[n], along[n]) for n in at}, (x,))
        tangent = forward_ad.unpack_dual(z).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-5)


def small() -> tuple[FusedSteps, Tensor]:
    """Steps and an x."""
    return together(2, (4, 2, 2)), torch.randn(3, 4, 2, 2, requires_grad=True)


@kept_or_recomputed
def test_second_derivatives_are_right(reversible, float64):
    """The gradient of a gradient is that of the plain implementation."""
    flow, x = small()

    def run() -> dict[str, Tensor]:
        (gradient,) = torch.autograd.grad(density(flow, x), x, create_graph=True)
        x.grad = None
        flow.zero_grad()
        gradient.sin().sum().backward()
        return {name: p.grad for name, p in [("x", x), *flow.named_parameters()] if p.grad is not None}

    with plain(flow):
        expected = run()
    set_reversible(flow, reversible)
    assert difference(run(), expected) < 1e-10


@with_gradients_or_without
@kept_or_recomputed
def test_transforms_are_right_or_refused(reversible, grad, float64):
    """torch.func's map over weights and its Jacobian are right, or of recomputed steps an error; nothing is left."""
    flow, x = small()
    x = x.detach()
    weights = {name: torch.stack([p.detach(), 1.1 * p.detach()]) for name, p in flow.named_parameters()}

    def mapped() -> Tensor:
        return vmap(lambda p: functional_call(flow, p, (x,))[0])(weights)

    def jacobian() -> Tensor:
        return jacrev(lambda a: flow(a)[0].sum(0))(x)

    with plain(flow):
        expected = mapped(), jacobian(), flow(x)
    set_reversible(flow, reversible)
    with torch.set_grad_enabled(grad):
        for run, right in zip((mapped, jacobian), expected[:2], strict=True):
            try:
                found = run()
            except RuntimeError as error:
                assert reversible and "torch.func" in str(error)
            else:
                torch.testing.assert_close(found, right)
            torch.testing.assert_close(flow(x), expected[2])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # log_ndtr has no batching rule in torch 2.13
@pytest.mark.parametrize("name", SMALL)
def test_transforms_of_a_model(name, float64):
    """torch.func's Jacobians of a model, and its gradients by sample, are those of autograd."""
    model, x, u = made(name, shape=(1, 8, 8), n=3, depth=1)
    e = torch.randn(1, model.code_values)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
        return functional_call(model, p, (x[None],), {"u": u[None]}).loss()

    found = jacrev(model.encode)(x[:1]), jacrev(model.decode)(e)
    by_sample = vmap(torch.func.grad(loss), (None, 0, 0))(weights, x, u)
    jacobian = torch.autograd.functional.jacobian
    expected = jacobian(model.encode, x[:1]), jacobian(model.decode, e)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for i in range(len(x)):
        one = gradients(model, model(x[i : i + 1], u=u[i : i + 1]).loss())
        assert difference({name: a[i] for name, a in by_sample.items()}, one) < 1e-10


@pytest.mark.parametrize("which", ["mean", "log_std", "lu", "weight|bias", "weight_2|leave.weight"])
def test_a_change_before_backward_is_no_surprise(which, float64):
    """Of parameters that changed since forward, either the gradient at the old values or an error."""
    flow, x = small()
    expected = gradients(flow, density(flow, x), (x,))
    loss = density(flow, x)
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if re.search(which, name):
                p.add_(0.3)
    try:
        found = gradients(flow, loss, (x,))
    except RuntimeError as error:
        assert "inplace" in str(error)
    else:
        assert difference(found, expected) < 1e-10


# Compiled


@pytest.fixture
def compiled():
    """``compiled(f)``: f as whole graphs, without code of their own, and the list in which each one made is noted."""
    from functorch.compile import make_boxed_func  # as slow to import as torch itself
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()

    def make(f: Callable) -> tuple[Callable, list[str]]:
        graphs: list[str] = []

        def noting(kind: str) -> Callable:
            return lambda graph, inputs: graphs.append(kind) or make_boxed_func(graph.forward)

        backend = aot_autograd(fw_compiler=noting("forward"), bw_compiler=noting("backward"))
        return torch.compile(f, fullgraph=True, backend=backend), graphs

    yield make
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # Dynamo looks at attributes that warn
def test_training_is_one_graph_for_every_batch(compiled, float64):
    """Of batches of any size, compiled forward and backward are one graph each, and give the model's gradients."""
    model, x, u = made("glow", shape=(1, 8, 8), n=8, depth=1)
    call, graphs = compiled(model)
    for b in (8, 5):
        some, noise = x[:b].clone(), u[:b].clone()
        for a in (some, noise):
            torch._dynamo.mark_dynamic(a, 0)
        found = gradients(model, call(some, u=noise).loss())
        assert difference(found, gradients(model, model(x[:b], u=u[:b]).loss())) < 1e-10
    assert graphs == ["forward", "backward"]


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_sampling_is_one_graph_for_every_batch(compiled, float64):
    """Of batches of any size decode, compiled, is one graph, and gives the model's images, maps kept before or not."""
    model, _, _ = made("f_vae", shape=(1, 8, 8), depth=1)
    call, graphs = compiled(model.decode)
    for b in (8, 5):
        e = torch.randn(b, model.code_values)
        expected = model.decode(e)
        torch._dynamo.mark_dynamic(e, 0)
        torch.testing.assert_close(call(e), expected, rtol=1e-10, atol=1e-8)
    assert graphs == ["forward"]


@pytest.mark.filterwarnings("ignore")
def test_recomputing_compiles_with_breaks():
    """torch.compile, allowed to break its graph, gives the gradients of activations kept."""
    flow, x = small()
    expected = gradients(flow, density(flow, x), (x,))
    set_reversible(flow)
    torch._dynamo.reset()
    compiled = torch.compile(flow, backend="eager")
    assert difference(gradients(flow, density(compiled, x), (x,)), expected) < 1e-4
