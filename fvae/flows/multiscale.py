"""Multi-scale flows as a recursion: half of the channels leave, the rest is the input of a smaller flow."""

from collections.abc import Callable

import torch
from torch import nn

from fvae.atoms import colour, whiten
from fvae.flows.affine import Whiten
from fvae.flows.base import Chain, Flow
from fvae.flows.reshape import Flatten, Squeeze
from fvae.params import Learned

Shape = tuple[int, ...]


class FactorOut(Flow):
    """The first half of the channels leaves, whitened by what the second half says of it; ``rest`` maps the second.

    p(z_1 | z_2) = N(mean(z_2), std(z_2)^2), so e_1 = (z_1 - mean(z_2)) / std(z_2) is standard normal and nothing is
    lost. (B, C, H, W) -> (B, C H W), flat: e_1, then the code of ``rest``, which must be flat too
    (Dinh et al., 2017; conditional prior: Kingma & Dhariwal, 2018).
    """

    def __init__(self, rest: Flow, params: nn.Module, shape: Shape):
        super().__init__()
        self.rest, self.params = rest, params
        self.leaving = (shape[0] // 2, *shape[1:])

    def forward(self, x, cond=None):
        z1, z2 = x[:, : self.leaving[0]], x[:, self.leaving[0] :]
        e1, logdet1 = whiten(z1, *self.params(z2, cond))
        e2, logdet2 = self.rest(z2, cond)
        return torch.cat([e1.flatten(1), e2], 1), logdet1 + logdet2

    def inverse(self, z, cond=None):
        places = self.leaving[0] * self.leaving[1] * self.leaving[2]
        z2 = self.rest.inverse(z[:, places:], cond)
        z1, _ = colour(z[:, :places].unflatten(1, self.leaving), *self.params(z2, cond))
        return torch.cat([z1, z2], 1)


def multiscale(
    shape: Shape,
    levels: int,
    step: Callable[[Shape], list[Flow]],
    params: Callable[[int, int], nn.Module],
    squeeze_first: bool = True,
    before: Callable[[Shape], list[Flow]] = lambda shape: [],
) -> Chain:
    """Squeeze, steps, factor out, ``levels`` times: (B, *shape) -> (B, D) standard normal.

    ``step(shape)`` gives the flows of one level, ``before(shape)`` those before its squeeze; ``params(c_in, c_out)``
    what whitens the c_out channels that leave, from the c_in that go on. The last level's mean and std are learned by
    channel.
    """
    c, h, w = shape
    begin = [*before(shape), Squeeze(2)] if squeeze_first else []
    c, h, w = (4 * c, h // 2, w // 2) if squeeze_first else shape
    steps = step((c, h, w))
    if levels == 1:
        return Chain(*begin, *steps, Whiten(Learned((c, h, w))), Flatten((c, h, w)))
    stay = c - c // 2
    rest = multiscale((stay, h, w), levels - 1, step, params, before=before)
    return Chain(*begin, *steps, FactorOut(rest, params(stay, c // 2), (c, h, w)))
