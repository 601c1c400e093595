"""What suits the shape of the data: convolutions for images (C, H, W), dense layers for vectors (D,)."""

from torch import nn

from fvae.networks.conv import conv
from fvae.networks.residual import zeroed

Shape = tuple[int, ...]


def is_image(shape: Shape) -> bool:
    return len(shape) == 3


def zero_layer(shape: Shape, channels: int) -> nn.Module:
    """A layer that starts at zero, from data of ``shape`` to so many channels: (B, C, *) -> (B, channels, *)."""
    return zeroed(conv(shape[0], channels, 3) if is_image(shape) else nn.Linear(shape[0], channels))
