"""Decoders q(x|z): ``forward(x, z) -> log q(x|z)`` (B,) in nats, ``mean(z) -> x``."""

import math

import torch
from torch import Tensor, nn

from fvae.atoms import LOG_2PI, log_normal, total, whiten
from fvae.flows.reshape import no_change
from fvae.params import BestStd

CONTINUOUS = "none: a density of continuous data"


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
    """log N(x; mean(z), std(z)^2), continuous data: no noise is added and no bin is counted."""

    noise, bits = CONTINUOUS, None

    def __init__(self, params: nn.Module):
        super().__init__()
        self.params = params

    def forward(self, x, z):
        mean, log_std = self.params(z)
        if isinstance(self.params, BestStd):
            log_std = self.params.best((x - mean).square())
        e, logdet = whiten(x, mean, log_std)
        return log_normal(e) + logdet

    def mean(self, z):
        return self.params(z)[0]


class BinnedGaussian(nn.Module):
    """A Gaussian on [-1, 1] for data in bins: the mean over uniform dequantisation noise, in closed form.

    With v the middle of x's bin on [-1, 1], w = 2 / 2^bits its width and U ~ Uniform(-w/2, w/2),

        log q(x|z) = E_U log N(v + U; mean, std^2) + D log w
                   = sum [ log w - ((v - mean)^2 + w^2 / 12) / (2 std^2) - log std - 1/2 log 2 pi ]

    by Jensen a lower bound on the log-probability of the bin, so the whole is a bound for 8-bit data without noise in
    it, and std -> 0 is no longer free: the best std^2 is the mean squared error + w^2 / 12. ``x`` (B, *shape) in bins,
    ``params(z) -> (mean, log_std)`` on [-1, 1].
    """

    noise = "uniform dequantisation, averaged in closed form"

    def __init__(self, params: nn.Module, bits: int):
        super().__init__()
        self.params, self.bits = params, bits

    def forward(self, x, z):
        mean, log_std = self.params(z)
        width = 2 / 2**self.bits
        square = (to_unit(x, self.bits) - mean).square() + width**2 / 12
        if isinstance(self.params, BestStd):
            log_std = self.params.best(square)
        constant = math.log(width) - 0.5 * LOG_2PI
        return total(constant - log_std - 0.5 * square * torch.exp(-2 * log_std))

    def mean(self, z):
        return from_unit(self.params(z)[0], self.bits)
