"""Convolutions as products are torch's own: values and gradients, of every shape and memory, by whichever way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import perturb, spied
from plain import plain
from stepping import EDITS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap

from fvae.flows.fused import CouplingNet, network
from fvae.flows.fused.network import fold, products_are_faster, three_products, three_products_backward, unfold
from fvae.networks.conv import Conv2d

same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)

LAYOUTS: dict[str, Callable[[int, int, int, int], Tensor]] = {
    "channels first": torch.randn,
    "channels last": lambda b, c, h, w: torch.randn(b, h, w, c).permute(0, 3, 1, 2),
    "channels of more": lambda b, c, h, w: torch.randn(b, h, w, 2 * c + 1).permute(0, 3, 1, 2)[:, c : 2 * c],
    "columns first": lambda b, c, h, w: torch.randn(b, c, w, h).transpose(2, 3),
    "columns before channels": lambda b, c, h, w: torch.randn(b, w, c, h).permute(0, 2, 3, 1),
    "every second row": lambda b, c, h, w: torch.randn(b, c, 2 * h, w)[:, :, ::2],
    "repeated": lambda b, c, h, w: torch.randn(b, c, 1, 1).expand(b, c, h, w),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


# Neighbors and products


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (1, 1, 7, 2), (3, 6, 1, 1), (2, 1, 1, 4)])
def test_fold_is_the_adjoint_of_unfold(shape, float64):
    """<fold(a), b> = <a, unfold(b)>, however b lies in memory."""
    b, h, w, c = shape
    a = torch.randn(b, h, w, 9 * c)
    for layout in LAYOUTS.values():
        x = layout(b, c, h, w).permute(0, 2, 3, 1)
        torch.testing.assert_close((fold(a) * x).sum(), (a * unfold(x)).sum(), rtol=1e-12, atol=1e-12)


def test_unfold_takes_neighbors(float64):
    """Value 3 i + j of a position is the one i - 1 rows below and j - 1 columns to the right, 0 beyond the border."""
    x = torch.randn(2, 3, 4, 5)
    near = unfold(x).view(2, 3, 4, 3, 3, 5)
    assert torch.equal(near[:, :, :, 1, 1], x)
    assert torch.equal(near[:, 1:, :-1, 0, 2], x[:, :-1, 1:])
    assert not near[:, 0, :, 0].any() and not near[:, :, -1, :, 2].any()


@pytest.mark.parametrize("block", [1, 7, 20, 70, 1000], ids=lambda n: f"blocks of {n}")
def test_three_products_and_their_gradients(block, float64, monkeypatch):
    """Whatever rows a block has, one, all or some left over, they are the products and autograd's gradients."""
    monkeypatch.setattr(network, "BLOCK", block)
    shapes = [(13, 4), (4, 7), (7,), (7, 7), (7,), (7, 3)]
    u, first, a, middle, b, last = arguments = [torch.randn(shape, requires_grad=True) for shape in shapes]
    h1 = F.relu(u @ first + a)
    h2 = F.relu(h1 @ middle + b)
    p, dp = h2 @ last, torch.randn(13, 3)
    expected = list(torch.autograd.grad(p, arguments, dp))
    with torch.no_grad():
        same(three_products(*arguments), [h1, h2, p])
        same(three_products_backward(dp, u, h1, h2, first, middle, last), expected)


# Convolutions

