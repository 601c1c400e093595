"""A conditional flow as the decoder: the density of an image around the one that G makes of z."""

import math
from typing import Any

import torch
from torch import nn

from fvae.conditioners.base import Conditioned
from fvae.density import from_unit, log_normal, total
from fvae.transforms import Affine


class ConditionalFlow(Conditioned):
    """log p(x|z) of images in bins, by a flow f of the difference to the mean, which sees features of z.

    With U = Phi(noise) uniform on [0, 1) and t = (x + U) / 2^(bits - 1) - 1,

        log p(x|z) >= E_U [ log N(e) + log|det df| ] - sum log std + D log(2 / 2^bits),
        e = f((t - mean) / std; features)

    ``conditioner(z) -> (mean, log_std)`` on [-1, 1], ``features(mean, z)`` is what the flow is conditioned on, and the
    noise is part of the model's u. ``x`` (B, *shape) in bins. At the start, and at e = 0, it is near a Gaussian.
    """

    likelihood = "a density of bins, with uniform dequantization"
    temperature = 0.7  # of e, in samples

    flow: Any
    features: Any

    def __init__(self, conditioner: nn.Module, flow: nn.Module, features: nn.Module, shape: tuple[int, ...], bits: int):
        super().__init__(conditioner, Affine(bound=6.0))
        self.flow, self.features, self.noise_shape, self.bits = flow, features, tuple(shape), bits

    def forward(self, x, z, y=None, *, noise):
        mean, log_std = self.parameters_for(z, y)
        t = (x + torch.special.ndtr(noise)) / 2 ** (self.bits - 1) - 1
        e, log_det = self.flow((t - mean) * torch.exp(-log_std), self.features(mean, z))
        volume = t[0].numel() * math.log(2 / 2**self.bits)
        return log_normal(e) + log_det - total(log_std.expand_as(t)) + volume

    def mean(self, z, y=None):
        """The image at e = 0, in bins, unrounded."""
        return self.draw(z, y, z.new_zeros(len(z), *self.noise_shape))

    def draw(self, z, y=None, noise=None):
        """The image at e = ``noise`` (B, *shape), in bins, unrounded."""
        mean, log_std = self.parameters_for(z, y)
        t = mean + torch.exp(log_std) * self.flow.inverse(noise.flatten(1), self.features(mean, z))
        return from_unit(t, self.bits).clamp(0, 2**self.bits - 1)
