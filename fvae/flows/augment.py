"""A posterior of latents that are larger than what it is a posterior of: the rest is noise."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fvae.flows.base import Flow


class Augment(Flow):
    """A posterior of z (B, C, h, w) as one of (B, C, H, W): z in the top left corner, and N(mean, std^2) around it.

    A decoder that reads the corner alone leaves the bound a bound: the entropy of the noise is subtracted from what it
    costs under the prior, so that it costs nothing under a prior that knows its density (Huang et al., 2020; Nielsen et
    al., 2020). ``shape`` is that of z, of which ``posterior`` is a flow.
    """

    posterior: Any

    def __init__(self, posterior: nn.Module, shape: tuple[int, ...], mean: float, std: float):
        super().__init__()
        self.posterior, self.shape, self.mean, self.std = posterior, shape, mean, std

    def forward(self, u, cond=None):
        z, log_det = self.posterior(self.corner(u), cond)
        around = (u[0].numel() - z[0].numel()) * math.log(self.std)
        return framed(z, self.mean + self.std * u), log_det + around

    def inverse(self, z, cond=None):
        return framed(self.posterior.inverse(self.corner(z), cond), (z - self.mean) / self.std)

    def corner(self, z: Tensor) -> Tensor:
        return z[..., : self.shape[1], : self.shape[2]]


def framed(inner: Tensor, outer: Tensor) -> Tensor:
    """``outer`` (B, C, H, W) with ``inner`` (B, C, h, w) in its top left corner."""
    h, w = inner.shape[2:]
    return torch.cat([torch.cat([inner, outer[..., :h, w:]], 3), outer[..., h:, :]], 2)
