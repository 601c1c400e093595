"""Masked networks of vectors: each output sees the inputs before it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.networks.residual import zeroed


class MaskedLinear(nn.Linear):
    """A linear map with a fixed mask (d_out, d_in) of its weights."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedMLP(nn.Module):
    """``hidden`` layers of ``width`` with ReLUs, each output from the inputs before it: (B, inputs) -> (B, outputs).

    ``inputs`` and ``outputs`` have the position of each, 0, 1, ...: those of position i see the inputs of positions
    below i. With ``context`` it is called with (B, context), too, which every output sees. The last layer is zero at
    the start. Source: MADE (Germain et al., 2015).
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        width: int,
        hidden: int = 2,
        context: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conditional = bool(context)
        entering, leaving = torch.tensor(inputs), torch.tensor(outputs)
        last = int(leaving.max())
        units = (last > 0) + torch.arange(width) * max(1, last) // width  # how many positions each sees
        self.enter = MaskedLinear(entering[None] < units[:, None])
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.layers = nn.ModuleList(MaskedLinear(units[None] <= units[:, None]) for _ in range(hidden - 1))
        self.dropout = nn.Dropout(dropout)
        self.leave = zeroed(MaskedLinear(units[None] <= leaving[:, None]))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.enter(x) if self.context is None else self.enter(x) + self.context(cond)
        for layer in self.layers:
            h = layer(self.dropout(F.relu(h)))
        return self.leave(self.dropout(F.relu(h)))
