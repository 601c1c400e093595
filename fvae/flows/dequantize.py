"""Posteriors of fixed noise: none for continuous data, uniform for data in bins, Gaussian around a smaller latent."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class Augment(Flow):
    """A posterior of z (B, C, h, w) as one of ``latent`` (C, H, W): z in the top left corner, and noise around it.

    The noise is N(0, std^2) about the nearest value of z. A decoder that reads the corner alone leaves the bound a
    bound: the noise costs nothing under a prior that knows its density (Huang et al., 2020; Nielsen et al., 2020).
    """

    posterior: Any

    def __init__(self, posterior: nn.Module, shape: tuple[int, ...], latent: tuple[int, ...], std: float = 0.05):
        super().__init__()
        self.posterior, self.std, self.values = posterior, std, math.prod(latent) - math.prod(shape)
        self.padding = (0, latent[2] - shape[2], 0, latent[1] - shape[1])

    def forward(self, u, cond=None):
        corner = self.corner(u)
        z, log_det = self.posterior(corner, cond)
        noise = self.std * (u - F.pad(corner, self.padding))
        return F.pad(z, self.padding, "replicate") + noise, log_det + self.values * math.log(self.std)

    def inverse(self, z, cond=None):
        corner = self.corner(z)
        noise = (z - F.pad(corner, self.padding, "replicate")) / self.std
        return F.pad(self.posterior.inverse(corner, cond), self.padding) + noise

    def corner(self, z: Tensor) -> Tensor:
        return F.pad(z, [-n for n in self.padding])
