"""One table of constructors; each property of a flow is one test that runs over all of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from conftest import MeanStd, perturb
from torch import nn

from fvae.conditioners import (
    BatchNorm,
    ClassMeans,
    Constant,
    NetworkStd,
    OneSidedBatchNorm,
    OptimalStd,
    SharedStd,
    TwoSidedBatchNorm,
)
from fvae.conditioners.base import parameters_of
from fvae.flows import (
    ActNorm,
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
    Permute,
    PointMass,
    Squeeze,
    Standardize,
    multiscale,
    reverse,
    scaling,
    shuffle,
)
from fvae.flows.fused import CouplingNet, FusedSteps, set_reversible
from fvae.networks.conv import zero_conv
from fvae.recipes import NICE, Glow, RealNVP, Squeezing, Strided, bn_vae, f_vae, f_vae_general, glow, nice, realnvp, vae
from fvae.statistics import initialize
from fvae.transforms import Additive, Affine

BATCH = 3


class Net(nn.Module):
    """A small smooth network that opens its condition: (B, c_in, *), (B, c_cond) -> (B, c_out, *)."""

    def __init__(self, c_in: int, c_out: int, c_cond: int = 0):
        super().__init__()
        self.enter, self.leave = nn.Linear(c_in, 6), nn.Linear(6, c_out)
        self.open = nn.Linear(c_cond, 6) if c_cond else None
        self.conditional = bool(c_cond)

    def forward(self, x, cond=None):
        a = self.enter(x.movedim(1, -1))
        if self.open is not None:
            a = a + self.open(cond).reshape(len(x), *(1 for _ in x.shape[2:]), 6)
        return self.leave(torch.tanh(a)).movedim(-1, 1)


class Around(Net):
    """``Net`` of a position's neighbors."""

    def forward(self, x, cond=None):
        return super().forward(nn.functional.avg_pool2d(x, 3, 1, 1), cond)


class Sinh(nn.Module):
    """A third-party layer, no ``Flow``: z = sinh(a x) + shift(cond)."""

    def __init__(self, d: int, c_cond: int = 0):
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(d))
        self.shift = nn.Linear(c_cond, d) if c_cond else None

    def shifted(self, x, cond, sign):
        return x if self.shift is None else x + sign * self.shift(cond).to(x.dtype)

    def forward(self, x, cond=None):
        y = self.log_a.exp() * x
        return self.shifted(torch.sinh(y), cond, 1), (torch.log(torch.cosh(y)) + self.log_a).sum(1)

    def inverse(self, z, cond=None):
        return torch.asinh(self.shifted(z, cond, -1)) / self.log_a.exp()


class Doubled(Coupling):
    """A subclass of a known layer that defines what a flow must."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return 2 * z, log_det + x[0].numel() * math.log(2)

    def inverse(self, z, cond=None):
        return super().inverse(z / 2, cond)


class Halved(Coupling):
    """A subclass of a known layer that defines what a flow may."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z / 2, log_det - x[0].numel() * math.log(2)

    def inverse_and_log_det(self, z, cond=None):
        x, log_det = super().inverse_and_log_det(2 * z, cond)
        return x, log_det + z[0].numel() * math.log(2)


def affine(keep: int, moved: int, coupling: type[Coupling] = Coupling) -> Coupling:
    return coupling(CouplingNet(keep, 2 * moved, 5), keep)


def additive(keep: int, moved: int) -> Coupling:
    return Coupling(CouplingNet(keep, moved, 5), keep, Additive())


def leaving(c_in: int, c_out: int) -> nn.Module:
    return zero_conv(c_in, 2 * c_out, 3)


