"""Glow's steps, together: what K steps compute one after the other, in fewer and larger operations.

A step's actnorm and mixing are one affine map of the channels, y = W_k x + b_k. The K maps of a level are assembled at
once; their log-determinants don't depend on x and are one number; the couplings' log-scales are added up element by
element and reduced once. Channels are innermost in memory, so that a map is one matrix product.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.atoms import total
from fvae.flows.affine import ActNorm
from fvae.flows.base import Chain, Flow
from fvae.flows.coupling import Coupling
from fvae.flows.linear import InvertibleConv, inverse_product, product
from fvae.flows.reshape import Permute
from fvae.params import without_autocast


class Given(NamedTuple):
    """What K actnorms and mixings consist of, stacked."""

    mean: Tensor  # (K, C)
    log_std: Tensor  # (K, C)
    order: Tensor  # (K, C)
    lu: Any  # (K, C, C); None: the mixings are permutations
    signs: Any  # (K, C), or None


class Maps(NamedTuple):
    """K maps of the channels, y = W_k x + b_k; with ``orders``, W_k is a permutation and then a scale by channel."""

    weights: tuple[Tensor, ...]  # (C, C), or (C,) with orders
    shifts: tuple[Tensor, ...]  # (C,)
    orders: tuple[Tensor, ...] | None  # (C,)

    def apply(self, k: int, x: Tensor) -> Tensor:
        """(B, *, C) to itself, in float32 or wider also under autocast."""
        if self.orders is not None:
            return torch.addcmul(self.shifts[k], x.index_select(-1, self.orders[k]), self.weights[k])
        with without_autocast(x):
            return F.linear(x.reshape(-1, x.shape[-1]), self.weights[k], self.shifts[k]).view(x.shape)


def assemble(given: Given) -> tuple[Maps, Tensor]:
    """The maps W diag(1/std) (x - mean), and their log-determinants at one place, all added."""
    mean, log_std, order, lu, signs = given
    if lu is None:
        scale = torch.exp(-log_std).gather(1, order)
        return Maps(scale.unbind(), (-mean.gather(1, order) * scale).unbind(), order.unbind()), -log_std.sum()
    with without_autocast(lu):
        w = product(lu, signs, order) * torch.exp(-log_std)[:, None]
        shifts = -(w @ mean[:, :, None])[:, :, 0]
    return Maps(w.unbind(), shifts.unbind(), None), lu.diagonal(dim1=1, dim2=2).sum() - log_std.sum()


def invert(given: Given) -> Maps:
    """The maps mean + diag(std) W^-1 y."""
    mean, log_std, order, lu, signs = given
    if lu is None:
        return Maps(torch.exp(log_std).unbind(), mean.unbind(), order.argsort(1).unbind())
    with without_autocast(lu):
        w = torch.exp(log_std)[:, :, None] * inverse_product(lu, signs, order)
    return Maps(w.unbind(), mean.unbind(), None)


class Steps(Chain):
    """``Chain(actnorm, mixing, coupling, actnorm, ...)``: the same function of the same flows, computed faster.

    Shapes: (B, C, *) to itself. The mixings are all ``InvertibleConv`` or all ``Permute``.

    With ``reversible`` training keeps a level's output alone, and backpropagation recomputes each step's input by the
    inverse: one more pass through the networks, and memory that doesn't grow with K (Gomez et al., 2017).

    Raises ``ValueError`` for flows of another pattern.
    """

    def __init__(self, *flows: Flow):
        super().__init__(*flows)
        kinds = [type(flow) for flow in flows]
        if not flows or not any(kinds == [ActNorm, m, Coupling] * (len(flows) // 3) for m in (InvertibleConv, Permute)):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"Steps takes ActNorm, InvertibleConv or Permute, Coupling, again and again; found {names}"
            )
        self.together, self.reversible = True, False
        self.known: dict[Callable, tuple[Given, Any]] = {}

    @property
    def couplings(self) -> list[Coupling]:
        return list(self.flows[2::3])

    def given(self) -> Given:
        norms, mixings = self.flows[0::3], self.flows[1::3]
        mean = torch.stack([norm.params.mean for norm in norms]).flatten(1)
        log_std = torch.stack([norm.params.log_std for norm in norms]).flatten(1)
        order = torch.stack([mixing.order for mixing in mixings])
        if isinstance(mixings[0], Permute):
            return Given(mean, log_std, order, None, None)
        lu, signs = (torch.stack([getattr(m, name) for m in mixings]) for name in ("lu", "signs"))
        return Given(mean, log_std, order, lu, signs)

    def made(self, make: Callable) -> Any:
        """``make(given)``; without gradients, what was made before is kept until a parameter has another value.

        The comparison reads the parameters once, which costs little beside one product, and no way of changing them
        goes unnoticed.
        """
        given = self.given()
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make(given)
        if make not in self.known or not all(map(same, self.known[make][0], given)):
            self.known[make] = given, make(given)
        return self.known[make][1]

    def forward(self, x, cond=None):
        if not self.together:
            return super().forward(x, cond)
        maps, logdet = self.made(assemble)
        along = along_reversible if self.reversible and torch.is_grad_enabled() else along_steps
        z, scale = along(self, maps, x.movedim(1, -1), cond)
        return z.movedim(-1, 1), scale + logdet * x[0, 0].numel()

    def inverse(self, z, cond=None):
        if not self.together:
            return super().inverse(z, cond)
        maps = self.made(invert)
        h = z.movedim(1, -1)
        for k, coupling in reversed(list(enumerate(self.couplings))):
            h1, h2 = halves(coupling, h)
            mean, log_std = params(coupling, h1, cond)
            h = maps.apply(k, torch.cat([h1, (h2 - mean) * torch.exp(-log_std)], -1))
        return h.movedim(-1, 1)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def halves(coupling: Coupling, h: Tensor) -> tuple[Tensor, Tensor]:
    """What sets the shift and scale, and what is shifted and scaled, channels last."""
    h1, h2 = h.split([coupling.keep, h.shape[-1] - coupling.keep], -1)
    return h1, h2


def params(coupling: Coupling, h1: Tensor, cond: Any) -> list[Tensor]:
    """The coupling's mean and log_std, channels last."""
    return [a.movedim(1, -1) if a.dim() else a for a in coupling.params(h1.movedim(-1, 1), cond)]


