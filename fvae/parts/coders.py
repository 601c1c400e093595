"""The networks E, from data to latents, and G back, of a recipe, with their settings."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from fvae.errors import InputError
from fvae.networks import conv, mlp
from fvae.networks.by_shape import Shape, is_image, zero_layer
from fvae.schema import Part, Width


def halvable(shape: Shape, times: int, argument: str) -> Shape:
    """The shape of images, padded so that they can be halved ``times``; raises ``InputError`` for far too many."""
    if not is_image(shape):
        return shape
    c, h, w = shape
    if times > (most := int(math.log2(8 * max(h, w)))):
        raise InputError(f"expected at most {most} halvings of height and width {h}x{w}, found {times}", argument)
    return (c, *(-(-side // 2**times) * 2**times for side in (h, w)))


class Coder(Part):
    """The networks E from data to latents and G back."""

    squeeze_first: ClassVar[bool] = False
    """whether a flow of its latents begins with a squeeze, since E has none"""

    def padded(self, shape: Shape) -> Shape:
        """The shape that data of ``shape`` are padded to for E; the methods below are given that one."""
        return shape

    def latent(self, shape: Shape) -> Shape:
        """The latents' shape, for data of ``shape``."""
        raise NotImplementedError

    def encoder(self, shape: Shape, outputs: int) -> nn.Module:
        """E, with so many outputs for each of the latent's values, channel by channel."""
        raise NotImplementedError

    def generator(self, shape: Shape) -> nn.Module:
        """G: (B, *latent) -> (B, *shape)."""
        raise NotImplementedError

    def parameters_generator(self, shape: Shape, values: int) -> nn.Module:
        """G of the parameters of columns: (B, *latent) -> (B, values), for features of ``shape`` that E sees."""
        raise InputError(f"expected strided or squeezing, for columns of several types, found {self.kind}", "coder")


class Identity(Coder, kind="identity"):
    """Latents that are the data.

    Example:
        >>> fvae.recipes.f_vae((4,), coder=fvae.Identity(), flow=fvae.Glow(depth=1, width=8)).latent
        (4,)
    """

    squeeze_first: ClassVar[bool] = True

    def latent(self, shape: Shape) -> Shape:
        return shape

    def encoder(self, shape: Shape, outputs: int) -> nn.Module:
        return nn.Identity()

    def generator(self, shape: Shape) -> nn.Module:
        return nn.Identity()


class Squeezing(Coder, kind="squeezing"):
    """As many latent values as the data have: squeezes with residual steps, and their mirror image (Su & Wu, 2018).

    Example:
        >>> fvae.recipes.f_vae((3, 16, 16), coder=fvae.Squeezing(squeezes=2), flow="realnvp").latent
        (48, 4, 4)
    """

    squeezes: int = Field(default=1, ge=0, le=16)
    """squeezes in E, and unsqueezes in G (images only)"""
    blocks: int = Field(default=1, ge=0, le=1000)
    """residual steps after each squeeze of E, and before each of G"""
    hidden: int = Field(default=96, ge=0, le=2**16)
    """hidden channels of the residual steps, at least (published: 0, as many as the step has channels)"""
    block: Literal["residual", "convnext"] = "residual"
    """3x3 convolutions (published), or depthwise 7x7 and 1x1 ones (images only)"""
    tanh: bool = False
    """end G with tanh"""

    def padded(self, shape: Shape) -> Shape:
        return halvable(shape, self.squeezes, "coder.squeezes")

    def latent(self, shape: Shape) -> Shape:
        if not is_image(shape):
            return shape
        return (shape[0] * 4**self.squeezes, *(side >> self.squeezes for side in shape[1:]))

    def encoder(self, shape: Shape, outputs: int) -> nn.Module:
        net, latent = self.network(conv.squeezing, shape), self.latent(shape)
        return net if outputs == 1 else nn.Sequential(net, zero_layer(latent, outputs * latent[0]))

    def generator(self, shape: Shape) -> nn.Module:
        net = self.network(conv.unsqueezing, shape)
        return nn.Sequential(net, nn.Tanh()) if self.tanh else net

    def parameters_generator(self, shape: Shape, values: int) -> nn.Module:
        return nn.Sequential(self.generator(shape), mlp.mlp(shape[0], values, max(shape[0], self.hidden), 0))

    def network(self, of_images: Callable[..., nn.Module], shape: Shape) -> nn.Module:
        """``conv.squeezing`` or ``conv.unsqueezing`` for images, a network of residual steps for vectors."""
        if is_image(shape):
            return of_images(shape[0], self.squeezes, self.blocks, self.hidden, conv.BLOCKS[self.block])
        return mlp.residual_mlps(shape[0], max(shape[0], self.hidden), self.blocks)