def step(
    shape, coupling: Callable[[int, int], Coupling] = affine, mixing: Callable[[int], Flow] = InvertibleConv
) -> list[Flow]:
    """Glow's step; ``coupling(keep, moved)`` is its coupling."""
    c = shape[0]
    return [ActNorm(shape), mixing(c), coupling(c // 2, c - c // 2)]


def steps(shape, coupling, mixing, reversible: bool) -> FusedSteps:
    """Two of Glow's steps, together."""
    together = FusedSteps(*step(shape, coupling, mixing), *step(shape, coupling, mixing))
    set_reversible(together, reversible)
    return together


def backwards(conditioner: nn.Module, transform=None) -> Flow:
    return Inverse(Elementwise(conditioner, transform))


def floats(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(BATCH, *shape)


def bins(bits: int, *shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(2**bits, (BATCH, *shape)).to(torch.get_default_dtype())


def labels() -> torch.Tensor:
    return torch.tensor([0, 2, 1])


def standardize() -> Flow:
    """Set from data of several units."""
    flow = Standardize(5)
    flow.fit(3 + torch.tensor([0.01, 0.5, 1.0, 2.0, 20.0]) * torch.randn(50, 5))
    return flow


def posterior(conditioner: nn.Module) -> Flow:
    """A batch-normalized one in evaluation, where samples do not mix, with some statistics."""
    flow = Elementwise(conditioner)
    flow(torch.zeros(20, 4), torch.randn(20, 3))
    return flow.eval()


@dataclass
class Row:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cond: Callable[[], torch.Tensor] | None = None

    def flow(self, seed: int = 1) -> nn.Module:
        torch.manual_seed(seed)
        return perturb(self.make())

    def data(self, seed: int = 2):
        torch.manual_seed(seed)
        x = torch.randn(BATCH, *self.shape).clamp(-3, 3)
        return x, None if self.cond is None else self.cond()


GLOW = {"levels": 2, "depth": 2, "width": 5}
VAE = {"coder": Strided(size=4, width=4, levels=2)}
COUPLINGS = {"levels": 2, "depth": 1, "width": 5}
F_VAE = {"coder": Squeezing(squeezes=1, blocks=1, hidden=4), "flow": Glow(**COUPLINGS)}
IMAGE = (2, 4, 4)
BOUND = Affine(bound=3.0)

TABLE = {
    "squeeze 2": Row(lambda: Squeeze(2), (3, 4, 6)),
    "squeeze 3": Row(lambda: Squeeze(3), (2, 3, 6)),
    "flatten": Row(lambda: Flatten(IMAGE), IMAGE),
    "reverse": Row(lambda: reverse(5), (5, 2, 3)),
    "shuffle": Row(lambda: shuffle(5), (5, 2, 3)),
    "shuffle of vectors": Row(lambda: shuffle(7), (7,)),
    "convolution": Row(lambda: InvertibleConv(5), (5, 2, 3)),
    "convolution of vectors": Row(lambda: InvertibleConv(6), (6,)),
    "convolution of one channel": Row(lambda: InvertibleConv(1), (1, 2, 2)),
    "actnorm": Row(lambda: ActNorm((3, 2, 4)), (3, 2, 4)),
    "actnorm of vectors": Row(lambda: ActNorm((5,)), (5,)),
    "elementwise, affine": Row(lambda: Elementwise(Net(3, 8), BOUND), (4,), floats(3)),
    "elementwise, additive": Row(lambda: Elementwise(Net(3, 4), Additive()), (4,), floats(3)),
    "elementwise, shared std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3)), (4,), floats(3)),
    "elementwise, fixed std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3, trained=False)), (4,), floats(3)),
    "elementwise, optimal std": Row(lambda: Elementwise(OptimalStd(Net(3, 4), 0.3)), (4,), floats(3)),
    "elementwise, headed": Row(lambda: Elementwise(NetworkStd(Net(3, 4), nn.Linear(4, 4), 0.3)), (4,), floats(3)),
    "elementwise, least std": Row(lambda: Elementwise(SharedStd(Net(3, 4), 0.3, least=0.1)), (4,), floats(3)),
    "elementwise, one-sided": Row(lambda: posterior(OneSidedBatchNorm(Net(3, 8), 4, 0.5)), (4,), floats(3)),
    "elementwise, two-sided": Row(lambda: posterior(TwoSidedBatchNorm(Net(3, 8), 4, 0.5)), (4,), floats(3)),
    "elementwise, constant": Row(lambda: Elementwise(Constant(IMAGE)), IMAGE),
    "backwards, affine": Row(lambda: backwards(Net(3, 4), BOUND), IMAGE, floats(3, 4, 4)),
    "backwards, additive": Row(lambda: backwards(Net(3, 2), Additive()), IMAGE, floats(3, 4, 4)),
    "backwards, shared std": Row(lambda: backwards(SharedStd(Net(3, 2), 0.3)), IMAGE, floats(3, 4, 4)),
    "backwards, classes": Row(lambda: backwards(ClassMeans(3, 5), Additive()), (5,), labels),
    "backwards, between classes": Row(
        lambda: backwards(ClassMeans(3, 5), Additive()), (5,), lambda: torch.eye(3).roll(1, 0)
    ),
    "scaling": Row(lambda: scaling((5,)), (5,)),
    "standardize": Row(standardize, (5,)),
    "blind": Row(lambda: Chain(ActNorm((5,)), backwards(ClassMeans(3, 5), Additive())), (5,), labels),
    "coupling, affine": Row(lambda: affine(2, 2), (4, 3, 2)),
    "coupling, affine, odd": Row(lambda: affine(2, 3), (5, 3, 2)),
    "coupling, additive": Row(lambda: additive(2, 2), (4, 3, 2)),
    "coupling, additive, odd": Row(lambda: additive(1, 2), (3, 2, 2)),
    "coupling of vectors": Row(lambda: Coupling(Net(2, 6), 2), (5,)),
    "coupling, conditional": Row(lambda: Coupling(Net(2, 6, 3), 2), (5, 2, 3), floats(3)),
    "coupling, additive, conditional": Row(lambda: Coupling(Net(2, 3, 3), 2, Additive()), (5,), floats(3)),
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
    **{
        f"steps{name}{', reversible' if reversible else ''}": Row(
            lambda args=(shape, coupling, mixing, reversible): steps(*args), shape, cond
        )
        for reversible in (False, True)
        for name, shape, coupling, mixing, cond in [
            ("", (4, 3, 2), affine, InvertibleConv, None),
            (", odd", (5, 2, 3), affine, InvertibleConv, None),
            (", permuted", (4, 2, 3), affine, shuffle, None),
            (", permuted, additive", (5, 3, 2), additive, reverse, None),
            (", additive", (4, 2, 3), additive, InvertibleConv, None),
            (" of vectors", (5,), lambda k, m: Coupling(Net(k, 2 * m), k), InvertibleConv, None),
            (", conditional", (5, 2, 3), lambda k, m: Coupling(Net(k, 2 * m, 3), k), InvertibleConv, floats(3)),
            (", permuted, conditional", (5,), lambda k, m: Coupling(Net(k, m, 3), k, Additive()), shuffle, floats(3)),
        ]
    },
    "inverse": Row(lambda: Inverse(Chain(Flatten(IMAGE), ActNorm((32,)), InvertibleConv(32))), (32,)),
    "inverse, conditional": Row(lambda: Inverse(Coupling(Net(2, 6, 3), 2)), (5,), floats(3)),
    "factor out": Row(lambda: FactorOut(Flatten((2, 2, 3)), leaving(2, 2), (4, 2, 3)), (4, 2, 3)),
    "factor out, odd": Row(
        lambda: FactorOut(Chain(ActNorm((3, 2, 3)), Flatten((3, 2, 3))), leaving(3, 2), (5, 2, 3)), (5, 2, 3)
    ),
    "factor out, conditional": Row(
        lambda: FactorOut(Flatten((2, 2, 3)), Net(2, 4, 3), (4, 2, 3)), (4, 2, 3), floats(3)
    ),
    **{
        f"multiscale, {levels} levels, {'squeezed' if first else 'as it is'}": Row(
            lambda shape=shape, levels=levels, first=first: multiscale(shape, levels, step, leaving, first),
            shape,
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
    **{
        f"dequantize to {bits} bits": Row(lambda bits=bits: Dequantize(bits), IMAGE, bins(bits, *IMAGE))
        for bits in (1, 5, 8)
    },
    "glow's posterior": Row(lambda: glow((1, 4, 4), flow=Glow(**GLOW)).posterior, (1, 4, 4), bins(8, 1, 4, 4)),
    "glow's prior": Row(lambda: glow((1, 4, 8), flow=Glow(**GLOW)).prior, (1, 4, 8)),
    "glow's prior, additive, shuffled": Row(
        lambda: glow((3, 4, 4), flow=Glow(**GLOW, mixing="shuffle", coupling="additive")).prior, (3, 4, 4)
    ),
    "glow's prior of vectors": Row(lambda: glow((5,), flow=Glow(**GLOW)).prior, (5,)),
    "realnvp's prior": Row(lambda: realnvp((1, 4, 8), flow=RealNVP(**COUPLINGS)).prior, (1, 4, 8)),
    "nice's prior, classes": Row(
        lambda: nice((5,), flow=NICE(depth=3, width=5, hidden=2), classes=3).prior, (5,), labels
    ),
    "bn_vae's posterior": Row(lambda: bn_vae((1, 4, 8), **VAE).posterior.eval(), (4,), bins(8, 1, 4, 8)),
    "f_vae_general's posterior": Row(
        lambda: f_vae_general((1, 4, 8), rounds=2, **F_VAE).posterior, (4, 2, 4), bins(8, 1, 4, 8)
    ),
    "vae's posterior": Row(lambda: vae((3, 4, 8), **VAE).posterior, (4,), bins(8, 3, 4, 8)),
    "vae's prior": Row(lambda: vae((3, 4, 8), **VAE).prior, (4,)),
    "f_vae's posterior": Row(lambda: f_vae((1, 4, 8), **F_VAE).posterior, (4, 2, 4), bins(8, 1, 4, 8)),
    "f_vae's prior": Row(lambda: f_vae((1, 4, 8), **F_VAE).prior, (4, 2, 4)),
    "f_vae's prior, additive": Row(
        lambda: (
            f_vae((1, 4, 8), coder=F_VAE["coder"], flow=Glow(**COUPLINGS, mixing="reverse", coupling="additive")).prior
        ),
        (4, 2, 4),
    ),
}
every_flow = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
NETLESS = (
    *("squeeze", "flatten", "reverse", "shuffle", "convolution", "actnorm", "dequantize", "inverse"),
    *("standardize", "blind", "backwards, classes", "backwards, between"),
)
netless = [name for name in TABLE if name.startswith(NETLESS) and "conditional" not in name]


@every_flow
@torch.no_grad()
def test_inverse_undoes_forward(row, float64):
    """inverse(forward(x)) = x, and forward(inverse(z)) = z with the same log-determinant."""
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x, cond)
    back = flow.inverse(z, cond)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    again, logdet_again = flow(back, cond)
    torch.testing.assert_close(again, z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logdet_again, logdet, rtol=1e-9, atol=1e-9)


@every_flow
@torch.no_grad()
def test_inverse_with_its_log_determinant(row, float64):
    """inverse_and_log_det(z) is inverse(z), and minus forward's log-determinant there."""
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x, cond)
    back, change = flow.inverse_and_log_det(z, cond)
    torch.testing.assert_close(back, flow.inverse(z, cond), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(change, -logdet, rtol=1e-9, atol=1e-9)


@every_flow
def test_log_determinant_is_that_of_the_jacobian(row, float64):
    """log |det dz/dx| equals the one of autograd's Jacobian, sample by sample."""
    flow, (x, cond) = row.flow(), row.data()
    jacobian = torch.autograd.functional.jacobian(lambda a: flow(a, cond)[0].flatten(1).sum(0), x)
    expected = torch.linalg.slogdet(jacobian.flatten(2).transpose(0, 1)).logabsdet
    torch.testing.assert_close(flow(x, cond)[1], expected, rtol=1e-8, atol=1e-10)


@every_flow
def test_gradient_of_the_log_determinant(row, float64):
    """The log-determinant is differentiable in x: its directional derivative is the finite difference."""
    flow, (x, cond) = row.flow(), row.data()
    flow.requires_grad_(False)
    x.requires_grad_()
    z, logdet = flow(x, cond)
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(logdet.sum() + 0 * z.sum(), x)
    if isinstance(flow, Dequantize):
        torch.testing.assert_close(gradient, -x, rtol=1e-12, atol=0)
    small = 1e-5 * direction
    difference = (flow(x + small, cond)[1] - flow(x - small, cond)[1]).sum() / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-5)


@every_flow
def test_shapes_and_types_in_float32(row):
    """float32 in: z float32 with as many values as x, log-determinant float32 of shape (B,), inverse of x's shape."""
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x, cond)
    back = flow.inverse(z, cond)
    assert z.dtype == logdet.dtype == back.dtype == torch.float32
    assert len(z) == BATCH and z.numel() == x.numel()
    assert logdet.shape == (BATCH,)
    assert back.shape == x.shape
    torch.testing.assert_close(back, x, rtol=0, atol=1e-2 if isinstance(flow, Dequantize) else 1e-3)


@every_flow
def test_every_parameter_gets_a_gradient(row):
    """Of forward's density, the gradient of x and of each parameter is there, finite and not all zero."""
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x.requires_grad_(), cond)
    (0.5 * z.square().sum() - logdet.sum()).backward()
    for name, parameter in [("x", x), *flow.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_flow
@torch.no_grad()
def test_a_loaded_flow_is_the_same(row):
    """What a flow does lies in its state_dict: one made from another seed does the same once loaded."""
    flow, (x, cond) = row.flow(seed=1), row.data()
    loaded = row.flow(seed=9)
    loaded.load_state_dict(flow.state_dict())
    z, logdet = flow(x, cond)
    z_loaded, logdet_loaded = loaded(x, cond)
    assert torch.equal(z, z_loaded) and torch.equal(logdet, logdet_loaded)
    assert torch.equal(flow.inverse(z, cond), loaded.inverse(z, cond))


# Without gradients what is reversible is the ordinary way; recipes are compiled in their own tests.
GRAPHS = {
    name: row
    for name, row in TABLE.items()
    if not any(a in name for a in ("reversible", "'s", "1 level", "3 level", "permuted, additive"))
}


@pytest.mark.parametrize("row", GRAPHS.values(), ids=GRAPHS.keys())
@torch.no_grad()
def test_one_graph(row, float64):
    """torch.compile takes forward and inverse whole, and they give what they gave."""
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x, cond)
    torch._dynamo.reset()
    z_compiled, logdet_compiled = torch.compile(flow, fullgraph=True, backend="eager")(x, cond)
    back = torch.compile(flow.inverse, fullgraph=True, backend="eager")(z, cond)
    torch.testing.assert_close(z_compiled, z)
    torch.testing.assert_close(logdet_compiled, logdet)
    torch.testing.assert_close(back, flow.inverse(z, cond))


@every_flow
@torch.no_grad()
def test_inputs_stay_as_they_are(row):
    """Neither direction writes into its input or its condition, nor into the flow's own state."""
    flow, (x, cond) = row.flow(), row.data()
    state = {name: a.clone() for name, a in flow.state_dict().items()}
    x_before, cond_before = x.clone(), None if cond is None else cond.clone()
    z, logdet = flow(x, cond)
    z_before, logdet_before = z.clone(), logdet.clone()
    flow.inverse(z, cond)
    flow.eval()(x, cond)
    assert torch.equal(x, x_before) and torch.equal(z, z_before) and torch.equal(logdet, logdet_before)
    assert cond is None or torch.equal(cond, cond_before)
    assert all(torch.equal(a, state[name]) for name, a in flow.state_dict().items())


@every_flow
@torch.no_grad()
def test_the_flows_own_path_is_float32_under_autocast(row):
    """In bfloat16 autocast only networks compute in bfloat16: z, the log-determinant and the inverse are float32."""
    flow, (x, cond) = row.flow(), row.data()
    with torch.autocast("cpu", torch.bfloat16):
        z, logdet = flow(x, cond)
        back = flow.inverse(z, cond)
    assert z.dtype == logdet.dtype == back.dtype == torch.float32
    assert z.isfinite().all() and logdet.isfinite().all()


@pytest.mark.parametrize("name", netless)
@torch.no_grad()
def test_what_has_no_network_is_exact_under_autocast(name):
    """Mixing, scaling and log-determinants without a network are the very same numbers under autocast."""
    flow, (x, cond) = TABLE[name].flow(), TABLE[name].data()
    z, logdet = flow(x, cond)
    back = flow.inverse(z, cond)
    with torch.autocast("cpu", torch.bfloat16):
        z_cast, logdet_cast = flow(x, cond)
        back_cast = flow.inverse(z, cond)
    assert torch.equal(z, z_cast) and torch.equal(logdet, logdet_cast) and torch.equal(back, back_cast)


@every_flow
@torch.no_grad()
def test_samples_do_not_mix(row, float64):
    """A permuted batch gives permuted outputs, and a sample alone what it gives in company."""
    flow, (x, cond) = row.flow(), row.data()
    order = torch.tensor([2, 0, 1])
    z, logdet = flow(x, cond)
    z_permuted, logdet_permuted = flow(x[order], None if cond is None else cond[order])
    torch.testing.assert_close(z_permuted, z[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logdet_permuted, logdet[order], rtol=1e-12, atol=1e-12)
    z_alone, logdet_alone = flow(x[1:2], None if cond is None else cond[1:2])
    torch.testing.assert_close(z_alone, z[1:2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logdet_alone, logdet[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.cond is not None])
@torch.no_grad()
def test_the_condition_matters(name, float64):
    """A flow with a condition is another map under another condition."""
    row = TABLE[name]
    flow, (x, cond) = row.flow(), row.data()
    other = cond.flip(0)
    z, _ = flow(x, cond)
    assert not torch.allclose(z, flow(x, other)[0])
    assert not torch.allclose(flow.inverse(z, cond), flow.inverse(z, other))


# Inverse, Chain


@torch.no_grad()
def test_chain_adds_and_inverse_negates(float64):
    """Chain(f, g) is g after f with log-determinants added; with its own inverse it is the identity."""
    f, g = perturb(InvertibleConv(4)), perturb(Coupling(Net(2, 4), 2))
    x = torch.randn(5, 4)
    a, logdet_f = f(x)
    z, logdet_g = g(a)
    torch.testing.assert_close(Chain(f, g)(x), (z, logdet_f + logdet_g))
    same, nothing = Chain(f, g, Inverse(Chain(f, g)))(x)
    torch.testing.assert_close(same, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(nothing, torch.zeros(5), rtol=0, atol=1e-12)


# Coupling, FactorOut, Permute


@torch.no_grad()
def test_coupling_keeps_the_first_half(float64):
    """z_1 = x_1 and z_2 = mean + std x_2: the shift comes after the scale."""
    net = perturb(Net(2, 6))
    x = torch.randn(4, 5)
    z, logdet = Coupling(net, 2)(x)
    mean, log_std = parameters_of(net, BOUND, x[:, :2])
    assert torch.equal(z[:, :2], x[:, :2])
    torch.testing.assert_close(z[:, 2:], log_std.exp() * x[:, 2:] + mean)
    torch.testing.assert_close(logdet, log_std.sum(1))


@torch.no_grad()
def test_factor_out_is_the_conditional_gaussian(float64):
    """log N(e) + log-determinant is log N(z_1; mean(z_2), std(z_2)^2) + log N(z_2), as torch has it."""
    net = perturb(leaving(2, 2))
    x = torch.randn(3, 4, 2, 3)
    e, logdet = FactorOut(Flatten((2, 2, 3)), net, (4, 2, 3))(x)
    mean, log_std = parameters_of(net, BOUND, x[:, 2:])
    first = torch.distributions.Normal(mean, log_std.exp()).log_prob(x[:, :2]).sum((1, 2, 3))
    second = torch.distributions.Normal(0, 1).log_prob(x[:, 2:]).sum((1, 2, 3))
    density = torch.distributions.Normal(0, 1).log_prob(e).sum(1) + logdet
    torch.testing.assert_close(density, first + second)


def test_permutations_are_what_they_say():
    """reverse reverses; a shuffle is a permutation that depends on the seed; any order is kept."""
    x = torch.arange(7.0).expand(1, 7)
    assert torch.equal(reverse(7)(x)[0], x.flip(1))
    shuffles = [shuffle(7)(x)[0] for _ in range(2)]
    assert not torch.equal(*shuffles)
    assert all(torch.equal(z.sort().values, x) for z in shuffles)
    assert Permute(torch.tensor([2, 0, 1]))(x[:, :3])[0].tolist() == [[2.0, 0.0, 1.0]]


@pytest.mark.parametrize("color", [0, 1])
@torch.no_grad()
def test_checkerboard_moves_one_color_by_the_other(color, float64):
    """Pixels of its color stay; the others become mean + std x of what the network makes of the pixels that stay."""
    net = perturb(CouplingNet(2, 4, 5))
    x = torch.randn(4, 2, 3, 5)
    stays = torch.tensor([[(i + j) % 2 == color for j in range(5)] for i in range(3)])
    z, logdet = Checkerboard(net, color)(x)
    mean, log_std = parameters_of(net, BOUND, torch.where(stays, x, 0))
    torch.testing.assert_close(z, torch.where(stays, x, mean + log_std.exp() * x))
    torch.testing.assert_close(logdet, torch.where(stays, 0, log_std).sum((1, 2, 3)))


@torch.no_grad()
def test_blind_hides_the_condition():
    """A conditioner that doesn't declare that it takes a condition never sees one, in either direction."""
    net, x = nn.Linear(2, 6), torch.randn(3, 5)
    flow = perturb(Coupling(net, 2))
    z, _ = flow(x, labels())
    assert torch.equal(z, flow(x)[0]) and torch.equal(flow.inverse(z, labels()), flow.inverse(z))
    net.conditional = True
    with pytest.raises(TypeError):
        Coupling(net, 2)(x, labels())


@pytest.mark.parametrize(
    "name", [name for name in TABLE if "classes" in name or name in ("blind", "flatten", "actnorm")]
)
@torch.no_grad()
def test_what_translates_only_moves(name, float64):
    """A flow that says so gives z - z' = x - x' under one condition, up to order, with log-determinant 0."""
    row = TABLE[name]
    flow, (x, cond) = row.flow(), row.data()
    z, logdet = flow(x, cond)
    same = torch.allclose(flow(x + 1, cond)[0] - z, torch.ones_like(z)) and not logdet.any()
    assert flow.translation == (name in ("flatten", "backwards, classes", "backwards, between classes")) == same


# PointMass


def test_point_mass_takes_no_noise():
    """z is the condition, whatever u, of which there is none; the log-determinant is 0 for each sample."""
    x, u = torch.randn(4, 3), torch.randn(4, *PointMass.noise_shape)
    z, logdet = PointMass()(u, x)
    assert u.numel() == 0 and torch.equal(z, x) and torch.equal(logdet, torch.zeros(4))
    assert torch.equal(PointMass().inverse(z, x), u)


# Dequantize


@pytest.mark.parametrize("bits", range(1, 9))
def test_dequantized_data_lie_in_their_bin(bits):
    """x / 2^bits <= z <= (x + 1) / 2^bits, whatever u; u = 0 is the middle."""
    flow = Dequantize(bits)
    x = torch.arange(2**bits, dtype=torch.float32).repeat(40)[:, None]
    z, _ = flow(torch.randn_like(x) * 3, x)
    assert (z >= x / 2**bits).all() and (z <= (x + 1) / 2**bits).all()
    assert torch.equal(flow(torch.zeros_like(x), x)[0], (x + 0.5) / 2**bits)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_dequantization_noise_is_uniform(bits, float64):
    """z 2^bits - x passes Kolmogorov and Smirnov's test for U(0, 1), at the 0.1 % level."""
    n = 20_000
    x = torch.randint(2**bits, (n, 1)).double()
    noise = (Dequantize(bits)(torch.randn(n, 1), x)[0] * 2**bits - x).flatten().sort().values
    steps = torch.arange(n + 1) / n
    statistic = torch.maximum((steps[1:] - noise).max(), (noise - steps[:-1]).max())
    assert statistic * math.sqrt(n) < 1.95


@pytest.mark.parametrize("bits", range(1, 9))
def test_dequantization_costs_the_volume_of_the_bin(bits, float64):
    """log N(u) - log |det| is D bits log 2 for every u."""
    u, x = torch.randn(6, 3, 2, 2), torch.randint(2**bits, (6, 3, 2, 2))
    log_u = torch.distributions.Normal(0, 1).log_prob(u).sum((1, 2, 3))
    cost = log_u - Dequantize(bits)(u, x)[1]
    torch.testing.assert_close(cost, torch.full((6,), 12 * bits * math.log(2)), rtol=1e-13, atol=0)


# ActNorm


@pytest.mark.parametrize("shape", [(3, 4, 5), (3,)], ids=["images", "vectors"])
def test_actnorm_fit_normalizes_and_floors(shape, float64):
    """After fit each channel has mean 0 and variance 1; a constant channel's std is 1e-3, not 0."""
    flow = perturb(ActNorm(shape))
    scale = torch.tensor([2.0, 0.0, 30.0]).reshape(3, *(1 for _ in shape[1:]))
    x = 5 + scale * torch.randn(64, *shape)
    flow.fit(x)
    z = flow(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.var(1, correction=0), torch.tensor([1.0, 0.0, 1.0]), rtol=0, atol=1e-10)
    assert flow.constant.log_std.flatten()[1].item() == pytest.approx(math.log(1e-3))


def test_a_column_that_is_constant_in_the_sample_keeps_its_scale():
    """A rare flag isn't blown up by a deviation of 0; a large offset costs no digits of the deviation."""
    flow = Standardize(2)
    flow.fit(torch.stack([torch.zeros(1000), 1e6 + torch.randn(1000)], 1))
    assert flow(torch.tensor([[1.0, 1e6]]))[0][0, 0] == 1.0
    assert flow.constant.log_std[0] == 0 and flow.constant.log_std[1].abs() < 0.1


@pytest.mark.parametrize("d", [2, 3, 5])
def test_realnvp_moves_every_column(d):
    """Whatever the shuffles, since every other mixing is a reversal: no value of the code is an affine map of x."""
    for seed in range(20):
        torch.manual_seed(seed)
        model = perturb(realnvp((d,), flow=RealNVP(depth=4, width=8)), 0.5)
        slope = torch.func.jacrev(lambda x, m=model: m.prior(x[None])[0][0])
        assert ((slope(torch.randn(d)) - slope(torch.randn(d))).abs().amax(1) > 1e-6).all()


def test_standardize_is_fitted_and_not_trained(float64):
    """After fit each column has mean 0 and deviation 1, however small its unit; it has no parameters."""
    flow = Standardize(3)
    x = 5 + torch.tensor([1e-12, 1.0, 1e12]) * torch.randn(64, 3)
    flow.fit(x)
    z, logdet = flow(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(logdet, -x.std(0, correction=0).log().sum().expand(64))
    assert not list(flow.parameters()) and len(flow.state_dict()) == 2


def deep() -> nn.Module:
    """Three levels of three steps, all of them perturbed."""
    return perturb(multiscale((1, 8, 8), 3, lambda shape: [f for _ in range(3) for f in step(shape)], leaving))


@torch.no_grad()
def test_initialize_normalizes_every_layer_in_one_pass(float64):
    """Each ActNorm's output on the batch is normalized, those after others that were set included."""
    flow, x = deep(), 3 * torch.randn(32, 1, 8, 8) + 7
    initialize(flow, x)
    outputs = []
    layers = [m for m in flow.modules() if isinstance(m, ActNorm)]
    for layer in layers:
        layer.register_forward_hook(lambda _, args, result: outputs.append(result[0]))
    flow(x)
    assert len(outputs) == len(layers) == 9
    for z in outputs:
        a = z.transpose(0, 1).flatten(1)
        torch.testing.assert_close(a.mean(1), torch.zeros(len(a)), rtol=0, atol=1e-9)
        torch.testing.assert_close(a.std(1, correction=0), torch.ones(len(a)), rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_fitted_model_is_left_alone():
    """Later batches, in training or not, never fit again; and initialize takes its hooks with it, also on failure."""
    model = glow((1, 4, 4), flow=Glow(**GLOW))
    with pytest.raises(RuntimeError):
        initialize(model, torch.randn(2, 3, 5, 5))
    initialize(model, torch.randint(256, (16, 1, 4, 4)).float())
    state = {name: a.clone() for name, a in model.state_dict().items()}
    other = torch.randint(20, (16, 1, 4, 4)).float()
    model.train()(other)
    model.eval()(other)
    model.decode(model.encode(other))
    model.sample(2)
    assert all(torch.equal(a, state[name]) for name, a in model.state_dict().items())


# InvertibleConv, Affine: numbers at the edge


def test_convolution_starts_as_a_rotation(float64):
    """W W^T = I at the start, another W for another seed, and the log-determinant 0."""
    w = InvertibleConv(6)(torch.eye(6))[0]
    torch.testing.assert_close(w @ w.T, torch.eye(6), rtol=0, atol=1e-12)
    assert not torch.allclose(w, InvertibleConv(6)(torch.eye(6))[0])
    assert InvertibleConv(6)(torch.eye(6))[1].abs().max() < 1e-12


@torch.no_grad()
def test_a_determinant_that_underflows_float32():
    """Of 48 channels and weights of size 0.1 det W is 0 in float32; the log-determinant is right."""
    flow = InvertibleConv(48)
    log_s = flow.lu.diagonal() + math.log(0.1)
    flow.lu.copy_(flow.lu.tril(-1) + 0.1 * flow.lu.triu(1) + log_s.diag())
    w = flow(torch.eye(48))[0].T
    assert torch.linalg.det(w) == 0
    expected = 6 * torch.linalg.slogdet(w.double()).logabsdet.float()
    x = torch.randn(2, 48, 2, 3)
    z, logdet = flow(x)
    torch.testing.assert_close(logdet, expected.expand(2), rtol=1e-5, atol=0)
    assert expected < 6 * -110
    torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=1e-4)


class Wild(nn.Module):
    """A network gone wild: ``value`` in every output."""

    def __init__(self, channels: int, value: float):
        super().__init__()
        self.channels, self.value = channels, value

    def forward(self, x):
        return torch.full((len(x), self.channels, *x.shape[2:]), self.value)


@pytest.mark.parametrize("value", [1e4, -1e4, 1e30, -1e30])
@pytest.mark.parametrize(
    "make",
    [
        lambda net: Coupling(net, 2),
        lambda net: FactorOut(Flatten((2, 2, 2)), net, (4, 2, 2)),
    ],
    ids=["coupling", "factor out"],
)
def test_wild_networks_stay_finite_in_both_directions(make, value):
    """Affine bounds log_std, so that outputs of 1e4 and more overflow neither forward nor inverse."""
    flow = make(Wild(4, value))
    x = torch.randn(3, 4, 2, 2)
    z, logdet = flow(x)
    assert z.isfinite().all() and flow.inverse(z).isfinite().all()
    torch.testing.assert_close(logdet.abs(), torch.full((3,), 3.0 * 8))


def test_the_bound_is_the_identity_for_small_logs(float64):
    """bound tanh(s / bound) is s for small s and never beyond the bound."""
    s = torch.linspace(-50, 50, 1001)[:, None]
    mean, log_std = parameters_of(nn.Identity(), Affine(bound=2.0), torch.cat([s, s], 1))
    assert torch.equal(mean, s)
    assert log_std.abs().max() <= 2
    near = s.abs() <= 0.05
    torch.testing.assert_close(log_std[near], s[near], rtol=1e-3, atol=0)


KINDS = {
    "split": MeanStd,
    "shared": lambda net: SharedStd(net, 0.3),
    "optimal": lambda net: OptimalStd(net, 0.3),
    "headed": lambda net: NetworkStd(net, nn.Linear(6, 6), 0.3),
    "normalized": lambda net: SharedStd(nn.Sequential(net, BatchNorm(6)), 0.3),
    "one-sided": lambda net: OneSidedBatchNorm(net, 3, 0.5),
    "two-sided": lambda net: TwoSidedBatchNorm(net, 3, 0.5),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@torch.no_grad()
def test_parameters_are_widened_at_the_hinge(kind):
    """What a network computes in bfloat16 leaves a conditioner in float32, before any exp or sum; float64 stays."""
    net, x = Net(4, 6), torch.randn(3, 4)
    conditioner = perturb(kind(net))
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        assert [a.dtype for a in (*conditioner(x), *parameters_of(net, Additive(), x))] == [torch.float32] * 3
    assert [a.dtype for a in conditioner.double()(x.double())] == [torch.float64] * 2
