"""Decoders of exact flows, whose latent determines the data."""

from torch import nn

from fvae.flows.base import no_change


class Exact(nn.Module):
    """p(x|z) = 1 for z = x, continuous data: log p = 0."""

    likelihood = "a density of continuous data"
    exact = True  # whether z determines x

    def forward(self, x, z):
        return no_change(z)

    def mean(self, z):
        return z


class ExactBins(Exact):
    """p(x|z) = 1 for the bin 0 .. 2^bits - 1 that z = (x + U) / 2^bits, or its top left corner, lies in: log p = 0."""

    likelihood = "a probability of bins, with uniform dequantization"

    def __init__(self, bits: int, height: int | None = None, width: int | None = None):
        super().__init__()
        self.bits, self.height, self.width = bits, height, width

    def mean(self, z):
        """Bins, unrounded, so that encode(decode(e)) = e: a z in the middle of its bin gives that bin exactly."""
        return z[..., : self.height, : self.width] * 2**self.bits - 0.5
