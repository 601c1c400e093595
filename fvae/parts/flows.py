"""The flow F of a recipe, with its settings."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from fvae.conditioners import Constant, WithFeatures
from fvae.errors import InputError
from fvae.flows import (
    ActNorm,
    Autoregressive,
    Chain,
    Checkerboard,
    Coupling,
    Flatten,
    Flow,
    InvertibleConv,
    Permute,
    multiscale,
    reverse,
    scaling,
    shuffle,
)
from fvae.flows.fused import CouplingNet, fuse
from fvae.networks.by_shape import Shape, is_image
from fvae.networks.conv import conv
from fvae.networks.masked import MaskedMLP
from fvae.networks.mlp import coupling_mlp
from fvae.networks.residual import zeroed
from fvae.parts.coders import halvable
from fvae.schema import Depth, Part, Width
from fvae.transforms import Additive, Affine, LogisticMixture, RationalQuadratic, Transform

MIXINGS = {"conv": InvertibleConv, "shuffle": shuffle, "reverse": reverse}
TRANSFORMS: dict[str, Transform] = {
    "affine": Affine(bound=2.0),
    "additive": Additive(),
    "spline": RationalQuadratic(bins=8, bound=5.0),
    "logistics": LogisticMixture(components=4),
}


class FlowPart(Part):
    """The flow F: of the data, or of the latents as their prior."""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        """The flow of data of ``shape``, (B, *shape) -> (B, D); without ``squeeze_first`` its first level has none."""
        raise NotImplementedError

    def conditional(self, shape: Shape, features: int) -> tuple[Flow, int]:
        """The flow of images given so many features at each of its scales, and their number; raises ``InputError``."""
        raise InputError(f"expected one that takes a condition, as glow, found {self.kind}", "flow")

    def couplings(self, shape: Shape, features: int = 0) -> Flow:
        """A flow of ``shape`` to itself for inside a posterior, given so many features.

        At the start it is the identity, but for mixtures of logistics. Raises ``InputError``.
        """
        raise InputError(f"expected one that can stand inside a posterior, as glow, found {self.kind}", "flow")

    def padded(self, shape: Shape, squeeze_first: bool = True) -> Shape:
        """The shape that data or latents of ``shape`` are padded to for this flow."""
        return shape


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

    levels: Depth = 3
    """scales; half of the channels leave after each (images only)"""
    split_prior: Literal["conditional", "unconditional"] = "conditional"
    """of the channels that leave: given those that stay, by a convolution, or a mean and deviation by channel"""

    def padded(self, shape: Shape, squeeze_first: bool = True) -> Shape:
        return halvable(shape, self.levels - (not squeeze_first), "flow.levels")

    def density(self, stay: int, leave: int, features: int = 0) -> nn.Module:
        """The density of the channels that leave: by channel, or a convolution of those that stay, zero at first."""
        if self.split_prior == "unconditional":
            return Constant((leave, 1, 1))
        net = zeroed(conv(stay + features, Affine.parameters * leave, 3))
        return WithFeatures(net) if features else net


class Glow(MultiscaleFlow, kind="glow"):
    """Actnorm, mixing and coupling, at several scales (Kingma & Dhariwal, 2018).

    Example:
        >>> fvae.recipes.glow((3, 16, 16), flow=fvae.Glow(levels=3, depth=1, width=8, mixing="shuffle")).latent
        (3, 16, 16)
    """

    depth: Depth = 8
    """steps a level"""
    width: Width = 256
    """hidden channels, or units, of the couplings' networks"""
    mixing: Literal["conv", "shuffle", "reverse"] = "conv"
    """of channels between couplings: learned 1x1 convolution, fixed random shuffle, or reversal"""
    coupling: Literal["affine", "additive", "spline", "logistics"] = "affine"
    """affine (scale and shift), additive (shift alone), a rational-quadratic spline, or a mixture of logistics"""
    actnorm: bool = True
    """begin each step with a trained shift and scale by channel; without, for comparisons"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return multiscale(shape, self.levels, self.steps, self.density, squeeze_first)

    def conditional(self, shape: Shape, features: int) -> tuple[Flow, int]:
        steps, density = partial(self.steps, features=features), partial(self.density, features=features)
        return multiscale(shape, self.levels, steps, density), self.levels

    def steps(self, shape: Shape, features: int = 0) -> list[Flow]:
        mixings = self.depth * [MIXINGS[self.mixing]]
        return glow_steps(shape, mixings, self.width, TRANSFORMS[self.coupling], self.actnorm, features)

    def couplings(self, shape: Shape, features: int = 0) -> Flow:
        pairs = 2 * math.ceil(self.depth / 2)  # an even number of reversals
        steps = (channel_coupling(shape, self.width, TRANSFORMS[self.coupling], features) for _ in range(pairs))
        return Chain(*(f for step in steps for f in (step, reverse(shape[0]))))


class RealNVP(MultiscaleFlow, kind="realnvp"):
    """Affine couplings by checkerboard and by shuffled channels, at several scales (Dinh et al., 2017).

    Shuffles alternate with reversals, so that two couplings by channel transform every channel. Actnorm takes the place
    of their batch normalization, and data keep their scale: no logit.

    Example:
        >>> fvae.recipes.f_vae((3, 16, 16), flow=fvae.RealNVP(levels=2, depth=1, width=8)).latent
        (12, 8, 8)
    """

    split_prior: Literal["conditional", "unconditional"] = "unconditional"
    """of the channels that leave: given those that stay, by a convolution, or a mean and deviation by channel"""
    depth: Depth = 3
    """couplings by checkerboard, and as many by channel, a level"""
    width: Width = 64
    """hidden channels, or units, of the couplings' networks"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return multiscale(shape, self.levels, self.by_channel, self.density, squeeze_first, self.checkerboards)

    def by_channel(self, shape: Shape) -> list[Flow]:
        mixings = (self.depth * [shuffle, reverse])[: self.depth]
        return glow_steps(shape, mixings, self.width, TRANSFORMS["affine"])

    def checkerboards(self, shape: Shape) -> list[Flow]:
        """Actnorm and affine coupling by alternate colors of a checkerboard, ``depth`` times."""
        c, transform = shape[0], TRANSFORMS["affine"]
        flows: list[Flow] = []
        for i in range(self.depth):
            net = coupling_network(shape, c, transform.parameters * c, self.width)
            flows += [ActNorm(shape), Checkerboard(net, i % 2, transform)]
        return flows


