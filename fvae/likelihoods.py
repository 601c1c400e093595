"""Decoders q(x|z): ``forward(x, z) -> log q(x|z)`` (B,) in nats, ``mean(z) -> x``."""

import math

import torch
from torch import Tensor, nn

from fvae.atoms import LOG_2PI, total
from fvae.flows.reshape import no_change
from fvae.params import BestStd

CONTINUOUS = "none: a density of continuous data"
ROOT_HALF = math.sqrt(0.5)
FAR = 1e4  # standard deviations: infinity, with a gradient


def to_unit(x: Tensor, bits: int) -> Tensor:
    """Bins 0 .. 2^bits - 1 to their middles on [-1, 1], in float32 or wider."""
    return (x + 0.5) / 2 ** (bits - 1) - 1


def from_unit(v: Tensor, bits: int) -> Tensor:
    """[-1, 1] to bins, unrounded: the inverse of ``to_unit``."""
    return (v + 1) * 2 ** (bits - 1) - 0.5


class Scaled(nn.Module):
    """``net`` on bins brought to [-1, 1]: networks scale inside."""

    def __init__(self, net: nn.Module, bits: int):
        super().__init__()
        self.net, self.bits = net, bits

    def forward(self, x: Tensor) -> Tensor:
        return self.net(to_unit(x, self.bits))


class Certain(nn.Module):
    """q(x|z) = 1 for the bin that z = (x + U) / 2^bits lies in: the decoder of an exact flow, log q = 0.

    Without bits: of continuous data, where z is x.
    """

    def __init__(self, bits: int | None):
        super().__init__()
        self.bits = bits
        self.noise = CONTINUOUS if bits is None else "uniform dequantisation, sampled"

    def forward(self, x, z):
        return no_change(z)

    def mean(self, z):
        """Bins, unrounded, so that encode(decode(e)) = e: a z in the middle of its bin gives that bin exactly."""
        return z if self.bits is None else z * 2**self.bits - 0.5


class Gaussian(nn.Module):
    """A Gaussian on [-1, 1] for data in bins: the mean over uniform dequantisation noise, in closed form.

    With v the middle of x's bin on [-1, 1], w = 2 / 2^bits its width and U ~ Uniform(-w/2, w/2),

        log q(x|z) = E_U log N(v + U; mean, std^2) + D log w
                   = sum [ log w - ((v - mean)^2 + w^2 / 12) / (2 std^2) - log std - 1/2 log 2 pi ]

    by Jensen a lower bound on the log-probability of the bin, so the whole is a bound for 8-bit data without noise in
    it, and std -> 0 is no longer free: the best std^2 is the mean squared error + w^2 / 12. ``x`` (B, *shape) in bins,
    ``params(z) -> (mean, log_std)`` on [-1, 1].

    Without bits: log N(x; mean(z), std(z)^2) of continuous data. No noise is added and no bin is counted.
    """

    def __init__(self, params: nn.Module, bits: int | None = None):
        super().__init__()
        self.params, self.bits = params, bits
        self.noise = CONTINUOUS if bits is None else "uniform dequantisation, averaged in closed form"

    def forward(self, x, z):
        mean, log_std = self.params(z)
        constant = -0.5 * LOG_2PI
        if self.bits is None:
            square = (x - mean).square()
        else:
            width = 2 / 2**self.bits
            square = (to_unit(x, self.bits) - mean).square() + width**2 / 12
            constant += math.log(width)
        if isinstance(self.params, BestStd):
            log_std = self.params.best(square)
        return total(constant - log_std - 0.5 * square * torch.exp(-2 * log_std))

    def mean(self, z):
        mean = self.params(z)[0]
        return mean if self.bits is None else from_unit(mean, self.bits)


class Quantised(nn.Module):
    """The probability of a bin under a Gaussian on [-1, 1]: nothing is given away between density and integer.

    With v the middle of x's bin, w = 2 / 2^bits its width and Phi the normal distribution's integral,

        log q(x|z) = sum log [ Phi((v + w/2 - mean) / std) - Phi((v - w/2 - mean) / std) ]

    where the first bin begins at -infinity and the last ends at infinity, so that the bins' probabilities add up to 1.
    It is at most 0, above ``Gaussian``'s by Jensen's inequality, and as std -> 0 it is 0 where mean hits the bin.
    ``x`` (B, *shape) in bins, ``params(z) -> (mean, log_std)`` on [-1, 1].
    """

    noise = "none: the probability of a bin"

    def __init__(self, params: nn.Module, bits: int):
        super().__init__()
        self.params, self.bits = params, bits

    def forward(self, x, z):
        mean, log_std = self.params(z)
        middle, half = (to_unit(x, self.bits) - mean) * torch.exp(-log_std), torch.exp(-log_std) / 2**self.bits
        low, high = middle - half, middle + half
        low_end, high_end = high.clamp(max=0) - FAR, low.clamp(min=0) + FAR
        low, high = torch.where(x == 0, low_end, low), torch.where(x == 2**self.bits - 1, high_end, high)
        between = log_between if torch.compiler.is_compiling() else LogBetween.apply
        return total(between(low, high))

    def mean(self, z):
        """Bins, unrounded; a mean beyond the last bin, which only makes that more probable, is that bin."""
        return from_unit(self.params(z)[0], self.bits).clamp(0, 2**self.bits - 1)


def log_between(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), in nats, for low < high of one shape, in the tails too, where both integrals are 0.

    By symmetry both are brought to the left of 0. Up to ``edge`` it is a difference of erfc, beyond it

        Phi(h) = phi(h) / -h (1 - 1/h^2 (1 - 3/h^2 (1 - 5/h^2 (1 - ...)))),  phi the normal density.

    In float32 it is nearer to float64 than a difference of ``torch.special.log_ndtr``, which is not vectorised.
    """
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    edge, tiny = (-36.0 if low.dtype == torch.float64 else -12.0), torch.finfo(low.dtype).tiny
    near = torch.log((0.5 * (torch.erfc(-ROOT_HALF * high) - torch.erfc(-ROOT_HALF * low))).clamp(min=tiny))
    b = high.clamp(max=edge)  # where near is meant, far is finite
    a = b - (high - low)
    ratio = torch.exp(0.5 * (b - a) * (b + a)) * (b * tail(a)) / (a * tail(b))  # Phi(a) / Phi(b)
    far = torch.log(tail(b) * (1 - ratio).clamp(min=tiny) / -b) - 0.5 * (b.square() + LOG_2PI)
    return torch.where(high < edge, far, near)


def tail(h: Tensor) -> Tensor:
    """-h Phi(h) / phi(h) far to the left of 0: the first terms of its asymptotic series."""
    r = h.square().reciprocal()
    return 1 - r * (1 - 3 * r * (1 - 5 * r))


class LogBetween(torch.autograd.Function):
    """``log_between``, with its gradient by hand, phi over the probability: less than half the time of autograd's."""

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
