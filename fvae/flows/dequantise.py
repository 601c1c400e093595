"""From bins to the continuum: uniform dequantisation is one more posterior flow."""

import math

import torch

from fvae.atoms import LOG_2PI, total
from fvae.flows.base import Flow


class Dequantise(Flow):
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
