"""Networks that suit the shape of their data: convolutions for images (C, H, W), dense layers for vectors (D,)."""

from typing import Literal

from torch import nn

from fvae.networks import conv, mlp

Shape = tuple[int, ...]
Block = Literal["residual", "convnext"]


def is_image(shape: Shape) -> bool:
    return len(shape) == 3


def zero_layer(shape: Shape, channels: int) -> nn.Module:
    """A layer that starts at zero, from data of ``shape`` to so many channels: (B, C, *) -> (B, channels, *)."""
    return conv.zero_conv(shape[0], channels, 3) if is_image(shape) else mlp.zero_linear(shape[0], channels)


def strided_encoder(shape: Shape, out: int, width: int, levels: int, blocks: int) -> nn.Module:
    """(B, *shape) -> (B, out)."""
    if is_image(shape):
        return conv.vector_encoder(shape, out, width, levels, blocks)
    return mlp.mlp(shape[0], out, width, blocks)


def strided_decoder(shape: Shape, size: int, width: int, levels: int, blocks: int) -> nn.Module:
    """(B, size) -> (B, *shape)."""
    if is_image(shape):
        return conv.vector_decoder(shape, size, width, levels, blocks)
    return mlp.mlp(size, shape[0], width, blocks)


def squeezed(shape: Shape, squeezes: int) -> Shape:
    """The shape after so many squeezes, which vectors don't have."""
    return (shape[0] * 4**squeezes, *(side >> squeezes for side in shape[1:])) if is_image(shape) else shape


def squeezing_encoder(
    shape: Shape, outputs: int, squeezes: int, blocks: int, hidden: int, block: Block = "residual"
) -> nn.Module:
    """(B, *shape) -> (B, outputs c, *) with (c, *) the shape after the squeezes."""
    if is_image(shape):
        net = conv.squeezing(shape[0], squeezes, blocks, hidden, conv.BLOCKS[block])
    else:
        net = mlp.residual_mlps(shape[0], max(shape[0], hidden), blocks)
    latent = squeezed(shape, squeezes)
    return net if outputs == 1 else nn.Sequential(net, zero_layer(latent, outputs * latent[0]))


def squeezing_decoder(
    shape: Shape, squeezes: int, blocks: int, hidden: int, block: Block = "residual", tanh: bool = False
) -> nn.Module:
    """The mirror image of ``squeezing_encoder``: (B, c, *) -> (B, *shape), with ``tanh`` in [-1, 1]."""
    if is_image(shape):
        net = conv.unsqueezing(shape[0], squeezes, blocks, hidden, conv.BLOCKS[block])
    else:
        net = mlp.residual_mlps(shape[0], max(shape[0], hidden), blocks)
    return nn.Sequential(net, nn.Tanh()) if tanh else net