class Strided(Coder, kind="strided"):
    """Latents that are a vector: strided convolutions and residual steps, or, of vectors, fully connected networks.

    Example:
        >>> fvae.recipes.vae((3, 16, 16), coder=fvae.Strided(size=8, width=8, levels=2)).latent
        (8,)
    """

    size: Width = 128
    """dimensions of z"""
    width: Width = 64
    """channels of the first level, doubled at each of the next, or hidden units"""
    levels: int = Field(default=3, ge=1, le=16)
    """times that height and width are halved (images only)"""
    blocks: int = Field(default=1, ge=0, le=1000)
    """residual steps at each scale"""

    def padded(self, shape: Shape) -> Shape:
        return halvable(shape, self.levels, "coder.levels")

    def latent(self, shape: Shape) -> Shape:
        return (self.size,)

    def encoder(self, shape: Shape, outputs: int) -> nn.Module:
        if is_image(shape):
            return conv.vector_encoder(shape, outputs * self.size, self.width, self.levels, self.blocks)
        return mlp.mlp(shape[0], outputs * self.size, self.width, self.blocks)

    def generator(self, shape: Shape) -> nn.Module:
        if is_image(shape):
            return conv.vector_decoder(shape, self.size, self.width, self.levels, self.blocks)
        return self.parameters_generator(shape, shape[0])

    def parameters_generator(self, shape: Shape, values: int) -> nn.Module:
        return mlp.mlp(self.size, values, self.width, self.blocks)


class Grid(Coder, kind="grid"):
    """Latents on a grid: strided convolutions and residual steps to (channels, H / 2^levels, W / 2^levels), and back.

    The generator enlarges by repeated pixels before each convolution, whose transpose would draw checkerboards (Odena
    et al., 2016).

    Example:
        >>> fvae.recipes.f_vae_reduced((3, 16, 16), coder=fvae.Grid(channels=4, levels=2, width=8)).latent
        (4, 4, 4)
    """

    channels: Width = 12
    """channels of z"""
    width: Width = 32
    """channels of the first level, doubled at each of the next"""
    levels: int = Field(default=3, ge=1, le=16)
    """times that height and width are halved"""
    blocks: int = Field(default=1, ge=0, le=1000)
    """residual steps at each scale"""
    upsampling: Literal["nearest", "shuffle"] = "nearest"
    """of G to its full size: repeated pixels, then convolutions, or four values a pixel put side by side, in 0.6 of
    the time of a step"""

    def padded(self, shape: Shape) -> Shape:
        if not is_image(shape):
            raise InputError("expected images, whose latents are on a grid, found vectors", "coder")
        return halvable(shape, self.levels, "coder.levels")

    def latent(self, shape: Shape) -> Shape:
        return (self.channels, *(side >> self.levels for side in shape[1:]))

    def encoder(self, shape: Shape, outputs: int) -> nn.Module:
        return conv.grid_encoder(shape[0], outputs * self.channels, self.width, self.levels, self.blocks)

    def generator(self, shape: Shape) -> nn.Module:
        shuffled = self.upsampling == "shuffle"
        return conv.grid_decoder(self.channels, shape[0], self.width, self.levels, self.blocks, shuffled)
