"""Posteriors of exact flows: data that are continuous already, and data in bins, which are dequantized."""

import math

import torch

from fvae.density import LOG_2PI, total
from fvae.flows.base import Flow, no_change


class PointMass(Flow):
    """z = x, the condition: the posterior of a flow on continuous data, which takes no noise: u is (B, 0)."""

    noise_shape = (0,)

    def forward(self, u, cond=None):
        return cond, no_change(cond)

    def inverse(self, z, cond=None):
        return z.flatten(1)[:, :0]

    def exact_latent(self, x):
        """z of continuous data x and log |det dz/dx|: the same, and 0."""
        return x, no_change(x)


class Dequantize(Flow):
    """z = (x + Phi(u)) / 2^bits: u ~ N(0, I) becomes uniform noise that fills the bin of x exactly (Su, 2018).

    ``u`` (B, *shape) is the input, the condition ``x`` (B, *shape) holds bins 0 .. 2^bits - 1, and z lies in [0, 1].
    log |det dz/du| = sum (log phi(u) - bits log 2), so that log N(u) - log |det| is D bits log 2 and nothing else:
    the volume of a bin is counted here. u = 0 is the middle of the bin.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def forward(self, u, cond=None):
        z = (cond + torch.special.ndtr(u)) / 2**self.bits
        return z, total(-0.5 * (u.square() + LOG_2PI)) - u[0].numel() * self.bits * math.log(2)

    def inverse(self, z, cond=None):
        return torch.special.ndtri(z * 2**self.bits - cond)

    def exact_latent(self, x):
        """z = x / 2^bits of continuous data x in [0, 2^bits), and log |det dz/dx|."""
        return x / 2**self.bits, no_change(x) - x[0].numel() * self.bits * math.log(2)
