"""Features that a flow is conditioned on, one map for each of its scales."""

import torch
from torch import Tensor, nn


class WithFeatures(nn.Module):
    """A network that also sees features: (B, C, H, W), {H: (B, F, H, W), ...} -> net of both (B, C + F, H, W)."""

    conditional = True

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, features: dict[int, Tensor]) -> Tensor:
        return self.net(torch.cat([x, features[x.shape[2]]], 1))
