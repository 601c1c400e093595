"""Which networks suit data of a shape: convolutions for grids (C, H, W), fully connected ones for vectors (D,)."""

from typing import Any, Literal

from torch import nn

from fvae.flows.fused import CouplingNet
from fvae.networks import conv, mlp

Block = Literal["residual", "convnext"]


class Grid:
    """Networks of images, and of latents that are images: (B, C, H, W)."""

    dims = 3
    coupling = staticmethod(CouplingNet)

    @staticmethod
    def head(c_in: int, c_out: int) -> nn.Module:
        """A last layer that starts at zero."""
        return conv.zero_conv(c_in, c_out, 3)

    @staticmethod
    def to_vector(shape: Any, out: int, width: int, levels: int, blocks: int) -> nn.Module:
        return conv.vector_encoder(shape, out, width, levels, blocks)

    @staticmethod
    def from_vector(shape: Any, d: int, width: int, levels: int, blocks: int) -> nn.Module:
        return conv.vector_decoder(shape, d, width, levels, blocks)

    @staticmethod
    def squeezed(shape: Any, squeezes: int) -> tuple[int, ...]:
        c, h, w = shape
        return c * 4**squeezes, h >> squeezes, w >> squeezes

    @staticmethod
    def down(shape: Any, squeezes: int, blocks: int, hidden: int, block: Block) -> nn.Module:
        return conv.squeezing(shape[0], squeezes, blocks, hidden, conv.BLOCKS[block])

    @staticmethod
    def up(shape: Any, squeezes: int, blocks: int, hidden: int, block: Block) -> nn.Module:
        return conv.unsqueezing(shape[0], squeezes, blocks, hidden, conv.BLOCKS[block])


class Vector:
    """Networks of vectors: (B, D)."""

    dims = 1
    coupling = staticmethod(mlp.coupling_mlp)
    head = staticmethod(mlp.zero_linear)

    @staticmethod
    def to_vector(shape: Any, out: int, width: int, levels: int, blocks: int) -> nn.Module:
        return mlp.mlp(shape[0], out, width, blocks)

    @staticmethod
    def from_vector(shape: Any, d: int, width: int, levels: int, blocks: int) -> nn.Module:
        return mlp.mlp(d, shape[0], width, blocks)

    @staticmethod
    def squeezed(shape: Any, squeezes: int) -> tuple[int, ...]:
        return shape

    @staticmethod
    def down(shape: Any, squeezes: int, blocks: int, hidden: int, block: Block) -> nn.Module:
        return mlp.residual_mlps(shape[0], max(shape[0], hidden), blocks)

    up = down


def layout(shape: tuple[int, ...]) -> type[Grid] | type[Vector]:
    """The networks for a shape; raises ``ValueError`` for one that is neither a grid's nor a vector's."""
    for kind in (Grid, Vector):
        if len(shape) == kind.dims:
            return kind
    raise ValueError(f"shape: expected (channels, height, width) or (columns,), found {shape}")
