"""Multi-scale flows as a recursion: half of the channels leave, the rest is the input of a smaller flow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fvae.conditioners.base import Conditioned, takes_condition
from fvae.density import total
from fvae.flows.base import Chain, Flow, inverse_and_log_det
from fvae.flows.elementwise import scaling
from fvae.flows.reshape import Flatten, Squeeze
from fvae.networks.by_shape import Shape, is_image
from fvae.transforms import Affine, Transform


class FactorOut(Conditioned, Flow):
    """The first half of the channels leaves, with a density given the second half; ``rest`` maps the second.

    p(z_1 | z_2) = N(mean(z_2), std(z_2)^2), so e_1 = (z_1 - mean(z_2)) / std(z_2) is standard normal and nothing is
    lost. (B, C, H, W) -> (B, C H W), flat: e_1, then the code of ``rest``, which must be flat too
    (Dinh et al., 2017; conditional prior: Kingma & Dhariwal, 2018).
    """

    rest: Any

    def __init__(self, rest: Flow, conditioner: nn.Module, shape: Shape, transform: Transform | None = None):
        Flow.__init__(self)
        self.rest, self.conditioner = rest, conditioner  # in the order of the weights in a checkpoint
        self.transform, self.conditional = transform or Affine(bound=3.0), takes_condition(conditioner)
        self.leaving = (shape[0] // 2, *shape[1:])

    def forward(self, x, cond=None):
        z1, z2 = x[:, : self.leaving[0]], x[:, self.leaving[0] :]
        e1, change = self.transform.inverse(z1, *self.parameters_for(z2, cond))
        e2, log_det = self.rest(z2, cond)
        return torch.cat([e1.flatten(1), e2], 1), total(change.expand_as(z1)) + log_det

    def inverse_and_log_det(self, z, cond=None):
        values = torch.Size(self.leaving).numel()
        z2, log_det = inverse_and_log_det(self.rest, z[:, values:], cond)
        e1 = z[:, :values].unflatten(1, self.leaving)
        z1, change = self.transform(e1, *self.parameters_for(z2, cond))
        return torch.cat([z1, z2], 1), total(change.expand_as(z1)) + log_det


def multiscale(
    shape: Shape,
    levels: int,
    step: Callable[[Shape], list[Flow]],
    conditioner: Callable[[int, int], nn.Module],
    squeeze_first: bool = True,
    before: Callable[[Shape], list[Flow]] = lambda shape: [],
) -> Chain:
    """Squeeze, steps, factor out, ``levels`` times: (B, *shape) -> (B, D) standard normal.

    ``step(shape)`` gives the flows of one level, ``before(shape)`` those before its squeeze; ``conditioner(c_in,
    c_out)`` the affine density of the c_out channels that leave, given the c_in that stay. The last level's mean and
    std are trained by channel. Vectors (D,) have one level, without a squeeze.
    """
    if not is_image(shape):  # a vector has one scale
        return Chain(*step(shape), scaling(shape))
    c, h, w = shape
    begin = [*before(shape), Squeeze(2)] if squeeze_first else []
    c, h, w = (4 * c, h // 2, w // 2) if squeeze_first else shape
    steps = step((c, h, w))
    if levels == 1:
        return Chain(*begin, *steps, scaling((c, h, w)), Flatten((c, h, w)))
    stay = c - c // 2
    rest = multiscale((stay, h, w), levels - 1, step, conditioner, before=before)
    return Chain(*begin, *steps, FactorOut(rest, conditioner(stay, c // 2), (c, h, w)))
