"""One table of constructors; each property of a flow is one test that runs over all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import perturb
from small import Around, Doubled, Halved, Net, Sinh, additive, affine, backwards, bins, leaving, step
from torch import Tensor, nn

from fvae.conditioners import (
    ClassMeans,
    Constant,
    NetworkStd,
    OneSidedBatchNorm,
    OptimalStd,
    SharedStd,
    TwoSidedBatchNorm,
)
from fvae.flows import (
    ActNorm,
    Augment,
    Autoregressive,
    Chain,
    Checkerboard,
    Coupling,
    Dequantize,
    Elementwise,
    FactorOut,
    Flatten,
    Flow,
    Inverse,
    InvertibleConv,
    Squeeze,
    Standardize,
    multiscale,
    reverse,
    shuffle,
)
from fvae.flows.fused import CouplingNet, FusedSteps, set_reversible
from fvae.networks.masked import MaskedMLP
from fvae.recipes import NICE, Glow, RealNVP, Squeezing, Strided, bn_vae, f_vae, f_vae_general, glow, nice, realnvp, vae
from fvae.transforms import Additive, Affine, LogisticMixture, RationalQuadratic

BATCH = 3
IMAGE = (2, 4, 4)
BOUND = Affine(bound=3.0)
COUPLINGS = {"levels": 2, "depth": 1, "width": 5}
VAE = {"coder": Strided(size=4, width=4, levels=2)}
F_VAE = {"coder": Squeezing(squeezes=1, blocks=1, hidden=4), "flow": Glow(**COUPLINGS)}


@dataclass
class Row:
    """A flow, the shape of its input, and its condition if it has one."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cond: Callable[[], Tensor] | None = None

    def flow(self, seed: int = 1) -> Any:
        torch.manual_seed(seed)
        return perturb(self.make())

    def data(self) -> tuple[Tensor, Tensor | None]:
        torch.manual_seed(2)
        x = torch.randn(BATCH, *self.shape).clamp(-3, 3)
        return x, None if self.cond is None else self.cond()


