"""Glow's steps, fused: what K steps compute one after the other, in fewer and larger operations.

A step's actnorm and mixing are one affine map of the channels, y = W_k x + b_k. The K maps of a level are assembled at
once; their log-determinants don't depend on x and are one number; the couplings' log-derivatives are added up element
by element and reduced once. Channels are innermost in memory, so that a map is one matrix product.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fvae.density import total
from fvae.flows.base import Chain, Flow
from fvae.flows.coupling import Coupling
from fvae.flows.elementwise import ActNorm
from fvae.flows.linear import InvertibleConv, inverse_product, product
from fvae.flows.reshape import Permute
from fvae.precision import without_autocast


def fuse(flows: list[Flow]) -> list[Flow]:
    """One ``FusedSteps`` in place of flows that are actnorm, mixing, coupling, K times; others as they are."""
    return [FusedSteps(*flows)] if fusable(flows) else flows


def fusable(flows: tuple[Flow, ...] | list[Flow]) -> bool:
    """Whether these are exactly the pattern: a subclass of a layer may compute something else."""
    kinds = [type(flow) for flow in flows]
    return bool(flows) and any(kinds == [ActNorm, m, Coupling] * (len(flows) // 3) for m in (InvertibleConv, Permute))


class Layers(NamedTuple):
    """The parameters of K actnorms and mixings, stacked."""

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


def assemble(layers: Layers) -> tuple[Maps, Tensor]:
    """The maps W diag(1/std) (x - mean), and their log-determinants at one position, all added."""
    mean, log_std, order, lu, signs = layers
    if lu is None:
        scale = torch.exp(-log_std).gather(1, order)
        return Maps(scale.unbind(), (-mean.gather(1, order) * scale).unbind(), order.unbind()), -log_std.sum()
    with without_autocast(lu):
        w = product(lu, signs, order) * torch.exp(-log_std)[:, None]
        shifts = -(w @ mean[:, :, None])[:, :, 0]
    return Maps(w.unbind(), shifts.unbind(), None), lu.diagonal(dim1=1, dim2=2).sum() - log_std.sum()


def invert(layers: Layers) -> tuple[Maps, Tensor]:
    """The maps mean + diag(std) W^-1 y, and their log-determinants at one position, all added."""
    mean, log_std, order, lu, signs = layers
    if lu is None:
        return Maps(torch.exp(log_std).unbind(), mean.unbind(), order.argsort(1).unbind()), log_std.sum()
    with without_autocast(lu):
        w = torch.exp(log_std)[:, :, None] * inverse_product(lu, signs, order)
    return Maps(w.unbind(), mean.unbind(), None), log_std.sum() - lu.diagonal(dim1=1, dim2=2).sum()


class FusedSteps(Chain):
    """``Chain(actnorm, mixing, coupling, actnorm, ...)``: the same function of the same flows, computed faster.

    Shapes: (B, C, *) to itself. The mixings are all ``InvertibleConv`` or all ``Permute``.

    With ``reversible`` training keeps a level's output alone, and backpropagation recomputes each step's input by the
    inverse: one more pass through the networks, and memory that doesn't grow with K (Gomez et al., 2017).

    Raises ``ValueError`` for flows of another pattern.
    """

    def __init__(self, *flows: Flow):
        super().__init__(*flows)
        if not fusable(flows):
            names = ", ".join(type(flow).__name__ for flow in flows)
            raise ValueError(
                f"flows: expected ActNorm, InvertibleConv or Permute, Coupling, repeated; found {names or 'none'}"
            )
        self.enabled, self.reversible = True, False
        self.cache: dict[Callable, tuple[Layers, Any]] = {}

    @property
    def couplings(self) -> list[Coupling]:
        return list(self.flows[2::3])

    def layers(self) -> Layers:
        constants, mixings = [norm.constant for norm in self.flows[0::3]], self.flows[1::3]
        mean = torch.stack([c.mean for c in constants]).flatten(1)
        log_std = torch.stack([c.log_std for c in constants]).flatten(1)
        order = torch.stack([mixing.order for mixing in mixings])
        if isinstance(mixings[0], Permute):
            return Layers(mean, log_std, order, None, None)
        lu, signs = (torch.stack([getattr(m, name) for m in mixings]) for name in ("lu", "signs"))
        return Layers(mean, log_std, order, lu, signs)

    def runs_on_parameters(self) -> bool:
        """Whether it runs on its own parameters, and not on what torch.func has put in their place."""
        norms, mixings = self.flows[0::3], self.flows[1::3]
        found = [getattr(n.constant, name) for n in norms if n.trained for name in ("mean", "log_std")]
        return all(isinstance(p, nn.Parameter) for p in found + [m.lu for m in mixings if hasattr(m, "lu")])

    def cached(self, make: Callable) -> Any:
        """``make(layers)``; without gradients, the last result is kept until a parameter has another value.

        The comparison reads the parameters once, which costs little beside one product, and no way of changing them
        goes unnoticed.
        """
        layers = self.layers()
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not self.runs_on_parameters():
            return make(layers)
        if make not in self.cache or not all(map(equal, self.cache[make][0], layers)):
            self.cache[make] = layers, make(layers)
        return self.cache[make][1]

    def forward(self, x, cond=None):
        if not self.enabled:
            return super().forward(x, cond)
        maps, log_det = self.cached(assemble)
        recompute = self.reversible and torch.is_grad_enabled() and (cond is None or isinstance(cond, Tensor))
        z, change = (recomputed if recompute else stepwise)(self, maps, x.movedim(1, -1), cond)
        return z.movedim(-1, 1), change + log_det * x[0, 0].numel()

    def inverse_and_log_det(self, z, cond=None):
        if not self.enabled:
            return super().inverse_and_log_det(z, cond)
        maps, log_det = self.cached(invert)
        h = z.movedim(1, -1)
        changes: Any = 0.0
        for k, coupling in reversed(list(enumerate(self.couplings))):
            h1, h2 = halves(coupling, h)
            x2, change = coupling.transform.inverse(h2, *parameters(coupling, h1, cond))
            h, changes = maps.apply(k, torch.cat([h1, x2], -1)), changes + change
        return h.movedim(-1, 1), total(changes.expand_as(x2)) + log_det * z[0, 0].numel()


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def halves(coupling: Coupling, h: Tensor) -> tuple[Tensor, Tensor]:
    """The half that sets the transform and the half that is transformed, channels last."""
    h1, h2 = h.split([coupling.keep, h.shape[-1] - coupling.keep], -1)
    return h1, h2


def parameters(coupling: Coupling, h1: Tensor, cond: Any) -> list[Tensor]:
    """The transform's parameters, channels last."""
    found = coupling.parameters_for(h1.movedim(-1, 1), cond)
    return [a[(None,) * (h1.dim() - a.dim())].movedim(1, -1) for a in found]  # they need only broadcast


