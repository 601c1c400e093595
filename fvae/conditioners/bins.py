"""Conditioners of images in bins."""

from torch import Tensor, nn

from fvae.density import to_unit


class FromBins(nn.Module):
    """``net`` of bins 0 .. 2^bits - 1, which are brought to [-1, 1]."""

    def __init__(self, net: nn.Module, bits: int):
        super().__init__()
        self.net, self.bits = net, bits

    def forward(self, x: Tensor) -> Tensor:
        return self.net(to_unit(x, self.bits))