def floats(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(BATCH, *shape)


def in_bins(bits: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: bins(BATCH, shape, bits)


def labels() -> Tensor:
    return torch.tensor([0, 2, 1])


def standardize() -> Flow:
    """Fitted to columns of several units."""
    flow = Standardize(5)
    flow.fit(3 + torch.tensor([0.01, 0.5, 1.0, 2.0, 20.0]) * torch.randn(50, 5))
    return flow


def normalized(conditioner: nn.Module) -> Flow:
    """A batch-normalized posterior in evaluation, where samples do not mix, with some statistics."""
    flow = Elementwise(conditioner)
    flow(torch.zeros(20, 4), torch.randn(20, 3))
    return flow.eval()


def by_channel(keep: int, *shape: int) -> nn.Module:
    return SharedStd(Net(keep, shape[0]), 0.3, shape=shape)


def fused(shape, coupling, mixing, reversible: bool) -> Flow:
    steps = FusedSteps(*step(shape, coupling, mixing), *step(shape, coupling, mixing))
    set_reversible(steps, reversible)
    return steps


def spread(transform) -> Callable[[int, int], Coupling]:
    """A coupling by a transform of many parameters."""
    return lambda keep, moved: Coupling(Net(keep, transform.parameters * moved), keep, transform)


TABLE = {
    "squeeze 3": Row(lambda: Squeeze(3), (2, 3, 6)),
    "flatten": Row(lambda: Flatten(IMAGE), IMAGE),
    "shuffle": Row(lambda: shuffle(5), (5, 2, 3)),
    "shuffle of vectors": Row(lambda: shuffle(7), (7,)),
    "convolution": Row(lambda: InvertibleConv(5), (5, 2, 3)),
    "convolution of vectors": Row(lambda: InvertibleConv(6), (6,)),
    "convolution of one channel": Row(lambda: InvertibleConv(1), (1, 2, 2)),
    "actnorm": Row(lambda: ActNorm((3, 2, 4)), (3, 2, 4)),
    "actnorm of vectors": Row(lambda: ActNorm((5,)), (5,)),
    "standardize": Row(standardize, (5,)),
    **{f"dequantize to {b} bits": Row(lambda b=b: Dequantize(b), IMAGE, in_bins(b, *IMAGE)) for b in (1, 5, 8)},
    "augmented": Row(lambda: Augment(Dequantize(5), (2, 3, 2), IMAGE, 0.2), IMAGE, in_bins(5, 2, 3, 2)),
    "elementwise, affine": Row(lambda: Elementwise(Net(3, 8), BOUND), (4,), floats(3)),
    "elementwise, additive": Row(lambda: Elementwise(Net(3, 4), Additive()), (4,), floats(3)),
    "elementwise, shared std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3)), (4,), floats(3)),
    "elementwise, fixed std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3, trained=False)), (4,), floats(3)),
    "elementwise, optimal std": Row(lambda: Elementwise(OptimalStd(Net(3, 4), 0.3)), (4,), floats(3)),
    "elementwise, std by a head": Row(lambda: Elementwise(NetworkStd(Net(3, 4), Net(4, 4), 0.3)), (4,), floats(3)),
    "elementwise, least std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3, least=0.1)), (4,), floats(3)),
    "elementwise, one-sided": Row(lambda: normalized(OneSidedBatchNorm(Net(3, 8), 4, 0.5)), (4,), floats(3)),
    "elementwise, two-sided": Row(lambda: normalized(TwoSidedBatchNorm(Net(3, 8), 4, 0.5)), (4,), floats(3)),
    "elementwise, constant": Row(lambda: Elementwise(Constant(IMAGE)), IMAGE),
    "backwards, affine": Row(lambda: backwards(Net(3, 4), BOUND), IMAGE, floats(3, 4, 4)),
    "backwards, additive": Row(lambda: backwards(Net(3, 2), Additive()), IMAGE, floats(3, 4, 4)),
    "backwards, shared std": Row(lambda: backwards(SharedStd(Net(3, 2), 0.3)), IMAGE, floats(3, 4, 4)),
    "backwards, classes": Row(lambda: backwards(ClassMeans(3, 5), Additive()), (5,), labels),
    "backwards, class weights": Row(
        lambda: backwards(ClassMeans(3, 5), Additive()), (5,), lambda: torch.eye(3).roll(1, 0)
    ),
    "blind, then classes": Row(lambda: Chain(ActNorm((5,)), backwards(ClassMeans(3, 5), Additive())), (5,), labels),
    "coupling, affine": Row(lambda: affine(2, 2), (4, 3, 2)),
    "coupling, affine, odd": Row(lambda: affine(2, 3), (5, 3, 2)),
    "coupling, additive": Row(lambda: additive(2, 2), (4, 3, 2)),
    "coupling, additive, odd": Row(lambda: additive(1, 2), (3, 2, 2)),
    "coupling of vectors": Row(lambda: Coupling(Net(2, 6), 2), (5,)),
    "coupling, conditional": Row(lambda: Coupling(Net(2, 6, 3), 2), (5, 2, 3), floats(3)),
    "coupling, additive, conditional": Row(lambda: Coupling(Net(2, 3, 3), 2, Additive()), (5,), floats(3)),
    **{
        f"{name}, {kind}": Row(make, shape, cond)
        for kind, t in [
            ("spline", RationalQuadratic(4)),
            ("spline and its tails", RationalQuadratic(2, 1.5)),
            ("mixture of logistics", LogisticMixture(3)),
        ]
        for name, make, shape, cond in [
            ("coupling", lambda t=t: Coupling(Net(2, 2 * t.parameters), 2, t), (4, 2, 3), None),
            ("coupling, conditional", lambda t=t: Coupling(Net(2, 3 * t.parameters, 3), 2, t), (5,), floats(3)),
            ("elementwise", lambda t=t: Elementwise(Net(3, 4 * t.parameters), t), (4,), floats(3)),
            (
                "autoregressive",
                lambda t=t: Autoregressive(MaskedMLP(range(4), t.parameters * [*range(4)], 7), t),
                (4,),
                None,
            ),
            ("steps", lambda t=t: fused((4, 3, 2), spread(t), InvertibleConv, False), (4, 3, 2), None),
        ]
    },
    "autoregressive, affine": Row(lambda: Autoregressive(MaskedMLP(range(5), 2 * [*range(5)], 7, 3)), (5,)),
    "autoregressive, additive, conditional": Row(
        lambda: Autoregressive(MaskedMLP(range(4), range(4), 9, 1, context=3), Additive()), (4,), floats(3)
    ),
    **{
        f"checkerboard, {kind}, {'white' if color else 'black'}": Row(
            lambda net=net, color=color, transform=transform: Checkerboard(net(), color, transform), shape, cond
        )
        for color in (0, 1)
        for kind, shape, net, transform, cond in [
            ("affine", (2, 3, 4), lambda: CouplingNet(2, 4, 5), BOUND, None),
            ("additive", (1, 2, 5), lambda: CouplingNet(1, 1, 5), Additive(), None),
            ("conditional", (2, 3, 2), lambda: Around(2, 4, 3), BOUND, floats(3)),
        ]
    },
    "subclass, inverse": Row(lambda: Doubled(Net(2, 6, 3), 2), (5,), floats(3)),
    "subclass, inverse and log-determinant": Row(lambda: Halved(Net(2, 6, 3), 2), (5,), floats(3)),
    "subclass of images, backwards": Row(lambda: Inverse(affine(2, 3, Doubled)), (5, 2, 3)),
    "subclasses in a chain, backwards": Row(
        lambda: Inverse(Chain(Doubled(Net(2, 6), 2), ActNorm((5,)), Halved(Net(2, 3), 2, Additive()))), (5,)
    ),
    "third-party, chain": Row(
        lambda: Chain(Sinh(5), InvertibleConv(5), Inverse(Sinh(5)), Coupling(Net(2, 6), 2)), (5,)
    ),
    "third-party, chain, conditional": Row(lambda: Chain(Sinh(5, 3), Doubled(Net(2, 6), 2)), (5,), floats(3)),
    "third-party, inverse": Row(lambda: Inverse(Sinh(5, 3)), (5,), floats(3)),
    "third-party, inverse of a chain": Row(lambda: Inverse(Chain(Sinh(5, 3), reverse(5), Sinh(5))), (5,), floats(3)),
    "third-party, factored out": Row(
        lambda: FactorOut(Chain(Flatten((2, 2, 3)), Sinh(12)), leaving(2, 2), (4, 2, 3)), (4, 2, 3)
    ),
    "chain": Row(lambda: Chain(Squeeze(2), *step((8, 2, 2)), reverse(8), Flatten((8, 2, 2))), IMAGE),
    "chain, conditional": Row(
        lambda: Chain(
            Elementwise(Net(3, 5), Additive()),
            InvertibleConv(5),
            Coupling(Net(2, 6, 3), 2),
            backwards(Net(3, 10), BOUND),
        ),
        (5,),
        floats(3),
    ),
    "inverse": Row(lambda: Inverse(Chain(Flatten(IMAGE), ActNorm((32,)), InvertibleConv(32))), (32,)),
    "inverse, conditional": Row(lambda: Inverse(Coupling(Net(2, 6, 3), 2)), (5,), floats(3)),
    **{
        f"steps{name}{', reversible' if reversible else ''}": Row(
            lambda args=(shape, coupling, mixing, reversible): fused(*args), shape, cond
        )
        for reversible in (False, True)
        for name, shape, coupling, mixing, cond in [
            ("", (4, 3, 2), affine, InvertibleConv, None),
            (", odd", (5, 2, 3), affine, InvertibleConv, None),
            (", permuted", (4, 2, 3), affine, shuffle, None),
            (", permuted, additive", (5, 3, 2), additive, reverse, None),
            (", additive", (4, 2, 3), additive, InvertibleConv, None),
            (" of vectors", (5,), lambda k, m: Coupling(Net(k, 2 * m), k), InvertibleConv, None),
            (", a std a channel", (5, 2, 3), lambda k, m: Coupling(by_channel(k, m, 1, 1), k), InvertibleConv, None),
            (" of vectors, a std a channel", (5,), lambda k, m: Coupling(by_channel(k, m), k), InvertibleConv, None),
            (", conditional", (5, 2, 3), lambda k, m: Coupling(Net(k, 2 * m, 3), k), InvertibleConv, floats(3)),
            (", permuted, conditional", (5,), lambda k, m: Coupling(Net(k, m, 3), k, Additive()), shuffle, floats(3)),
        ]
    },
    "factor out": Row(lambda: FactorOut(Flatten((2, 2, 3)), leaving(2, 2), (4, 2, 3)), (4, 2, 3)),
    "factor out, odd": Row(
        lambda: FactorOut(Chain(ActNorm((3, 2, 3)), Flatten((3, 2, 3))), leaving(3, 2), (5, 2, 3)), (5, 2, 3)
    ),
    "factor out, conditional": Row(
        lambda: FactorOut(Flatten((2, 2, 3)), Net(2, 4, 3), (4, 2, 3)), (4, 2, 3), floats(3)
    ),
    **{
        f"multiscale, {levels} levels, {'squeezed' if first else 'as it is'}": Row(
            lambda shape=shape, levels=levels, first=first: multiscale(shape, levels, step, leaving, first), shape
        )
        for levels, first, shape in [
            (1, True, (3, 4, 2)),
            (2, True, (1, 4, 8)),
            (3, True, (1, 8, 8)),
            (1, False, (5, 2, 1)),
            (2, False, (5, 2, 4)),
            (3, False, (3, 4, 4)),
        ]
    },
    "glow's posterior": Row(lambda: glow((1, 4, 4), flow=Glow(**COUPLINGS)).posterior, (1, 4, 4), in_bins(8, 1, 4, 4)),
    "glow's prior": Row(lambda: glow((1, 4, 8), flow=Glow(**COUPLINGS)).prior, (1, 4, 8)),
    "glow's prior, additive, shuffled": Row(
        lambda: glow((3, 4, 4), flow=Glow(**COUPLINGS, mixing="shuffle", coupling="additive")).prior, (3, 4, 4)
    ),
    "glow's prior of vectors": Row(lambda: glow((5,), flow=Glow(**COUPLINGS)).prior, (5,)),
    "realnvp's prior": Row(lambda: realnvp((1, 4, 8), flow=RealNVP(**COUPLINGS)).prior, (1, 4, 8)),
    "nice's prior, classes": Row(
        lambda: nice((5,), flow=NICE(depth=3, width=5, hidden=2), classes=3).prior, (5,), labels
    ),
    "bn_vae's posterior": Row(lambda: bn_vae((1, 4, 8), **VAE).posterior.eval(), (4,), in_bins(8, 1, 4, 8)),
    "vae's posterior": Row(lambda: vae((3, 4, 8), **VAE).posterior, (4,), in_bins(8, 3, 4, 8)),
    "vae's prior": Row(lambda: vae((3, 4, 8), **VAE).prior, (4,)),
    "f_vae's posterior": Row(lambda: f_vae((1, 4, 8), **F_VAE).posterior, (4, 2, 4), in_bins(8, 1, 4, 8)),
    "f_vae's prior": Row(lambda: f_vae((1, 4, 8), **F_VAE).prior, (4, 2, 4)),
    "f_vae_general's posterior": Row(
        lambda: f_vae_general((1, 4, 8), rounds=2, **F_VAE).posterior, (4, 2, 4), in_bins(8, 1, 4, 8)
    ),
}
every_flow = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())


@every_flow
@torch.no_grad()
def test_inverse_undoes_forward(row, float64):
    """inverse(forward(x)) = x, with minus forward's log-determinant, and forward(inverse(z)) = z."""
    flow, (x, cond) = row.flow(), row.data()
    z, log_det = flow(x, cond)
    back, change = flow.inverse_and_log_det(z, cond)
    torch.testing.assert_close(flow.inverse(z, cond), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(change, -log_det, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(back, cond), (z, log_det), rtol=1e-9, atol=1e-9)


@every_flow
def test_log_determinant_is_that_of_the_jacobian(row, float64):
    """log |det dz/dx| is that of autograd's Jacobian, sample by sample."""
    flow, (x, cond) = row.flow(), row.data()
    jacobian = torch.autograd.functional.jacobian(lambda a: flow(a, cond)[0].flatten(1).sum(0), x)
    expected = torch.linalg.slogdet(jacobian.flatten(2).transpose(0, 1)).logabsdet
    torch.testing.assert_close(flow(x, cond)[1], expected, rtol=1e-8, atol=1e-10)


@every_flow
@pytest.mark.parametrize("part", ["density", "log-determinant"])
def test_gradients(row, part, float64):
    """The gradients in x, a condition of floats and every parameter are there and, together, the finite difference.

    Of the density none of them is zero.
    """
    flow, (x, cond) = row.flow(), row.data()
    of = {"x": x, **dict(flow.named_parameters())}
    if cond is not None and cond.is_floating_point():
        of["cond"] = cond
    directions = [torch.randn_like(a) for a in of.values()]

    def value() -> Tensor:
        z, log_det = flow(x, cond)
        return (0.5 * z.square().sum() if part == "density" else 0 * z.sum()) - log_det.sum()

    for a in of.values():
        a.requires_grad_()
    found = torch.autograd.grad(value(), list(of.values()), materialize_grads=True)
    ends = []
    with torch.no_grad():
        for t in (1e-6, -2e-6):
            for a, direction in zip(of.values(), directions, strict=True):
                a.add_(t * direction)
            ends.append(value())
    slope = sum((g * direction).sum() for g, direction in zip(found, directions, strict=True))
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-5)
    assert part != "density" or all(g.any() for g in found)


@every_flow
@torch.no_grad()
def test_the_path_is_float32(row):
    """Of float32, z with as many values as x, the log-determinant (B,) and the inverse are float32.

    Under autocast too, where networks compute in bfloat16; what has no network is exactly the same there.
    """
    flow, (x, cond) = row.flow(), row.data()
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            z, log_det = flow(x, cond)
            found.append((z, log_det, flow.inverse(z, cond)))
        assert all(a.dtype == torch.float32 and a.isfinite().all() for a in found[-1][:2])
        assert found[-1][2].dtype == torch.float32 and found[-1][2].shape == x.shape
        assert len(z) == BATCH and z.numel() == x.numel() and log_det.shape == (BATCH,)
    torch.testing.assert_close(found[0][2], x, rtol=0, atol=1e-2 if isinstance(flow, Dequantize) else 1e-3)
    if not any(isinstance(m, nn.Linear | nn.Conv2d | CouplingNet) for m in flow.modules()):
        assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@every_flow
@torch.no_grad()
def test_a_loaded_flow_is_the_same(row):
    """What a flow does lies in its state_dict: one made from another seed does the same once loaded."""
    flow, (x, cond) = row.flow(seed=1), row.data()
    loaded = row.flow(seed=9)
    loaded.load_state_dict(flow.state_dict())
    z, log_det = flow(x, cond)
    assert all(map(torch.equal, (z, log_det, flow.inverse(z, cond)), (*loaded(x, cond), loaded.inverse(z, cond))))


@every_flow
@torch.no_grad()
def test_inputs_stay_as_they_are(row):
    """Neither direction writes into its input or its condition, nor into the flow's own state."""
    flow, (x, cond) = row.flow(), row.data()
    state = lambda: [x, *flow.state_dict().values()] + ([] if cond is None else [cond])  # noqa: E731
    before = [a.clone() for a in state()]
    z, log_det = flow(x, cond)
    results = z.clone(), log_det.clone()
    flow.inverse(z, cond)
    flow.eval()(x, cond)
    assert all(map(torch.equal, (z, log_det, *state()), (*results, *before)))


@every_flow
@torch.no_grad()
def test_samples_do_not_mix(row, float64):
    """A part of a batch, in another order, gives what it gives in company; under another condition something else."""
    flow, (x, cond) = row.flow(), row.data()
    z, log_det = flow(x, cond)
    for order in (torch.tensor([2, 0, 1]), torch.tensor([1])):
        found = flow(x[order], None if cond is None else cond[order])
        torch.testing.assert_close(found, (z[order], log_det[order]), rtol=1e-12, atol=1e-12)
    assert cond is None or not torch.allclose(flow(x, cond.flip(0))[0], z)


@pytest.mark.parametrize("name", TABLE)
@torch.no_grad()
def test_translations(name, float64):
    """A flow that calls itself a translation, and these do, moves x by what doesn't depend on x: log-determinant 0."""
    flow, (x, cond) = TABLE[name].flow(), TABLE[name].data()
    additive = ("elementwise, additive", "backwards, additive", "backwards, classes", "backwards, class weights")
    assert flow.translation == (name in ("flatten", "vae's prior", *additive))
    if flow.translation:
        (z, log_det), (moved, _) = flow(x, cond), flow(x + 1, cond)
        torch.testing.assert_close(moved, z + 1)
        assert not log_det.any()


@pytest.mark.parametrize("hidden", [1, 3])
def test_masked_networks_see_what_comes_before(hidden, float64):
    """Output i of each parameter depends on every input before i, and on no other."""
    net = perturb(MaskedMLP(range(4), 3 * [*range(4)], 12, hidden))
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], torch.randn(4)).reshape(3, 4, 4)
    assert torch.equal(jacobian != 0, torch.ones(4, 4).tril(-1).bool().expand(3, 4, 4))


