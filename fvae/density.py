"""Density arithmetic: sums over a sample, the standard normal, probabilities of intervals, and units.

Log-densities are in nats, one a sample, in float32 or wider.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fvae.errors import InputError

LOG_2PI = math.log(2 * math.pi)
ROOT_HALF = math.sqrt(0.5)

Number = TypeVar("Number", float, Tensor)


def without_nan(values: Tensor, what: str, infinite: bool = False, names: Sequence[str] = ()) -> Tensor:
    """These values of samples (N, ...); raises ``InputError`` that says which are NaN or, unless allowed, infinite.

    Where a graph is compiled they are not looked at, which would break it.
    """
    valid = ~values.isnan() if infinite else values.isfinite()
    if torch.compiler.is_compiling() or valid.all():
        return values
    wrong = (~valid).reshape(len(values), -1).any(1).nonzero()[:, 0].tolist()
    first = names[wrong[0]] if names else f"number {wrong[0]}"
    found = "NaN" if infinite else "NaN or infinity"
    counted = f"{len(wrong)} of {len(values)} samples, the first {first}"
    raise InputError(f"expected a {what} within the range of {values.dtype}, found {found} for {counted}")


def total(a: Tensor) -> Tensor:
    """Sum over everything but the batch: ``(B, *) -> (B,)``, in float32 at least."""
    return a.flatten(1).sum(1, dtype=torch.promote_types(a.dtype, torch.float32))


def log_normal(e: Tensor) -> Tensor:
    """log N(e; 0, I) = -1/2 sum_i (e_i^2 + log 2 pi), in nats: ``(B, *) -> (B,)``."""
    return -0.5 * (total(e.square()) + e[0].numel() * LOG_2PI)


def mean_log_normal(d: int) -> float:
    """E log N(e; 0, I) = -d/2 (log 2 pi + 1) over e ~ N(0, I) of d values, in nats."""
    return -0.5 * d * (LOG_2PI + 1)


def bits_per_dim(nats: Number, dims: int) -> Number:
    """Nats a sample to bits a dimension: the one place where they are converted."""
    return nats / (dims * math.log(2))


def to_unit(x: Tensor, bits: int) -> Tensor:
    """Bins 0 .. 2^bits - 1 to their middles on [-1, 1], in float32 or wider."""
    return (x + 0.5) / 2 ** (bits - 1) - 1


def from_unit(v: Tensor, bits: int) -> Tensor:
    """[-1, 1] to bins, unrounded: the inverse of ``to_unit``."""
    return (v + 1) * 2 ** (bits - 1) - 0.5


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), in nats, for low < high of one shape, also in the tails, where both integrals are 0.

    By symmetry both are brought to the left of 0. Up to ``edge`` it is a difference of erfc, beyond it

        Phi(h) = phi(h) / -h (1 - 1/h^2 (1 - 3/h^2 (1 - 5/h^2 (1 - ...)))),  phi the normal density.

    In float32 it is nearer to float64 than a difference of ``torch.special.log_ndtr``, which is not vectorized.
    """
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    edge, tiny = (-36.0 if low.dtype == torch.float64 else -12.0), torch.finfo(low.dtype).tiny
    near = torch.log((0.5 * (torch.erfc(-ROOT_HALF * high) - torch.erfc(-ROOT_HALF * low))).clamp(min=tiny))
    b = high.clamp(max=edge)  # where ``near`` is used, ``far`` is finite
    a = b - (high - low)
    ratio = torch.exp(0.5 * (b - a) * (b + a)) * (b * tail(a)) / (a * tail(b))  # Phi(a) / Phi(b)
    far = torch.log(tail(b) * (1 - ratio).clamp(min=tiny) / -b) - 0.5 * (b.square() + LOG_2PI)
    return torch.where(high < edge, far, near)


def tail(h: Tensor) -> Tensor:
    """-h Phi(h) / phi(h) far to the left of 0: the first terms of its asymptotic series."""
    r = h.square().reciprocal()
    return 1 - r * (1 - 3 * r * (1 - 5 * r))


class LogBetween(torch.autograd.Function):
    """``log_between`` with an explicit gradient, phi over the probability: half the time of autograd's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(low, high):
        return log_between(low, high)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx, gradient):
        low, high, log_p = ctx.saved_tensors
        constant = log_p + 0.5 * LOG_2PI
        dlow, dhigh = (torch.exp(-0.5 * end.square() - constant) for end in (low, high))
        return -gradient * dlow, gradient * dhigh
