"""Coupling: half of the channels sets the shift and scale of the other half."""

import torch
from torch import nn

from fvae.atoms import colour, whiten
from fvae.flows.base import Flow


class Coupling(Flow):
    """z_1 = x_1, z_2 = mean(x_1, cond) + std(x_1, cond) x_2: log-determinant sum log std.

    Shapes: (B, C, *) to itself; x_1 are the first ``keep`` channels. Affine with ``Split`` (Dinh et al., 2017),
    additive with ``MeanOnly`` (Dinh et al., 2015). The shift comes after the scale: weights of codes that compute
    (x_2 + t) s are not interchangeable.
    """

    def __init__(self, params: nn.Module, keep: int):
        super().__init__()
        self.params, self.keep = params, keep

    def forward(self, x, cond=None):
        x1, x2 = x[:, : self.keep], x[:, self.keep :]
        z2, logdet = colour(x2, *self.params(x1, cond))
        return torch.cat([x1, z2], 1), logdet

    def inverse(self, z, cond=None):
        z1, z2 = z[:, : self.keep], z[:, self.keep :]
        x2, _ = whiten(z2, *self.params(z1, cond))
        return torch.cat([z1, x2], 1)
