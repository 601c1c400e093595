"""A flow as the posterior: its affine map and its couplings see what an encoder makes of x."""

from typing import Any

from torch import Tensor, nn

from fvae.density import total
from fvae.flows.base import Flow, inverse_and_log_det
from fvae.precision import widen
from fvae.transforms import Affine


class ConditionalPosterior(Flow):
    """z = f(mean + std u; features), all three from one network of the condition: (B, *shape) to itself.

    ``encoder(cond)`` gives (B, 3C, *); ``flow`` takes features (B, C, *) as its condition. With a flow that is the
    identity it is a Gaussian posterior (Rezende and Mohamed, 2015; Su and Wu, 2018).
    """

    flow: Any

    def __init__(self, encoder: nn.Module, flow: Flow):
        super().__init__()
        self.encoder, self.flow, self.transform = encoder, flow, Affine(bound=6.0)

    def given(self, cond: Any) -> tuple[tuple[Tensor, ...], Tensor]:
        """Mean and log_std, and the features."""
        mean, log_std, features = widen(self.encoder(cond)).chunk(3, 1)
        return self.transform.constrain(mean, log_std), features

    def forward(self, u, cond=None):
        parameters, features = self.given(cond)
        h, change = self.transform(u, *parameters)
        z, log_det = self.flow(h, features)
        return z, total(change) + log_det

    def inverse_and_log_det(self, z, cond=None):
        parameters, features = self.given(cond)
        h, log_det = inverse_and_log_det(self.flow, z, features)
        u, change = self.transform.inverse(h, *parameters)
        return u, total(change) + log_det
