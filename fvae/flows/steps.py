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
from torch.autograd.function import once_differentiable

from fvae.atoms import total
from fvae.flows.affine import ActNorm
from fvae.flows.base import Chain, Flow
from fvae.flows.coupling import Coupling
from fvae.flows.linear import InvertibleConv, inverse_product, product
from fvae.flows.reshape import Permute
from fvae.params import Explicit, without_autocast


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

    def own(self) -> bool:
        """Whether it runs on its own parameters, and not on what torch.func has put in their places."""
        norms, mixings = self.flows[0::3], self.flows[1::3]
        places = [getattr(n.params, name) for n in norms if n.on for name in ("mean", "log_std")]
        return all(isinstance(p, nn.Parameter) for p in places + [m.lu for m in mixings if hasattr(m, "lu")])

    def made(self, make: Callable) -> Any:
        """``make(given)``; without gradients, what was made before is kept until a parameter has another value.

        The comparison reads the parameters once, which costs little beside one product, and no way of changing them
        goes unnoticed.
        """
        given = self.given()
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not self.own():
            return make(given)
        if make not in self.known or not all(map(same, self.known[make][0], given)):
            self.known[make] = given, make(given)
        return self.known[make][1]

    def forward(self, x, cond=None):
        if not self.together:
            return super().forward(x, cond)
        maps, logdet = self.made(assemble)
        h = x.movedim(1, -1)
        z, scale = way(self, h, cond)(self, maps, h, cond)
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
    found = coupling.params(h1.movedim(-1, 1), cond)
    return [a[(None,) * (h1.dim() - a.dim())].movedim(1, -1) for a in found]  # they need only broadcast


