"""Flows that only move values: log-determinant 0."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fvae.flows.base import Flow, no_change


class Squeeze(Flow):
    """Space into channels: (B, C, H, W) -> (B, C n^2, H/n, W/n) (Dinh et al., 2017)."""

    def __init__(self, factor: int = 2):
        super().__init__()
        self.factor = factor

    def forward(self, x, cond=None):
        return F.pixel_unshuffle(x, self.factor), no_change(x)

    def inverse(self, z, cond=None):
        return F.pixel_shuffle(z, self.factor)


class Flatten(Flow):
    """(B, *shape) -> (B, D): codes are flat."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = shape

    def forward(self, x, cond=None):
        return x.flatten(1), no_change(x)

    def inverse(self, z, cond=None):
        return z.unflatten(1, self.shape)

    @property
    def translation(self) -> bool:
        return True


class Permute(Flow):
    """A fixed order of the channels, kept with the weights: (B, C, *) -> (B, C, *)."""

    order: Tensor

    def __init__(self, order: Tensor):
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x, cond=None):
        return x.index_select(1, self.order), no_change(x)

    def inverse(self, z, cond=None):
        return z.index_select(1, self.order.argsort())


def reverse(channels: int) -> Permute:
    """Channels in reversed order (Dinh et al., 2015)."""
    return Permute(torch.arange(channels).flip(0))


def shuffle(channels: int) -> Permute:
    """Channels in a fixed random order (Dinh et al., 2017), drawn from torch's global generator."""
    return Permute(torch.randperm(channels))