def stepwise(steps: FusedSteps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """Through the K steps, channels last: (B, *, C) to itself, and the couplings' log-determinants (B,)."""
    changes: Any = 0.0
    for k, coupling in enumerate(steps.couplings):
        h1, h2 = halves(coupling, maps.apply(k, h))
        z2, change = coupling.transform(h2, *parameters(coupling, h1, cond))
        h, changes = torch.cat([h1, z2], -1), changes + change
    return h, total(changes.expand_as(h2))


class Tape:
    """Where backpropagation is in a level: the output of the step that comes next, and the inverse maps of all."""

    z: Tensor
    back: Maps


def recomputed(steps: FusedSteps, maps: Maps, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """``stepwise``, with the steps' activations recomputed in backpropagation.

    A node a step, so that each one's gradients reach the parameters, and their memory is free again, before the next
    one's are computed.
    """
    tape = Tape()
    changes: Any = 0.0
    for k, coupling in enumerate(steps.couplings):
        order = None if maps.orders is None else maps.orders[k]
        h, change = Recomputed.apply(
            steps, k, tape, cond, h, maps.weights[k], maps.shifts[k], order, *coupling.parameters()
        )
        changes = changes + change
    return h, changes


class Recomputed(torch.autograd.Function):
    """One of ``FusedSteps``, which computes its input again from its output, and hands it on to the step before.

    Only the last step's output is kept: drift begins anew at each level.
    """

    @staticmethod
    def forward(ctx, steps, k, tape, cond, h, weight, shift, order, *own):
        coupling = steps.couplings[k]
        maps = Maps((weight,), (shift,), None if order is None else (order,))
        h1, h2 = halves(coupling, maps.apply(0, h))
        z2, change = coupling.transform(h2, *parameters(coupling, h1, cond))
        z = torch.cat([h1, z2], -1)
        kind = h.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.steps, ctx.k, ctx.tape = steps, k, tape
        last = k == len(steps.couplings) - 1
        # parameters are kept so that a change of one before backpropagation is noticed
        kept = [p for flow in steps.flows for p in flow.parameters()] if last else own
        ctx.save_for_backward(z if last else None, cond, weight, order, *kept)
        return z, total(change.expand_as(h2))

    @staticmethod
    @once_differentiable
    def backward(ctx, dz, dchange):
        z, cond, weight, order, *_ = ctx.saved_tensors
        if z is not None:
            ctx.tape.z, ctx.tape.back = z, ctx.steps.cached(invert)[0]
        z, coupling = ctx.tape.z, ctx.steps.couplings[ctx.k]
        kind, dtype, enabled = ctx.autocast
        z1, z2 = halves(coupling, z)
        own = [p for p in coupling.parameters() if p.requires_grad]
        with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
            h1 = z1.detach().requires_grad_()
            given = None if cond is None else cond.detach().requires_grad_(cond.requires_grad)
            found = parameters(coupling, h1, given)
            with torch.no_grad():
                h2 = coupling.transform.inverse(z2, *found)[0]
            h2.requires_grad_()
            out, change = coupling.transform(h2, *found)
            change = total(change.expand_as(h2))
        wanted = [h1, h2, *own, *([given] if given is not None and given.requires_grad else [])]
        pairs = [(a, d) for a, d in ((out, halves(coupling, dz)[1]), (change, dchange)) if a.requires_grad]
        gradients = dict(
            zip(
                map(id, wanted),
                torch.autograd.grad([a for a, _ in pairs], wanted, [d for _, d in pairs], allow_unused=True),
                strict=True,
            )
        )
        dh1, dh2 = gradients[id(h1)], gradients[id(h2)]
        dy = torch.cat([halves(coupling, dz)[0] + (0.0 if dh1 is None else dh1), dh2], -1)
        x = ctx.tape.back.apply(ctx.k, torch.cat([z1, h2.detach()], -1))
        dx, dweight, dshift = map_backward(dy, x, weight, order)
        ctx.tape.z = x
        dparameters = [gradients.get(id(p)) for p in coupling.parameters()]
        return None, None, None, gradients.get(id(given)), dx, dweight, dshift, None, *dparameters


def map_backward(dy: Tensor, x: Tensor, weight: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a map's input, weight and shift."""
    flat, rest = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    if order is None:
        return (flat @ weight).view(dy.shape), flat.T @ rest, flat.sum(0)
    dweight = (flat * rest.index_select(-1, order)).sum(0)
    return (dy * weight).index_select(-1, order.argsort()), dweight, flat.sum(0)


def all_steps(model: nn.Module) -> list[FusedSteps]:
    return [m for m in model.modules() if isinstance(m, FusedSteps)]


def set_reversible(model: nn.Module, reversible: bool = True) -> None:
    """Have every ``FusedSteps`` of the model recompute its activations in backpropagation, or keep them."""
    for steps in all_steps(model):
        steps.reversible = reversible


@contextmanager
def one_by_one(model: nn.Module) -> Iterator[None]:
    """Every ``FusedSteps`` runs its flows one after the other, as they define themselves, until the block ends."""
    found = all_steps(model)
    before = [steps.enabled for steps in found]
    try:
        for steps in found:
            steps.enabled = False
        yield
    finally:
        for steps, enabled in zip(found, before, strict=True):
            steps.enabled = enabled
