"""Masked networks of vectors: each output sees the inputs before it."""

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
    """``hidden`` layers of ``width`` with ReLUs, each output from the inputs before it: (B, D) -> (B, P D).

    With ``context`` it is called with (B, context), too, which every output sees. Outputs p D + i, for p below P, see
    the first i inputs; the last layer is zero at the start. Source: MADE (Germain et al., 2015).
    """

    def __init__(self, d: int, outputs: int, width: int, hidden: int = 2, context: int = 0):
        super().__init__()
        self.conditional = bool(context)
        before = torch.arange(d)  # how many inputs each may depend on
        units = torch.arange(width) % max(1, d - 1) + (d > 1)
        self.enter = MaskedLinear(before[None] < units[:, None])
        self.context = nn.Linear(context, width, bias=False) if context else None
        self.layers = nn.ModuleList(MaskedLinear(units[None] <= units[:, None]) for _ in range(hidden - 1))
        self.leave = zeroed(MaskedLinear((units[None] <= before[:, None]).repeat(outputs, 1)))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h = self.enter(x) if self.context is None else self.enter(x) + self.context(cond)
        for layer in self.layers:
            h = layer(F.relu(h))
        return self.leave(F.relu(h))
