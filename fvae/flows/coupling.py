"""Coupling: half of the values sets the transform of the other half."""

from typing import Any

import torch
from torch import Tensor, nn

from fvae.conditioners.base import Conditioned
from fvae.density import total
from fvae.flows.base import Flow
from fvae.transforms import Affine, Transform


class Coupling(Conditioned, Flow):
    """z_1 = x_1, z_2 = T(x_2; parameters(x_1, cond)): log-determinant that of T.

    Shapes: (B, C, *) to itself; x_1 are the first ``keep`` channels. Affine (Dinh et al., 2017) unless ``transform``
    says otherwise. ``conditioner(x_1)`` returns the transform's parameters, or one tensor (B, P C, *) that is split
    into them and constrained; one that declares ``classes``, ``context`` or ``conditional`` is called with
    (x_1, cond). The shift comes after the scale: weights of codes that compute (x_2 + t) s are not interchangeable.
    """

    def __init__(self, conditioner: nn.Module, keep: int, transform: Transform | None = None):
        super().__init__(conditioner, transform or Affine(bound=3.0))
        self.keep = keep

    def forward(self, x, cond=None):
        return self.run(self.transform, x, cond)

    def inverse_and_log_det(self, z, cond=None):
        return self.run(self.transform.inverse, z, cond)

    def run(self, transform: Any, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """``transform``, of either direction, applied to the values that move, and its log-determinant."""
        x1, x2 = x[:, : self.keep], x[:, self.keep :]
        z2, log_derivative = transform(x2, *self.parameters_for(x1, cond))
        return torch.cat([x1, z2], 1), total(log_derivative.expand_as(x2))


class Checkerboard(Coupling):
    """Coupling by position: the pixels of one color set the transform of the others (Dinh et al., 2017).

    Shapes: (B, C, H, W) to itself; the pixels with (row + column) % 2 = ``color`` stay. The conditioner sees an image
    with 0 in place of the others.
    """

    def __init__(self, conditioner: nn.Module, color: int, transform: Transform | None = None):
        super().__init__(conditioner, 0, transform)
        self.color = color

    def run(self, transform: Any, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        moving = (rows[:, None] + columns) % 2 != self.color
        z, log_derivative = transform(x, *self.parameters_for(torch.where(moving, 0, x), cond))
        return torch.where(moving, z, x), total(torch.where(moving, log_derivative, 0).expand_as(x))
