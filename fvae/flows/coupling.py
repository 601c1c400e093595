"""Coupling: half of the channels sets the shift and scale of the other half."""

from typing import Any

import torch
from torch import Tensor, nn

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


class Checkerboard(Flow):
    """Coupling by place: the fields of one colour set the shift and scale of the others (Dinh et al., 2017).

    Shapes: (B, C, H, W) to itself; the fields with (row + column) % 2 = ``colour`` stay. The network sees an image with
    0 in the others' places.
    """

    def __init__(self, params: nn.Module, colour: int):
        super().__init__()
        self.params, self.colour = params, colour

    def moving(self, x: Tensor) -> Tensor:
        """(H, W): 1 where values are shifted and scaled, 0 where they stay."""
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        return ((rows[:, None] + columns) % 2 != self.colour).to(x.dtype)

    def shift_and_scale(self, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        moving = self.moving(x)
        mean, log_std = self.params(x * (1 - moving), cond)
        return mean * moving, log_std * moving

    def forward(self, x, cond=None):
        return colour(x, *self.shift_and_scale(x, cond))

    def inverse(self, z, cond=None):
        return whiten(z, *self.shift_and_scale(z, cond))[0]
