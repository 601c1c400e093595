"""Parameters that depend on nothing: actnorm's, those of a flow's last scaling, and of a latent that isn't there."""

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def by_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one value a channel, broadcastable to ``shape``: (C, ...) -> (C, 1, ...)."""
    return (shape[0], *(1 for _ in shape[1:]))


class Constant(nn.Module):
    """One (mean, log_std) a channel, trained or fixed: ``(C, 1, ...)`` for data of ``shape`` (C, ...)."""

    mean: Tensor
    log_std: Tensor
    weight_decay = False

    def __init__(self, shape: tuple[int, ...], trained: bool = True):
        super().__init__()
        for name in ("mean", "log_std"):
            value = torch.zeros(by_channel(shape))
            if trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, *cond) -> Pair:
        return self.mean, self.log_std

    @torch.no_grad()
    def set(self, mean: Tensor, log_std: Tensor) -> None:
        """Take these values, one a channel."""
        self.mean.copy_(mean.view_as(self.mean))
        self.log_std.copy_(log_std.view_as(self.log_std))


class Empty(nn.Module):
    """Mean and log_std of no dimensions, (B, 0): the posterior of a model without a latent."""

    def forward(self, *cond) -> Pair:
        empty = torch.zeros(len(cond[0]), 0, device=cond[0].device)
        return empty, empty
