"""Autoregressive flows of vectors: each value is transformed as the values before it say."""

import torch
from torch import nn

from fvae.conditioners.base import Conditioned
from fvae.density import total
from fvae.flows.base import Flow
from fvae.transforms import Affine, Transform


class Autoregressive(Conditioned, Flow):
    """z_i = T(x_i; parameters(x_1 .. x_(i - 1), cond)): log-determinant that of T (Papamakarios et al., 2017).

    Shapes: (B, D) to itself. Affine unless ``transform`` says otherwise. ``conditioner(x)`` returns the parameters of
    all values, as (B, P D), those of each from the values before it alone, as ``MaskedMLP`` does. One pass gives the
    density; the inverse takes D passes, one after the other.
    """

    def __init__(self, conditioner: nn.Module, transform: Transform | None = None):
        super().__init__(conditioner, transform or Affine(bound=3.0))

    def forward(self, x, cond=None):
        z, log_derivative = self.transform(x, *self.parameters_for(x, cond))
        return z, total(log_derivative.expand_as(x))

    def inverse_and_log_det(self, z, cond=None):
        x, log_derivative = torch.zeros_like(z), torch.zeros_like(z)
        for i in range(z.shape[1]):  # after so many passes the first i values are right, and the parameters of the next
            found, log_derivative = self.transform.inverse(z, *self.parameters_for(x, cond))
            x = torch.cat([x[:, :i], found[:, i : i + 1], x[:, i + 1 :]], 1)
        return x, total(log_derivative.expand_as(x))