def along_steps(steps: Steps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """Through the K steps, channels last: (B, *, C) to itself, and the couplings' log-determinants (B,)."""
    scales: Any = 0.0
    for k, coupling in enumerate(steps.couplings):
        h1, h2 = halves(coupling, maps.apply(k, h))
        mean, log_std = params(coupling, h1, cond)
        h = torch.cat([h1, torch.addcmul(mean, h2, torch.exp(log_std))], -1)
        scales = scales + log_std
    return h, total(scales.expand_as(h2))


def way(steps: Steps, h: Tensor, cond: Any) -> Callable:
    """By hand where gradients are wanted and every coupling can, or where activations are recomputed."""
    if not torch.is_grad_enabled():
        return along_steps
    if steps.reversible and (cond is None or isinstance(cond, Tensor)):
        return along_reversible
    by_hand = cond is None and all(explicit(coupling, h) for coupling in steps.couplings)
    return along_kept if by_hand else along_steps


def explicit(coupling: Coupling, h: Tensor) -> bool:
    return isinstance(coupling.params, Explicit) and coupling.params.runs(h[..., : coupling.keep])


def along_kept(steps: Steps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """``along_steps``, with its gradient by hand: a level is one node for autograd, not K times fifty."""
    weights = [p for coupling in steps.couplings for p in coupling.parameters()]
    return Kept.apply(steps, maps.orders, h, *maps.weights, *maps.shifts, *weights)


class Kept(torch.autograd.Function):
    """``along_steps`` and its gradient, for couplings that have theirs by hand."""

    @staticmethod
    def forward(ctx, steps, orders, h, *tensors):
        n = len(steps.couplings)
        maps = Maps(tensors[:n], tensors[n : 2 * n], orders)
        scales: Any = 0.0
        kept: list[Tensor] = []
        ctx.counts = []
        for k, coupling in enumerate(steps.couplings):
            y1, y2 = halves(coupling, maps.apply(k, h))
            mean, log_std, saved = coupling.params.run(y1)
            std = torch.exp(log_std)
            kept += [h, y2, std, *saved]
            ctx.counts.append(len(saved) + 3)
            h = torch.cat([y1, torch.addcmul(mean, y2, std)], -1)
            scales = scales + log_std
        ctx.steps, ctx.orders = steps, orders
        ctx.save_for_backward(*tensors[:n], *kept)
        return h, total(scales.expand_as(y2))

    @staticmethod
    @once_differentiable
    def backward(ctx, dz, dscale):
        couplings = ctx.steps.couplings
        n = len(couplings)
        kept = list(ctx.saved_tensors)
        weights, kept = kept[:n], kept[n:]
        dweights, dshifts = [], []
        dnetworks: list[Tensor | None] = []
        dscale = dscale.view(-1, *(1 for _ in dz.shape[1:]))
        for k in reversed(range(n)):
            x, y2, std, *saved = kept[len(kept) - ctx.counts[k] :]
            del kept[len(kept) - ctx.counts[k] :]
            dz1, dz2 = halves(couplings[k], dz)
            dy2 = dz2 * std
            dy1, gradients = couplings[k].params.pull(dz2, torch.addcmul(dscale, dy2, y2), saved)
            dnetworks[:0] = gradients
            dy = torch.cat([dz1 + dy1, dy2], -1)
            dz, dweight, dshift = map_backward(dy, x, weights[k], None if ctx.orders is None else ctx.orders[k])
            dweights.append(dweight)
            dshifts.append(dshift)
        return None, None, dz, *dweights[::-1], *dshifts[::-1], *dnetworks


def map_backward(dy: Tensor, x: Tensor, weight: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a map's input, weight and shift."""
    flat, rest = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    if order is None:
        return (flat @ weight).view(dy.shape), flat.T @ rest, flat.sum(0)
    dweight = (flat * rest.index_select(-1, order)).sum(0)
    return (dy * weight).index_select(-1, order.argsort()), dweight, flat.sum(0)


class Tape:
    """Where backpropagation is in a level: the output of the step that comes next, and the way back of all."""

    z: Tensor
    back: Maps


def along_reversible(steps: Steps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """``along_steps``, with the steps' activations recomputed in backpropagation.

    A node a step, so that each one's gradients reach the parameters, and their memory is free again, before the next
    one's are computed.
    """
    tape, scale = Tape(), torch.zeros(())
    for k, coupling in enumerate(steps.couplings):
        order = None if maps.orders is None else maps.orders[k]
        h, change = Recomputed.apply(
            steps, k, tape, cond, h, maps.weights[k], maps.shifts[k], order, *coupling.parameters()
        )
        scale = change if k == 0 else scale + change
    return h, scale


class Recomputed(torch.autograd.Function):
    """One of ``Steps``, which computes its input again from its output, and hands it on to the step before.

    Only the last step's output is kept: drift begins anew at each level.
    """

    @staticmethod
    def forward(ctx, steps, k, tape, cond, h, weight, shift, order, *parameters):
        coupling = steps.couplings[k]
        maps = Maps((weight,), (shift,), None if order is None else (order,))
        h1, h2 = halves(coupling, maps.apply(0, h))
        mean, log_std = params(coupling, h1, cond)
        z = torch.cat([h1, torch.addcmul(mean, h2, torch.exp(log_std))], -1)
        kind = h.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.steps, ctx.k, ctx.tape = steps, k, tape
        last = k == len(steps.couplings) - 1
        # parameters are kept so that a change of one before backpropagation is noticed
        maps_of = [p for flow in steps.flows for p in flow.parameters()] if last else parameters
        ctx.save_for_backward(z if last else None, cond, weight, order, *maps_of)
        return z, total(log_std.expand_as(h2))

    @staticmethod
    @once_differentiable
    def backward(ctx, dz, dscale):
        z, cond, weight, order, *_ = ctx.saved_tensors
        if z is not None:
            ctx.tape.z, ctx.tape.back = z, ctx.steps.made(invert)
        z, coupling = ctx.tape.z, ctx.steps.couplings[ctx.k]
        kind, dtype, enabled = ctx.autocast
        z1, z2 = halves(coupling, z)
        dz1, dz2 = halves(coupling, dz)
        with torch.autocast(kind, dtype=dtype, enabled=enabled):
            mean, log_std, pull = again(coupling, z1, cond)
        moved, std = z2 - mean, torch.exp(log_std)
        x = ctx.tape.back.apply(ctx.k, torch.cat([z1, moved / std], -1))
        dscale = dscale.view(-1, *(1 for _ in z.shape[1:]))
        dz1_more, gradients, dcond = pull(dz2, dz2 * moved + dscale)
        dy = torch.cat([dz1 + dz1_more, dz2 * std], -1)
        dx, dweight, dshift = map_backward(dy, x, weight, order)
        ctx.tape.z = x
        return None, None, None, dcond, dx, dweight, dshift, None, *gradients


def again(coupling: Coupling, h1: Tensor, cond: Any) -> tuple[Tensor, Tensor, Callable]:
    """The coupling's mean and log_std, and their pull: to the gradients of h1, of each parameter and of cond."""
    by_hand: Any = coupling.params
    if cond is None and explicit(coupling, h1):
        mean, log_std, saved = by_hand.run(h1)
        return mean, log_std, lambda dmean, dlog_std: (*by_hand.pull(dmean, dlog_std, saved), None)
    own = list(coupling.parameters())
    with torch.enable_grad():
        h1 = h1.detach().requires_grad_()
        given = None if cond is None else cond.detach().requires_grad_(cond.requires_grad)
        outs = params(coupling, h1, given)

    def pull(*gradients: Tensor) -> tuple[Any, list, Any]:
        ins = [a for a in (h1, *own, given) if a is not None and a.requires_grad]
        pairs = [(out, d.sum_to_size(out.shape)) for out, d in zip(outs, gradients, strict=True) if out.requires_grad]
        found = torch.autograd.grad([o for o, _ in pairs], ins, [d for _, d in pairs], allow_unused=True)
        by_input = {id(a): d for a, d in zip(ins, found, strict=True)}
        dh1 = by_input[id(h1)]
        return 0.0 if dh1 is None else dh1, [by_input.get(id(p)) for p in own], by_input.get(id(given))

    return outs[0].detach(), outs[1].detach(), pull


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