CONVOLUTIONS = {  # c_in, c_out, size, height, width
    "1x1": (5, 7, 1, 4, 6),
    "1x1 of one position": (3, 4, 1, 1, 1),
    "1x1 of one channel": (1, 6, 1, 5, 2),
    "3x3": (3, 5, 3, 6, 3),
    "one position": (4, 3, 3, 1, 1),
    "a column": (2, 2, 3, 3, 1),
    "a row": (5, 4, 3, 1, 16),
    "widening": (2, 64, 3, 5, 6),
    "one channel": (1, 32, 3, 2, 4),
    "narrowing": (64, 2, 3, 5, 6),
}
every_convolution = pytest.mark.parametrize(
    ("c_in", "c_out", "size", "h", "w"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys()
)


@every_layout
@every_convolution
def test_a_convolution_is_torchs(c_in, c_out, size, h, w, layout, float64):
    """Value and gradients of x, weight and bias are those of nn.Conv2d, whatever x's memory; channels end innermost.

    A 1x1 convolution never goes to the library's.
    """
    x = layout(3, c_in, h, w).requires_grad_()
    for bias in (True, False):
        conv = Conv2d(c_in, c_out, size, bias=bias)
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            spied(patch, nn.Conv2d, "forward", seen)
            z = conv(x)
        expected = nn.Conv2d.forward(conv, x)
        assert z.shape == expected.shape and len(seen) == (size == 3)
        assert z.permute(0, 2, 3, 1).is_contiguous() or 1 in (c_in, h)  # whose order in memory can't be told
        of, towards = [x, *conv.parameters()], layout(*z.shape)
        assert len(of) == 2 + bias
        same(z, expected)
        same(torch.autograd.grad(z, of, towards), torch.autograd.grad(expected, of, towards))


@every_convolution
def test_a_convolution_under_transforms(c_in, c_out, size, h, w, float64):
    """torch.func's Jacobian, and its map over batches and over weights, are those of torch's convolution."""
    conv = Conv2d(c_in, c_out, size)
    x, few = torch.randn(2, 2, c_in, h, w), torch.randn(1, c_in, 1, w)
    torch.testing.assert_close(vmap(conv)(x), torch.stack([nn.Conv2d.forward(conv, a) for a in x]))
    weights = {name: torch.stack([p.detach(), -2 * p.detach()]) for name, p in conv.named_parameters()}
    found = vmap(lambda p, a: functional_call(conv, p, (a,)))(weights, x)
    for i, a in enumerate(x):
        z = F.conv2d(a, weights["weight"][i], weights["bias"][i], padding=size // 2)
        torch.testing.assert_close(found[i], z)
    found, expected = (jacrev(f)(few) for f in (conv, lambda a: nn.Conv2d.forward(conv, a)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("c_in", "c_out", "size", "h", "w"), [(2, 3, 1, 2, 1), (1, 2, 3, 2, 2)], ids=["1x1", "3x3"])
def test_second_derivatives_of_a_convolution(c_in, c_out, size, h, w, float64):
    """First and second derivatives in x, weight and bias are the finite differences."""
    conv = Conv2d(c_in, c_out, size)
    x = torch.randn(1, c_in, h, w, requires_grad=True)

    def f(x, weight, bias):
        return functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, *(p.detach().clone().requires_grad_() for p in conv.parameters()))
    assert gradcheck(f, inputs, fast_mode=True) and gradgradcheck(f, inputs, fast_mode=True)


@every_convolution
@torch.no_grad()
def test_a_convolution_under_autocast(c_in, c_out, size, h, w):
    """In bfloat16 autocast a convolution is bfloat16, to its rounding what it is in float32."""
    conv, x = Conv2d(c_in, c_out, size), torch.randn(2, c_in, h, w)
    with torch.autocast("cpu", torch.bfloat16):
        z = conv(x)
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z.float(), nn.Conv2d.forward(conv, x), rtol=0.02, atol=0.02)


def elsewhere(name: str, x: Tensor, patch: pytest.MonkeyPatch) -> Tensor:
    """x where convolutions have their own ways: on a GPU, or while a graph is compiled."""
    if name == "compiling":
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        return x
    with FakeTensorMode():
        return torch.empty(x.shape, device="cuda")


every_elsewhere = pytest.mark.parametrize("where", ["on a GPU", "compiling"])


@every_elsewhere
def test_a_convolution_elsewhere_takes_x_as_it_lies(where, monkeypatch):
    """On a GPU, and while a graph is compiled, a 3x3 convolution leaves the memory's order to others."""
    x, given = elsewhere(where, torch.randn(2, 3, 4, 5), monkeypatch), []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda conv, x: given.append(x) or x)
    Conv2d(3, 3, 3)(x)
    assert given[0] is x


# Coupling networks

