"""Convolutional networks: what couplings, f-VAE's E and G, and the VAE's encoder and decoder are made of."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.networks.residual import Residual, zeroed


def conv(c_in: int, c_out: int, size: int, bias: bool = True) -> nn.Conv2d:
    """A convolution of odd size, stride 1, same size out as in: (B, c_in, H, W) -> (B, c_out, H, W)."""
    return nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=bias)


def residual(channels: int, hidden: int) -> Residual:
    """x + conv1x1(ReLU(GroupNorm(conv3x3(x)))), the last at zero: (B, C, H, W) to itself.

    GroupNorm, since BatchNorm's statistics would have to be estimated again before sampling.
    """
    norm = nn.GroupNorm(math.gcd(8, hidden), hidden)
    return Residual(conv(channels, hidden, 3, bias=False), norm, nn.ReLU(), zeroed(conv(hidden, channels, 1)))


def convnext(channels: int, hidden: int) -> Residual:
    """x + conv1x1(GELU(conv1x1(GroupNorm(depthwise 7x7(x))))), the last at zero: (B, C, H, W) to itself.

    ConvNeXt's (Liu et al., 2022). One group is their LayerNorm over channels, taken over positions too.
    """
    depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
    dense = conv(channels, hidden, 1), nn.GELU(), zeroed(conv(hidden, channels, 1))
    return Residual(depthwise, nn.GroupNorm(1, channels), *dense)


Block = Callable[[int, int], nn.Module]
BLOCKS: dict[str, Block] = {"residual": residual, "convnext": convnext}


def squeezing(channels: int, squeezes: int, blocks: int, hidden: int, block: Block = residual) -> nn.Sequential:
    """f-VAE's E: (squeeze, residual steps) times ``squeezes``: (B, C, H, W) -> (B, C 4^n, H/2^n, W/2^n)."""
    layers: list[nn.Module] = []
    for i in range(1, squeezes + 1):
        c = channels * 4**i
        layers += [nn.PixelUnshuffle(2), *(block(c, max(c, hidden)) for _ in range(blocks))]
    return nn.Sequential(*layers)


def unsqueezing(channels: int, squeezes: int, blocks: int, hidden: int, block: Block = residual) -> nn.Sequential:
    """f-VAE's G, the mirror image of E: (B, C 4^n, H/2^n, W/2^n) -> (B, C, H, W)."""
    layers: list[nn.Module] = []
    for i in range(squeezes, 0, -1):
        c = channels * 4**i
        layers += [*(block(c, max(c, hidden)) for _ in range(blocks)), nn.PixelShuffle(2)]
    return nn.Sequential(*layers)


def strided(c: int, width: int, levels: int, blocks: int) -> list[nn.Module]:
    """Strided convolutions, each with residual steps: (B, c, H, W) -> (B, width 2^(n - 1), H / 2^n, W / 2^n)."""
    widths = [width * 2**i for i in range(levels)]
    layers: list[nn.Module] = []
    for a, b in zip([c, *widths], widths, strict=False):
        layers += [nn.Conv2d(a, b, 4, stride=2, padding=1), *(residual(b, b) for _ in range(blocks)), nn.ReLU()]
    return layers


def vector_encoder(shape: tuple[int, ...], out: int, width: int, levels: int, blocks: int) -> nn.Sequential:
    """Strided convolutions and residual steps to a vector: (B, C, H, W) -> (B, out)."""
    c, h, w = shape
    values = (h >> levels) * (w >> levels) * width * 2 ** (levels - 1)
    return nn.Sequential(*strided(c, width, levels, blocks), nn.Flatten(), nn.Linear(values, out))


def grid_encoder(c: int, out: int, width: int, levels: int, blocks: int) -> nn.Sequential:
    """Strided convolutions and residual steps to a grid: (B, c, H, W) -> (B, out, H / 2^levels, W / 2^levels)."""
    return nn.Sequential(*strided(c, width, levels, blocks), conv(width * 2 ** (levels - 1), out, 3))


class StartsAtMean(nn.Module):
    """The last layer of a generator of images."""

    bias: Any

    def fit(self, x: Any) -> None:
        """Start at the mean of images (B, C, H, W) by channel, which is far from 0 where they are dark."""
        self.bias.data.copy_(x.mean((0, 2, 3)))


class ToImages(StartsAtMean, nn.Conv2d):
    """A convolution to images."""


class ToShuffledImages(StartsAtMean, nn.Conv2d):
    """A convolution to four values for each of an image's, at half of its height and width."""

    def fit(self, x: Any) -> None:
        self.bias.data.copy_(x.mean((0, 2, 3)).repeat_interleave(4))


class TransposedToImages(StartsAtMean, nn.ConvTranspose2d):
    """A transposed convolution to images."""


def vector_decoder(shape: tuple[int, ...], d: int, width: int, levels: int, blocks: int) -> nn.Sequential:
    """The mirror image of ``vector_encoder``: (B, d) -> (B, C, H, W)."""
    c, h, w = shape
    widths = [width * 2**i for i in reversed(range(levels))]
    small = (widths[0], h >> levels, w >> levels)
    layers: list[nn.Module] = [nn.Linear(d, math.prod(small)), nn.Unflatten(1, small)]
    ups = [*(levels - 1) * [nn.ConvTranspose2d], TransposedToImages]
    for a, b, up in zip(widths, [*widths[1:], c], ups, strict=True):
        layers += [*(residual(a, a) for _ in range(blocks)), nn.ReLU(), up(a, b, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


def grid_decoder(channels: int, c: int, width: int, levels: int, blocks: int, shuffled: bool = False) -> nn.Sequential:
    """The mirror image of ``grid_encoder``: (B, channels, h, w) -> (B, c, h 2^levels, w 2^levels).

    With ``shuffled`` the last scale is four images a channel, put together pixel by pixel, so that nothing is computed
    at full size but they.
    """
    widths = [width * 2**i for i in reversed(range(levels))]
    layers: list[nn.Module] = [conv(channels, widths[0], 3)]
    for a, b in zip(widths, [*widths[1:], width], strict=True):
        layers += [*(residual(a, a) for _ in range(blocks)), nn.ReLU(), nn.Upsample(scale_factor=2), conv(a, b, 3)]
    if shuffled:
        del layers[-2:]
        return nn.Sequential(*layers, ToShuffledImages(width, 4 * c, 3, padding=1), nn.PixelShuffle(2))
    return nn.Sequential(*layers, residual(width, width), nn.ReLU(), ToImages(width, c, 3, padding=1))


class Pyramid(nn.Module):
    """Features of an image and of its latent at several scales, each half of the last one's height and width.

    (B, C, H, W) and z (B, d) or (B, d, h, w) -> {H / 2: (B, channels, H / 2, W / 2), H / 4: ...}, ``levels`` in all.
    """

    def __init__(self, c: int, d: int, channels: int, levels: int):
        super().__init__()
        first = conv(4 * c + d, channels, 3)
        downs = [nn.Conv2d(channels, channels, 4, stride=2, padding=1) for _ in range(levels - 1)]
        self.levels = nn.ModuleList(nn.Sequential(down, residual(channels, channels)) for down in [first, *downs])

    def forward(self, image: Tensor, z: Tensor) -> dict[int, Tensor]:
        h = F.pixel_unshuffle(image, 2)
        z = z if z.dim() == 4 else z[:, :, None, None]
        h, found = torch.cat([h, F.interpolate(z, size=h.shape[2:])], 1), {}
        for level in self.levels:
            h = level(h)
            found[h.shape[2]] = h
        return found
