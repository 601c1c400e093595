"""The decoder of an exact flow, whose latent determines the data."""

from torch import nn

from fvae.flows.base import no_change

CONTINUOUS = "none: a density of continuous data"


class Exact(nn.Module):
    """p(x|z) = 1 for the bin that z = (x + U) / 2^bits lies in: log p = 0.

    Without bits: of continuous data, where z is x.
    """

    def __init__(self, bits: int | None = None):
        super().__init__()
        self.bits = bits
        self.likelihood = CONTINUOUS if bits is None else "uniform dequantization, sampled"

    def forward(self, x, z):
        return no_change(z)

    def mean(self, z):
        """Bins, unrounded, so that encode(decode(e)) = e: a z in the middle of its bin gives that bin exactly."""
        return z if self.bits is None else z * 2**self.bits - 0.5