@pytest.mark.parametrize("width", [5, 19, 64, 100])
def test_units_of_a_masked_network_are_spread_over_all_positions(width):
    """With as many units as positions or more, the last output sees all inputs before it."""
    net = MaskedMLP(range(20), range(20), width)
    reach = (net.leave.mask @ net.layers[0].mask @ net.enter.mask)[-1] > 0
    assert not reach[19] and (reach[:19].all() if width >= 19 else reach[:15].all())


@torch.no_grad()
def test_an_autoregressive_flow_of_one_value_has_constant_parameters(float64):
    flow, x = perturb(Autoregressive(MaskedMLP([0], [0, 0], 7))), torch.randn(3, 1)
    z, log_det = flow(x)
    torch.testing.assert_close(flow.inverse(z), x)
    assert log_det.unique().numel() == 1


COMPILED = [  # each class of layer once; whole recipes are compiled in their own tests
    *("squeeze 3", "convolution", "standardize", "dequantize to 8 bits", "backwards, classes"),
    *("elementwise, optimal std", "elementwise, std by a head", "elementwise, one-sided", "elementwise, two-sided"),
    *("checkerboard, conditional, white", "subclass, inverse and log-determinant", "third-party, chain, conditional"),
    *("chain, conditional", "steps, conditional", "steps, permuted, conditional", "multiscale, 2 levels, as it is"),
    *("backwards, class weights", "autoregressive, spline", "coupling, mixture of logistics"),
]


@pytest.mark.parametrize("name", COMPILED)
@torch.no_grad()
def test_one_graph(name, float64):
    """torch.compile takes forward and inverse whole, and they give what they gave."""
    flow, (x, cond) = TABLE[name].flow(), TABLE[name].data()

    def there_and_back(x: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        z, log_det = flow(x, cond)
        return z, log_det, flow.inverse(z, cond)

    torch._dynamo.reset()
    found = torch.compile(there_and_back, fullgraph=True, backend="eager")(x, cond)
    torch.testing.assert_close(found, there_and_back(x, cond))