class NICE(FlowPart, kind="nice"):
    """Additive couplings of interleaved halves, fully connected, and a scaling at the end (Dinh et al., 2015).

    The code is Gaussian, where theirs is logistic for most data, and the last layer has a shift too.

    Example:
        >>> fvae.recipes.nice((4,), flow=fvae.NICE(depth=2, width=8)).encode(torch.randn(3, 4)).shape
        torch.Size([3, 4])
    """

    depth: Depth = 4
    """couplings"""
    width: Width = 1000
    """hidden units"""
    hidden: Depth = 4
    """hidden layers of each coupling's network"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        check_halves(shape)
        d = math.prod(shape)
        flows: list[Flow] = [Flatten(shape), Permute(torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)]))]
        for i in range(self.depth):
            keep = d // 2 if i % 2 else d - d // 2
            net = coupling_mlp(keep, d - keep, self.width, self.hidden)
            flows += [Coupling(net, keep, Additive()), Permute(torch.arange(d).roll(-keep))]
        return Chain(*flows, scaling((d,)))


class MAF(FlowPart, kind="maf"):
    """Autoregressive layers of vectors, each in the reverse order of the one before it (Papamakarios et al., 2017).

    A density takes one pass, a sample as many passes a layer as there are values.

    Example:
        >>> model = fvae.recipes.maf((4,), flow=fvae.MAF(depth=2, width=16, transform="spline"))
        >>> model.log_prob(model.sample(3)).shape
        torch.Size([3])
    """

    depth: Depth = 5
    """layers"""
    width: Width = 128
    """hidden units of their networks"""
    hidden: Depth = 2
    """hidden layers of each network"""
    transform: Literal["affine", "spline", "logistics"] = "affine"
    """of each value: affine, a rational-quadratic spline, or a mixture of logistics"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        d, transform = math.prod(shape), TRANSFORMS[self.transform]
        flows: list[Flow] = [Flatten(shape)]
        for i in range(self.depth):
            net = MaskedMLP(range(d), transform.parameters * [*range(d)], self.width, self.hidden)
            flows += [*([reverse(d)] if i else []), ActNorm((d,)), Autoregressive(net, transform)]
        return Chain(*flows)


# What they consist of


def check_halves(shape: Shape) -> None:
    """Refuse data of one value; raises ``InputError``."""
    if math.prod(shape) == 1:
        raise InputError("expected data or latents of 2 values or more, which couplings halve, found 1", "flow")


def coupling_network(shape: Shape, c_in: int, c_out: int, width: int, features: int = 0) -> nn.Module:
    """(B, c_in, *) -> (B, c_out, *), zero at the start, given so many features (B, features, *) where there are any."""
    if is_image(shape):
        return CouplingNet(c_in, c_out, width, features)
    net = coupling_mlp(c_in + features, c_out, width)
    return WithFeatures(net) if features else net


def channel_coupling(shape: Shape, width: int, transform: Transform, features: int = 0) -> Coupling:
    """The first half of the channels sets the transform of the second, given so many features where there are any."""
    check_halves(shape)
    keep = shape[0] // 2
    net = coupling_network(shape, keep, transform.parameters * (shape[0] - keep), width, features)
    return Coupling(net, keep, transform)


def glow_steps(
    shape: Shape, mixings: Sequence, width: int, transform: Transform, actnorm: bool = True, features: int = 0
) -> list[Flow]:
    """Actnorm, mixing and coupling, for each of the mixings."""
    flows: list[Flow] = []
    for mixing in mixings:
        coupling = channel_coupling(shape, width, transform, features)
        flows += [ActNorm(shape, actnorm), mixing(shape[0]), coupling]
    return fuse(flows)
