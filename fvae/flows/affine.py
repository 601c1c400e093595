"""The atoms as flows: element by element, z = mean + std u and z = (x - mean) / std."""

from typing import Any

import torch
from torch import nn

from fvae.atoms import colour, whiten
from fvae.flows.base import Flow
from fvae.params import ClassMeans, Fixed, Learned


class Colour(Flow):
    """z = mean(cond) + std(cond) u: a VAE's Gaussian posterior, as a flow of its noise (Kingma & Welling, 2014)."""

    def __init__(self, params: nn.Module):
        super().__init__()
        self.params = params

    def forward(self, u, cond=None):
        return colour(u, *self.params(cond))

    def inverse(self, z, cond=None):
        return whiten(z, *self.params(cond))[0]


class Whiten(Flow):
    """z = (x - mean(cond)) / std(cond): a Gaussian prior, as the flow that takes it to N(0, I)."""

    def __init__(self, params: nn.Module):
        super().__init__()
        self.params = params

    def forward(self, x, cond=None):
        return whiten(x, *self.params(cond))

    def inverse(self, z, cond=None):
        return colour(z, *self.params(cond))[0]

    @property
    def translates(self) -> bool:
        return isinstance(self.params, ClassMeans)


class ActNorm(Whiten):
    """z = (x - mean) / std by channel, trained; set from a first batch by ``fit`` (Kingma & Dhariwal, 2018).

    Shapes: (B, C, *) to (B, C, *). Forward never looks at statistics: ``fvae.fit_actnorms`` is the one pass that does,
    so that a model that was loaded, or is being evaluated, can't re-initialise itself. With ``on`` false it stays the
    identity, for comparisons.
    """

    params: Any  # Learned
    least = 1e-3

    def __init__(self, shape: tuple[int, ...], on: bool = True):
        super().__init__(Learned(shape) if on else Fixed(shape))
        self.on = on

    @torch.no_grad()
    def fit(self, x) -> None:
        """Take mean and standard deviation of ``x`` by channel; a constant channel's is floored at 1e-3, not 0."""
        if not self.on:
            return
        a = x.transpose(0, 1).flatten(1)
        self.params.mean.copy_(a.mean(1).view_as(self.params.mean))
        log_std = a.std(1, correction=0).clamp(min=self.least).log()
        self.params.log_std.copy_(log_std.view_as(self.params.log_std))


class Standardise(ActNorm):
    """z = (x - mean) / std by dimension, of all data, not trained: columns of any units come to one scale.

    Shapes: (B, D) to itself. Its log-determinant is counted, so that densities are those of the data as they came.
    """

    def __init__(self, d: int):
        Whiten.__init__(self, Fixed((d,)))
        self.on = True

    @torch.no_grad()
    def fit(self, x) -> None:
        """Take mean and standard deviation of ``x`` by dimension; one that is constant there keeps its scale."""
        std, mean = torch.std_mean(x.double(), 0, correction=0)
        self.params.mean.copy_(mean)
        self.params.log_std.copy_(torch.where(std > 0, std, 1.0).log())