def along_steps(steps: Steps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """Through the K steps, channels last: (B, *, C) to itself, and the couplings' log-determinants (B,)."""
    scales: Any = 0.0
    for k, coupling in enumerate(steps.couplings):
        h1, h2 = halves(coupling, maps.apply(k, h))
        mean, log_std = params(coupling, h1, cond)
        h = torch.cat([h1, torch.addcmul(mean, h2, torch.exp(log_std))], -1)
        scales = scales + log_std
    return h, total(scales.expand_as(h2))


def along_reversible(steps: Steps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """``along_steps``, with the steps' activations recomputed in backpropagation."""
    weights = [p for coupling in steps.couplings for p in coupling.parameters()]
    return Recomputed.apply(steps, maps.orders, cond, h, *maps.weights, *maps.shifts, *weights)


class Recomputed(torch.autograd.Function):
    """``along_steps`` that keeps its output and recomputes its inputs from it, step by step, last to first.

    Every parameter is an input, so that gradients go the way that hooks on parameters (several devices) expect. Drift
    begins anew at each level, whose output is kept.
    """

    @staticmethod
    def forward(ctx, steps, orders, cond, h, *tensors):
        n = len(steps.couplings)
        maps = Maps(tensors[:n], tensors[n : 2 * n], orders)
        z, scale = along_steps(steps, maps, h, cond)
        kind = h.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.steps, ctx.orders = steps, orders
        ctx.save_for_backward(z, cond, *tensors)
        return z, scale

    @staticmethod
    def backward(ctx, dz, dscale):
        z, cond, *tensors = ctx.saved_tensors
        n = len(ctx.steps.couplings)
        weights, networks = tensors[:n], tensors[2 * n :]
        back = ctx.steps.made(invert)
        dweights, dshifts = [], []
        dnetworks: list[Tensor | None] = []
        dcond = None
        dscale = dscale.view(-1, *(1 for _ in z.shape[1:]))
        kind, dtype, enabled = ctx.autocast
        for k, coupling in reversed(list(enumerate(ctx.steps.couplings))):
            # the coupling: z2 = mean + std y2, with its network run again
            z1, z2 = halves(coupling, z)
            dz1, dz2 = halves(coupling, dz)
            own = [p for p in coupling.parameters() if p.requires_grad]
            with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
                z1 = z1.detach().requires_grad_()
                given = None if cond is None else cond.detach().requires_grad_()
                mean, log_std = params(coupling, z1, given)
            moved = z2 - mean.detach()
            std = torch.exp(log_std.detach())
            y = torch.cat([z1.detach(), moved / std], -1)
            outs = [(mean, dz2), (log_std, dz2 * moved + dscale)]
            outs = [(out, grad.sum_to_size(out.shape)) for out, grad in outs if out.requires_grad]
            ins = [z1, *own] + ([] if given is None else [given])
            grads = torch.autograd.grad([o for o, _ in outs], ins, [g for _, g in outs], allow_unused=True)
            dnetworks[:0] = grads[1 : 1 + len(own)]
            if given is not None and grads[-1] is not None:
                dcond = grads[-1] if dcond is None else dcond + grads[-1]
            dy = torch.cat([dz1 if grads[0] is None else dz1 + grads[0], dz2 * std], -1)
            # the map: y = W x + b
            z = back.apply(k, y)
            flat, rest = dy.flatten(0, -2), z.flatten(0, -2)
            dshifts.append(flat.sum(0))
            if ctx.orders is None:
                dweights.append(flat.T @ rest)
                dz = (flat @ weights[k]).view(dy.shape)
            else:
                dweights.append((flat * rest.index_select(-1, ctx.orders[k])).sum(0))
                dz = (dy * weights[k]).index_select(-1, back.orders[k])
        found = iter(dnetworks)
        dnetworks = [next(found) if p.requires_grad else None for p in networks]
        return None, None, dcond, dz, *dweights[::-1], *dshifts[::-1], *dnetworks


def all_steps(model: nn.Module) -> list[Steps]:
    return [m for m in model.modules() if isinstance(m, Steps)]


def set_reversible(model: nn.Module, reversible: bool = True) -> None:
    """Have every ``Steps`` of the model recompute its activations in backpropagation, or keep them."""
    for steps in all_steps(model):
        steps.reversible = reversible


@contextmanager
def one_by_one(model: nn.Module) -> Iterator[None]:
    """Every ``Steps`` runs its flows one after the other, as they define themselves, until the block ends."""
    found = all_steps(model)
    before = [steps.together for steps in found]
    try:
        for steps in found:
            steps.together = False
        yield
    finally:
        for steps, together in zip(found, before, strict=True):
            steps.together = together
