"""Gaussian decoders: a density of continuous data or, of data in bins, its mean over a bin or the bin's probability."""

import math

import torch
from torch import Tensor, nn

from fvae.conditioners.base import Conditioned
from fvae.density import LOG_2PI, LogBetween, from_unit, log_between, to_unit, total
from fvae.transforms import Affine

NEARLY_INFINITE = 1e4  # standard deviations, which have a gradient, unlike infinity


class Gaussian(Conditioned):
    """log p(x|z) = log N(x; mean, std^2), a density of continuous data.

    ``conditioner(z) -> (mean, log_std)`` (B, *shape) each, or a network's output (B, 2C, *); one that offers
    ``best(squared errors) -> log_std`` is asked for it.
    """

    likelihood = "a density of continuous data"

    def __init__(self, conditioner: nn.Module):
        super().__init__(conditioner, Affine(bound=6.0))

    def forward(self, x, z, y=None):
        mean, log_std = self.parameters_for(z, y)
        return self.log_density((x - mean).square(), log_std)

    def log_density(self, square: Tensor, log_std: Tensor) -> Tensor:
        """log N of squared errors (B, *shape), in nats: (B,)."""
        best = getattr(self.conditioner, "best", None)
        log_std = log_std if best is None else best(square)
        return total(-0.5 * LOG_2PI - log_std - 0.5 * square * torch.exp(-2 * log_std))

    def mean(self, z, y=None):
        return self.parameters_for(z, y)[0]

    def draw(self, z, y=None, noise=None):
        """mean + std noise, of ``noise`` (B, *shape)."""
        mean, log_std = self.parameters_for(z, y)
        return mean + torch.exp(log_std) * noise


class DequantizedGaussian(Gaussian):
    """A Gaussian on [-1, 1] for data in bins: the mean over uniform dequantization noise, in closed form.

    With v the middle of x's bin on [-1, 1], w = 2 / 2^bits its width and U ~ Uniform(-w/2, w/2),

        log p(x|z) = E_U log N(v + U; mean, std^2) + D log w
                   = sum [ log w - ((v - mean)^2 + w^2 / 12) / (2 std^2) - log std - 1/2 log 2 pi ]

    by Jensen a lower bound on the log-probability of the bin, so the whole is a bound for 8-bit data without noise in
    it, and std -> 0 is no longer free: the best std^2 is the mean squared error + w^2 / 12. ``x`` (B, *shape) in bins,
    ``conditioner(z) -> (mean, log_std)`` on [-1, 1].
    """

    likelihood = "a density of bins, with uniform dequantization in closed form"

    def __init__(self, conditioner: nn.Module, bits: int):
        super().__init__(conditioner)
        self.bits = bits

    def forward(self, x, z, y=None):
        mean, log_std = self.parameters_for(z, y)
        width = 2 / 2**self.bits
        square = (to_unit(x, self.bits) - mean).square() + width**2 / 12
        return self.log_density(square, log_std) + square[0].numel() * math.log(width)

    def mean(self, z, y=None):
        """Bins, unrounded."""
        return from_unit(super().mean(z, y), self.bits)

    def draw(self, z, y=None, noise=None):
        """Bins, unrounded."""
        return from_unit(super().draw(z, y, noise), self.bits).clamp(0, 2**self.bits - 1)


class DiscretizedGaussian(DequantizedGaussian):
    """The probability of a bin under a Gaussian on [-1, 1]: nothing is given away between density and integer.

    With v the middle of x's bin, w = 2 / 2^bits its width and Phi the normal distribution's integral,

        log p(x|z) = sum log [ Phi((v + w/2 - mean) / std) - Phi((v - w/2 - mean) / std) ]

    where the first bin begins at -infinity and the last ends at infinity, so that the bins' probabilities add up to 1.
    It is at most 0, above ``DequantizedGaussian``'s by Jensen's inequality, and as std -> 0 it is 0 where mean hits the
    bin. ``x`` (B, *shape) in bins, ``conditioner(z) -> (mean, log_std)`` on [-1, 1].
    """

    likelihood = "a probability of bins"

    def forward(self, x, z, y=None):
        mean, log_std = self.parameters_for(z, y)
        middle, half = (to_unit(x, self.bits) - mean) * torch.exp(-log_std), torch.exp(-log_std) / 2**self.bits
        low, high = middle - half, middle + half
        low_end, high_end = high.clamp(max=0) - NEARLY_INFINITE, low.clamp(min=0) + NEARLY_INFINITE
        low, high = torch.where(x == 0, low_end, low), torch.where(x == 2**self.bits - 1, high_end, high)
        between = log_between if torch.compiler.is_compiling() else LogBetween.apply
        return total(between(low, high))

    def mean(self, z, y=None):
        """Bins, unrounded; a mean beyond the last bin, which only makes that more probable, is that bin."""
        return super().mean(z, y).clamp(0, 2**self.bits - 1)
