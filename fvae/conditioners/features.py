"""Features that a flow is conditioned on, one map for each of its scales."""

import torch
from torch import Tensor, nn


class WithFeatures(nn.Module):
    """A network that also sees features: (B, C, *), (B, F, *) -> net of both (B, C + F, *).

    Those of several scales are given by height, {H: (B, F, H, W), ...}.
    """

    conditional = True

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, features: Tensor | dict[int, Tensor]) -> Tensor:
        given = features if isinstance(features, Tensor) else features[x.shape[2]]
        return self.net(torch.cat([x, given.to(x.dtype)], 1))
