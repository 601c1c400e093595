"""Glow's steps, fused: what K steps compute one after the other, in fewer and larger operations.

A step's actnorm and mixing are one affine map of the channels, y = W_k x + b_k. The K maps of a level are assembled at
once; their log-determinants don't depend on x and are one number; the couplings' log-derivatives are added up element
by element and reduced once. Channels are innermost in memory, so that a map is one matrix product.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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


def fusable(flows: Sequence[Flow]) -> bool:
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

    With ``reversible`` training keeps the input of each step alone, and backpropagation computes the rest again
    (``torch.utils.checkpoint``): one more pass through the networks, and memory for K tensors of the data's size
    instead of K networks' activations.

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
        mean, log_std = (torch.stack([getattr(c, name) for c in constants]).flatten(1) for name in ("mean", "log_std"))
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

        Of wide latents it takes longer than the networks: sampling the published f-VAE of 64x64 took five times as
        long without. The comparison reads the parameters once, so that no way of changing them goes unnoticed.
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
        h, log_derivatives = x.movedim(1, -1), cast(Tensor, 0.0)
        for k, coupling in enumerate(self.couplings):
            if self.reversible and torch.is_grad_enabled():
                h, change = checkpoint(step, coupling, maps, k, h, cond, use_reentrant=False)
            else:
                h, change = step(coupling, maps, k, h, cond)
            log_derivatives = log_derivatives + change
        z = h.movedim(-1, 1)
        moved = z[:, self.couplings[-1].keep :].movedim(1, -1)
        return z, total(log_derivatives.expand_as(moved)) + log_det * x[0, 0].numel()

    def inverse_and_log_det(self, z, cond=None):
        if not self.enabled:
            return super().inverse_and_log_det(z, cond)
        maps, log_det = self.cached(invert)
        h, log_derivatives = z.movedim(1, -1), cast(Tensor, 0.0)
        for k, coupling in reversed(list(enumerate(self.couplings))):
            h1, h2 = h.tensor_split((coupling.keep,), -1)
            x2, change = coupling.transform.inverse(h2, *parameters(coupling, h1, cond))
            h, log_derivatives = maps.apply(k, torch.cat([h1, x2], -1)), log_derivatives + change
        return h.movedim(-1, 1), total(log_derivatives.expand_as(x2)) + log_det * z[0, 0].numel()


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)


def step(coupling: Coupling, maps: Maps, k: int, h: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """Step k, channels last: (B, *, C) to itself, and the coupling's log-derivatives."""
    h1, h2 = maps.apply(k, h).tensor_split((coupling.keep,), -1)
    z2, change = coupling.transform(h2, *parameters(coupling, h1, cond))
    return torch.cat([h1, z2], -1), change


def parameters(coupling: Coupling, h1: Tensor, cond: Any) -> list[Tensor]:
    """The transform's parameters, channels last."""
    found = coupling.parameters_for(h1.movedim(-1, 1), cond)
    return [a[(None,) * (h1.dim() - a.dim())].movedim(1, -1) for a in found]  # they need only broadcast


def all_steps(model: nn.Module) -> list[FusedSteps]:
    return [m for m in model.modules() if isinstance(m, FusedSteps)]


def set_reversible(model: nn.Module, reversible: bool = True) -> None:
    """Have every ``FusedSteps`` of the model recompute its activations in backpropagation, or keep them."""
    for steps in all_steps(model):
        steps.reversible = reversible


@contextmanager
def one_by_one(model: nn.Module) -> Iterator[None]:
    """Every ``FusedSteps`` runs its flows one after the other, as they define themselves, until the block ends."""
    found = [steps for steps in all_steps(model) if steps.enabled]
    for steps in found:
        steps.enabled = False
    try:
        yield
    finally:
        for steps in found:
            steps.enabled = True
