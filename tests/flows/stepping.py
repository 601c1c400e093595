"""Glow's steps, models made of them, and their gradients: what the tests of fused steps share."""

from collections.abc import Callable

import torch
from conftest import perturb
from plain import plain
from torch import Tensor, nn

from fvae.density import log_normal
from fvae.flows import ActNorm, Coupling, InvertibleConv
from fvae.flows.fused import CouplingNet, FusedSteps, set_reversible
from fvae.model import LatentModel
from fvae.recipes import RECIPES, Glow, Squeezing
from fvae.transforms import Affine, Transform

SMALL = {"glow": {}, "f_vae": {"coder": Squeezing(hidden=8)}}

Run = Callable[[], dict[str, Tensor]]


def together(
    k: int,
    shape: tuple[int, ...],
    conditioner: Callable[[int, int], nn.Module] | None = None,
    mixing: Callable[[int], nn.Module] = InvertibleConv,
    transform: Transform | None = None,
) -> FusedSteps:
    """k perturbed steps; ``conditioner(keep, moved)`` is a coupling's."""
    c = shape[0]
    keep, moved = c // 2, c - c // 2
    make = conditioner or (lambda keep, moved: CouplingNet(keep, 2 * moved, 16))
    transform = transform or Affine(bound=3.0)
    steps = ((ActNorm(shape), mixing(c), Coupling(make(keep, moved), keep, transform)) for _ in range(k))
    return perturb(FusedSteps(*(f for step in steps for f in step)))


def made(
    name: str, coupling: str = "affine", mixing: str = "conv", shape=(1, 8, 12), n: int = 5, depth: int = 2
) -> tuple[LatentModel, Tensor, Tensor]:
    """A perturbed model, n images and noise."""
    flow = Glow(levels=2, depth=depth, width=32, coupling=coupling, mixing=mixing)
    model = perturb(RECIPES[name](shape, **SMALL[name], flow=flow), 0.1)
    x = torch.randint(256, (n, *shape)).to(torch.get_default_dtype())
    return model, x, model.noise(n)


def density(flow: nn.Module, x: Tensor, cond=None) -> Tensor:
    """-log q(x), added over the batch: what training takes the gradient of."""
    z, log_det = flow(x, cond)
    return -(log_normal(z) + log_det).sum()


def gradients(model: nn.Module, loss: Tensor, inputs: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
    """The gradient of each parameter that is trained, and of the inputs, by name."""
    names = {**{f"input {i}": a for i, a in enumerate(inputs)}, **dict(model.named_parameters())}
    names = {name: p for name, p in names.items() if p.requires_grad}
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference, in norm, of tensors of the same names."""
    assert found.keys() == expected.keys()
    return max(((found[n] - expected[n]).norm() / expected[n].norm()).item() for n in expected)


def kept_and_recomputed(model: nn.Module, run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What ``run`` gives with activations kept, and with activations recomputed."""
    results = []
    for reversible in (False, True):
        set_reversible(model, reversible)
        results.append(run())
    return results[0], results[1]


def check_gradients(model: nn.Module, run: Run) -> None:
    """What ``run`` gives, activations kept or recomputed, is what it gives of the plain implementation."""
    with plain(model):
        expected = run()
    for found in kept_and_recomputed(model, run):
        assert difference(found, expected) < 1e-10


class HalfAsMuch(CouplingNet):
    """A network of someone's own."""

    def forward(self, x):
        return super().forward(x) / 2


EDITS: dict[str, Callable[[CouplingNet], object]] = {  # what someone may do to a coupling's network
    "another class": lambda net: setattr(net, "__class__", HalfAsMuch),
    "weight norm": lambda net: [nn.utils.parametrizations.weight_norm(net, f"weight_{i}") for i in (1, 2, 3)],
    "a hook before": lambda net: net.register_forward_pre_hook(lambda net, args: (args[0].sin(),)),
    "a hook after": lambda net: net.register_forward_hook(lambda net, args, z: z.sin()),
    "a hook on gradients": lambda net: net.register_full_backward_hook(lambda net, din, dout: (2 * din[0],)),
    "a hook before gradients": lambda net: net.register_full_backward_pre_hook(lambda net, dz: (2 * dz[0],)),
}
