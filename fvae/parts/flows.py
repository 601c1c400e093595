"""The flow F of a recipe, with its settings."""

from typing import Literal

from fvae.errors import InputError
from fvae.flows import Flatten, Flow, architectures
from fvae.networks.by_shape import Shape
from fvae.schema import Count, Part


class FlowPart(Part):
    """The flow F: of the data, or of the latents as their prior."""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        """The flow of data of ``shape``, (B, *shape) -> (B, D); without ``squeeze_first`` its first level has none."""
        raise NotImplementedError

    def couplings(self, shape: Shape) -> Flow:
        """A flow of ``shape`` to itself for inside a posterior, the identity at the start; raises ``InputError``."""
        raise InputError(f"expected one that can stand inside a posterior, as glow, found {self.kind}", "flow")

    def divisor(self, squeeze_first: bool = True) -> int:
        """What an image's height and width must be divisible by."""
        return 1


class NoFlow(FlowPart, kind="none"):
    """No flow: the prior is N(0, I).

    Example:
        >>> fvae.recipes.vae((4,), flow=fvae.NoFlow()).config["settings"]["flow"]
        {'kind': 'none'}
    """

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return Flatten(shape)


class MultiscaleFlow(FlowPart):
    """A flow whose levels each squeeze space into channels, and factor half of them out."""

    levels: Count = 3
    """scales; half of the channels leave after each (images only)"""

    def divisor(self, squeeze_first: bool = True) -> int:
        return 2 ** min(self.levels - (not squeeze_first), 20)  # no image is larger


class Glow(MultiscaleFlow, kind="glow"):
    """Actnorm, mixing and coupling, at several scales (Kingma & Dhariwal, 2018).

    Example:
        >>> fvae.recipes.glow((3, 16, 16), flow=fvae.Glow(levels=3, depth=1, width=8, mixing="shuffle")).latent
        (3, 16, 16)
    """

    depth: Count = 8
    """steps a level"""
    width: Count = 256
    """hidden channels, or units, of the couplings' networks"""
    mixing: architectures.Mixing = "conv"
    """of channels between couplings: learned 1x1 convolution, fixed random shuffle, or reversal"""
    coupling: Literal["affine", "additive"] = "affine"
    """affine (scale and shift) or additive (shift alone)"""
    actnorm: bool = True
    """begin each step with a trained shift and scale by channel; without, for comparisons"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return architectures.glow(shape, squeeze_first=squeeze_first, **dict(self))

    def couplings(self, shape: Shape) -> Flow:
        return architectures.couplings(shape, self.depth, self.width, self.coupling)


class RealNVP(MultiscaleFlow, kind="realnvp"):
    """Affine couplings by checkerboard and by shuffled channels, at several scales (Dinh et al., 2017).

    Example:
        >>> fvae.recipes.f_vae((3, 16, 16), flow=fvae.RealNVP(levels=2, depth=1, width=8)).latent
        (12, 8, 8)
    """

    depth: Count = 3
    """couplings by checkerboard, and as many by channel, a level"""
    width: Count = 64
    """hidden channels, or units, of the couplings' networks"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return architectures.realnvp(shape, squeeze_first=squeeze_first, **dict(self))


class NICE(FlowPart, kind="nice"):
    """Additive couplings of interleaved halves, fully connected, and a scaling at the end (Dinh et al., 2015).

    Example:
        >>> fvae.recipes.nice((4,), flow=fvae.NICE(depth=2, width=8)).encode(torch.randn(3, 4)).shape
        torch.Size([3, 4])
    """

    depth: Count = 4
    """couplings"""
    width: Count = 1000
    """hidden units"""
    hidden: Count = 4
    """hidden layers of each coupling's network"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return architectures.nice(shape, **dict(self))