NETWORKS = {  # c_in, c_out, width, batch, height, width; by hand with gradients, without: of blocks of 256 values
    "few values": (1, 2, 16, 3, 3, 3, True, False),
    "few, of one position": (3, 2, 24, 5, 1, 1, True, False),
    "few, in a row": (2, 1, 16, 2, 1, 7, True, False),
    "few, in a column": (1, 2, 16, 2, 7, 1, True, False),
    "many narrow rows": (1, 2, 40, 3, 5, 7, True, True),
    "many, in a column": (2, 1, 40, 9, 17, 1, True, True),
    "many, wider than a block": (1, 1, 300, 1, 2, 2, True, True),
    "by the library": (3, 3, 8, 2, 5, 5, False, False),
}
SHAPE = ("c_in", "c_out", "width", "b", "h", "w")
every_network = pytest.mark.parametrize(
    (*SHAPE, "training", "sampling"), [pytest.param(*row, id=name) for name, row in NETWORKS.items()]
)
every_way_by_hand = pytest.mark.parametrize(
    SHAPE, [pytest.param(*NETWORKS[name][:6], id=name) for name in ("few values", "many narrow rows")]
)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 256 values."""
    monkeypatch.setattr(network, "BLOCK", 2**8)


def runs(net: CouplingNet, near: Tensor) -> bool:
    """Whether a network of this input, channels last, would run by hand."""
    return products_are_faster(near, net.weight_1, net.weight_3)


def by_hand(call: Callable[[], Any]) -> tuple[Any, bool]:
    """What a call gives, and whether a network ran by hand in it."""
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        spied(patch, network, "three_products", seen)
        return call(), bool(seen)


@every_layout
@every_network
def test_a_coupling_network_is_its_three_convolutions(
    c_in, c_out, width, b, h, w, training, sampling, layout, float64, small_blocks
):
    """By either way value and gradients are those of torch's convolutions and ReLUs, whatever the memory of x."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), layout(b, c_in, h, w).requires_grad_()
    with plain(net):
        expected = net(x)
    z, went = by_hand(lambda: net(x))
    assert went == training
    same(z, expected)
    with torch.no_grad():
        found, went = by_hand(lambda: net(x))
    assert went == sampling
    same(found, expected)
    of, towards = [x, *net.parameters()], layout(*z.shape)
    same(torch.autograd.grad(z, of, towards), torch.autograd.grad(expected, of, towards))


@every_way_by_hand
def test_what_is_frozen_has_no_gradient(c_in, c_out, width, b, h, w, float64, small_blocks):
    """Whichever parameter is frozen, or x, the others have their gradients."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), torch.randn(b, c_in, h, w, requires_grad=True)
    names, towards = {"x": x, **dict(net.named_parameters())}, torch.randn(b, c_out, h, w)
    with plain(net):
        gradients = dict(zip(names, torch.autograd.grad(net(x), list(names.values()), towards), strict=True))
    for frozen in names:
        for name, a in names.items():
            a.requires_grad_(name != frozen)
            a.grad = None
        net(x).backward(towards)
        assert names[frozen].grad is None
        for name in names.keys() - {frozen}:
            same(names[name].grad, gradients[name])


CHOICES = {  # c_in, c_out, width, batch, height, width; by hand with gradients, without: of blocks of 100 values
    "4 blocks, 20 times wider": (1, 1, 20, 2, 2, 5, True, True),
    "of several channels": (2, 2, 40, 2, 5, 1, True, True),
    "under 20 times wider": (1, 1, 19, 2, 3, 4, False, False),
    "than what enters": (2, 1, 39, 1, 3, 4, False, False),
    "than what leaves": (1, 2, 39, 1, 3, 4, False, False),
    "under 4 blocks": (1, 1, 20, 1, 19, 1, False, False),
    "2 blocks": (1, 1, 20, 1, 2, 5, False, False),
    "under 2 blocks": (1, 1, 20, 1, 3, 3, True, False),
    "under 2 blocks, 8 times wider": (1, 1, 8, 2, 3, 4, True, False),
    "2 blocks, 8 times wider": (1, 1, 8, 1, 5, 5, False, False),
    "under 8 times wider": (1, 1, 7, 1, 1, 3, False, False),
    "8 times wider than what enters alone": (1, 2, 15, 1, 1, 3, False, False),
    "8 times wider than what leaves alone": (2, 1, 15, 1, 1, 3, False, False),
}


@pytest.mark.parametrize(
    (*SHAPE, "training", "sampling"), [pytest.param(*row, id=name) for name, row in CHOICES.items()]
)
def test_the_choice_of_a_way(c_in, c_out, width, b, h, w, training, sampling, monkeypatch):
    """By hand from 4 blocks of values and 20 times the channels; below 2 blocks, in training alone, from 8 times."""
    monkeypatch.setattr(network, "BLOCK", 100)
    net, near = CouplingNet(c_in, c_out, width), torch.randn(b, h, w, c_in)
    assert runs(net, near) == training
    with torch.no_grad():
        assert runs(net, near) == sampling


def test_the_choice_at_full_size():
    """Of a glow's first level of 32 x 32 images of 3 channels, batches of 8 run by hand, and of 2 in training alone."""
    net = CouplingNet(6, 12, 256)
    nears = [torch.empty(b, 16, 16, 6) for b in (2, 4, 8)]
    assert [runs(net, near) for near in nears] == [True, False, True]
    with torch.no_grad():
        assert [runs(net, near) for near in nears] == [False, False, True]


