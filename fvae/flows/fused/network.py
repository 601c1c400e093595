"""The network of Glow's couplings, and its convolutions as matrix products where these are faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.networks.residual import zeroed

FEW = 8  # channels; measured in docs/performance.md


class CouplingNet(nn.Module):
    """conv3x3 - ReLU - conv1x1 - ReLU - conv3x3 (zero): (B, c_in, H, W) -> (B, c_out, H, W) (Kingma & Dhariwal, 2018).

    With features (B, F, H, W), or those of several scales by height, {H: ...}, their 1x1 convolution is added to the
    first one, which for many features takes a fraction of a 3x3 convolution's time. On a CPU, between few channels, the
    3x3 convolutions are products with the neighborhoods gathered, or summed.
    """

    def __init__(self, c_in: int, c_out: int, width: int, features: int = 0):
        super().__init__()
        self.conditional = features > 0
        if features:
            self.weight_f = nn.Conv2d(features, width, 1, bias=False).weight
        layers: Any = nn.Conv2d(c_in, width, 3), nn.Conv2d(width, width, 1), zeroed(nn.Conv2d(width, c_out, 3))
        self.weight_1, self.bias_1 = layers[0].weight, layers[0].bias
        self.weight_2, self.bias_2 = layers[1].weight, layers[1].bias
        self.weight_3, self.bias_3 = layers[2].weight, layers[2].bias

    def forward(self, x: Tensor, features: Tensor | dict[int, Tensor] | None = None) -> Tensor:
        given = features[x.shape[2]] if isinstance(features, dict) else features
        given = None if given is None else given.to(x.dtype)
        few = max(self.weight_1.shape[1], len(self.weight_3)) <= FEW
        eager = x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
        return (self.by_products if few and eager else self.by_convolutions)(x, given)

    def by_convolutions(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        h = F.conv2d(x, self.weight_1, self.bias_1, padding=1)
        h = (h if features is None else h + F.conv2d(features, self.weight_f)).relu_()
        h = F.conv2d(h, self.weight_2, self.bias_2).relu_()
        return F.conv2d(h, self.weight_3, self.bias_3, padding=1)

    def by_products(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        near = x.permute(0, 2, 3, 1)
        first = self.weight_1.permute(2, 3, 1, 0).flatten(0, 2)
        last = self.weight_3.flip(2, 3).permute(1, 2, 3, 0).flatten(1)
        h = torch.addmm(self.bias_1, gather(near).flatten(0, 2), first)
        if features is not None:
            h = torch.addmm(h, features.permute(0, 2, 3, 1).flatten(0, 2), self.weight_f[:, :, 0, 0].T)
        h = torch.addmm(self.bias_2, h.relu_(), self.weight_2[:, :, 0, 0].T).relu_()
        return (scatter((h @ last).unflatten(0, near.shape[:3])) + self.bias_3).permute(0, 3, 1, 2)


def gather(a: Tensor) -> Tensor:
    """Each position's 3x3 neighbors, zero beyond the border: (B, H, W, C) -> (B, H, W, 9 C)."""
    b, h, w, c = a.shape
    padded = F.pad(a, (0, 0, 1, 1, 1, 1)).contiguous()  # a's own order may not have been
    line = (w + 2) * c
    rows = padded.as_strided((b, h, w, 3, 3 * c), ((h + 2) * line, line, c, line, 1))
    return rows.reshape(b, h, w, 9 * c).contiguous()  # of w = 1 the rows would still overlap


def scatter(a: Tensor) -> Tensor:
    """Each position's values for its 3x3 neighbors, added up where they belong: (B, H, W, 9 C) -> (B, H, W, C)."""
    b, h, w, c = a.shape
    across = F.pad(a.view(b, h, w, 3, 3, c // 9), (0, 0, 0, 0, 0, 0, 1, 1))
    line = across[:, :, 2:, :, 0] + across[:, :, 1:-1, :, 1] + across[:, :, :-2, :, 2]
    down = F.pad(line, (0, 0, 0, 0, 0, 0, 1, 1))
    return down[:, 2:, :, 0] + down[:, 1:-1, :, 1] + down[:, :-2, :, 2]
