"""The atoms as flows: element by element, z = mean + std u and z = (x - mean) / std."""

import torch
from torch import nn

from fvae.atoms import colour, whiten
from fvae.flows.base import Flow


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


class ActNorm(Flow):
    """z = (x - mean) / std by channel, trained; set from a first batch by ``fit`` (Kingma & Dhariwal, 2018).

    Shapes: (B, C, *) to (B, C, *). Forward never looks at statistics: ``fvae.fit_actnorms`` is the one pass that does,
    so that a model that was loaded, or is being evaluated, can't re-initialise itself.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        channels = (shape[0], *(1 for _ in shape[1:]))
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_std = nn.Parameter(torch.zeros(channels))

    def forward(self, x, cond=None):
        return whiten(x, self.mean, self.log_std)

    def inverse(self, z, cond=None):
        return colour(z, self.mean, self.log_std)[0]

    @torch.no_grad()
    def fit(self, x) -> None:
        """Take mean and standard deviation of ``x`` by channel; a constant channel's is floored at 1e-3, not 0."""
        a = x.transpose(0, 1).flatten(1)
        self.mean.copy_(a.mean(1).view_as(self.mean))
        self.log_std.copy_(a.std(1, correction=0).clamp(min=1e-3).log().view_as(self.log_std))