@every_elsewhere
@every_way_by_hand
def test_elsewhere_networks_run_layer_by_layer(c_in, c_out, width, b, h, w, where, small_blocks, monkeypatch):
    """On a GPU, and while a graph is compiled, nothing runs by hand."""
    net, near = CouplingNet(c_in, c_out, width), torch.randn(b, h, w, c_in)
    assert runs(net, near) and not runs(net, elsewhere(where, near, monkeypatch))


@every_way_by_hand
def test_a_network_under_autocast(c_in, c_out, width, b, h, w, small_blocks):
    """In bfloat16 autocast its layers are bfloat16, to their rounding what they are in float32."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), torch.randn(b, c_in, h, w)
    with torch.autocast("cpu", torch.bfloat16):
        z, went = by_hand(lambda: net(x))
    assert not went and z.dtype == torch.bfloat16
    torch.testing.assert_close(z.float(), net(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@every_way_by_hand
def test_a_network_that_was_changed(c_in, c_out, width, b, h, w, edit, float64, small_blocks):
    """Someone's own subclass, parametrizations and hooks count, in value and gradients."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), torch.randn(b, c_in, h, w, requires_grad=True)
    towards = torch.randn(b, c_out, h, w)

    def run() -> list[Tensor]:
        z = net(x)
        return [z, *torch.autograd.grad(z, [x, *net.parameters()], towards)]

    edit(net)
    found, went = by_hand(run)
    assert went
    with plain(net):
        same(found, run())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@every_way_by_hand
def test_transforms_of_a_network(c_in, c_out, width, b, h, w, float64, small_blocks):
    """torch.func's derivatives in x and in parameters, per sample and second ones, are autograd's by hand or plain."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), torch.randn(b, c_in, h, w)
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def loss(p: dict[str, Tensor], a: Tensor) -> Tensor:
        return functional_call(net, p, (a,)).sin().sum()

    jacobian, went = by_hand(lambda: torch.autograd.functional.jacobian(net, x))
    assert went
    for transform in (jacrev, jacfwd):
        found, went = by_hand(lambda transform=transform: transform(net)(x))
        assert not went
        same(found, jacobian)
    samples = vmap(grad(loss), (None, 0))(weights, x[:, None])
    for i, a in enumerate(x):
        expected = torch.autograd.grad(loss(dict(net.named_parameters()), a[None]), list(net.parameters()))
        same([samples[name][i] for name in weights], list(expected))
    with plain(net):
        expected = torch.autograd.functional.hessian(lambda a: loss(weights, a), x)
    same(hessian(lambda a: loss(weights, a))(x), expected)


@every_way_by_hand
def test_second_derivatives_of_a_network_are_refused(c_in, c_out, width, b, h, w, small_blocks):
    """Outside of torch.func blocks of rows have no second derivative: asking for it raises."""
    net, x = perturb(CouplingNet(c_in, c_out, width)), torch.randn(b, c_in, h, w, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
