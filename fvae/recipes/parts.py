"""The parts that recipes are put together from, as typed settings: flow, coder, posterior and decoder."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import nn

from fvae.conditioners import (
    BatchNorm,
    ClassMeans,
    NetworkStd,
    OneSidedBatchNorm,
    OptimalStd,
    RelativeToClass,
    SharedStd,
    TwoSidedBatchNorm,
)
from fvae.conditioners.constant import Constant, by_channel
from fvae.data import Images, Modality, Table
from fvae.decoders import DiscretizedGaussian, Gaussian
from fvae.density import to_unit
from fvae.errors import UserError
from fvae.flows import (
    ActNorm,
    Chain,
    Checkerboard,
    Coupling,
    Elementwise,
    Flatten,
    Flow,
    InvertibleConv,
    Permute,
    Standardize,
    multiscale,
    reverse,
    scaling,
    shuffle,
)
from fvae.flows.fused import fuse
from fvae.networks.mlp import coupling_mlp
from fvae.recipes.layout import Block, Grid, layout
from fvae.recipes.registry import Count, Natural, NonNegative, OpenShare, Part, Positive, Shape
from fvae.transforms import Additive, Affine, Transform

Mixing = Literal["conv", "shuffle", "reverse"]
MIXINGS: dict[str, Callable[[int], Flow]] = {"conv": InvertibleConv, "shuffle": shuffle, "reverse": reverse}
TRANSFORMS: dict[str, Transform] = {"affine": Affine(bound=2.0), "additive": Additive()}


def is_image(shape: Shape) -> bool:
    return layout(shape) is Grid


def check_halvings(shape: Shape, halvings: int, settings: str) -> None:
    """Refuse an image whose sides can't be halved as often as the model does; raises ``UserError``."""
    n = 2 ** min(halvings, 20)  # no image is larger, and the message stays short
    if is_image(shape) and (shape[1] % n or shape[2] % n):
        up = max(n, -(-max(shape[1:]) // n) * n)
        found = f"found {shape[1]}x{shape[2]}: give smaller numbers there, or --data.size {up}"
        raise UserError(f"{settings}: expected height and width that {n} divides, {found}")


def modality(shape: Shape, bits: int) -> Modality:
    """What data of a shape are: images in bins, or rows."""
    return Images(shape, bits=bits) if is_image(shape) else Table(shape)


def in_networks_scale(net: nn.Module, shape: Shape, bits: int) -> nn.Module:
    """A network of data as they come to the posterior: bins are brought to [-1, 1], vectors are standardized before."""
    return FromBins(net, bits) if is_image(shape) else net


def standardize(shape: Shape) -> Flow | None:
    """Vectors come in any units; images in bins, which networks scale inside."""
    return None if is_image(shape) else Standardize(*shape)


class FromBins(nn.Module):
    """``net`` on bins brought to [-1, 1]."""

    def __init__(self, net: nn.Module, bits: int):
        super().__init__()
        self.net, self.bits = net, bits

    def forward(self, x):
        return self.net(to_unit(x, self.bits))


# Flows: (B, *shape) -> (B, D)


def coupling(shape: Shape, width: int, transform: Transform) -> Coupling:
    """The second half of the channels by the first."""
    keep, moved = shape[0] // 2, shape[0] - shape[0] // 2
    return Coupling(layout(shape).coupling(keep, transform.parameters * moved, width), keep, transform)


def leaving(c_in: int, c_out: int) -> nn.Module:
    """The density of the channels that leave given those that stay: a zero-initialized convolution."""
    return Grid.head(c_in, Affine.parameters * c_out)


class FlowPart(Part):
    """The flow F: of the data, or of the latents as their prior."""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        """The flow of data of ``shape``, (B, *shape) -> (B, D); without ``squeeze_first`` its first level has none."""
        raise NotImplementedError

    def couplings(self, shape: Shape) -> Flow:
        """Couplings that keep the shape, for between a posterior's affine maps: the identity at the start."""
        raise UserError(f"flow {self.kind}: expected one that can stand inside a posterior: glow")


class NoFlow(FlowPart):
    """No flow: the prior is N(0, I)."""

    kind: ClassVar[str] = "none"

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        return Flatten(shape)


class Glow(FlowPart):
    """Actnorm, mixing and coupling, at several scales (Kingma & Dhariwal, 2018)."""

    kind: ClassVar[str] = "glow"
    levels: Count = 3
    """scales; half of the channels leave after each (images only)"""
    depth: Count = 8
    """steps a level"""
    width: Count = 256
    """hidden channels, or units, of the couplings' networks"""
    mixing: Mixing = "conv"
    """of channels between couplings: learned 1x1 convolution, fixed random shuffle, or reversal"""
    coupling: Literal["affine", "additive"] = "affine"
    """affine (scale and shift) or additive (shift alone)"""
    actnorm: bool = True
    """begin each step with a trained shift and scale by channel; without, for comparisons"""

    def steps(self, shape: Shape, alternate: bool = False) -> list[Flow]:
        """One level; with ``alternate`` every other mixing is a reversal."""
        flows: list[Flow] = []
        for i in range(self.depth):
            mix = reverse if alternate and i % 2 else MIXINGS[self.mixing]
            step = coupling(shape, self.width, TRANSFORMS[self.coupling])
            flows += [ActNorm(shape, self.actnorm), mix(shape[0]), step]
        return fuse(flows)

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        if not is_image(shape):
            return Chain(*self.steps(shape), scaling(shape))
        check_halvings(shape, self.levels - (not squeeze_first), f"flow.levels {self.levels}")
        return multiscale(shape, self.levels, self.steps, leaving, squeeze_first)

    def couplings(self, shape: Shape) -> Flow:
        pairs = 2 * math.ceil(self.depth / 2)  # an even number of reversals
        steps = (coupling(shape, self.width, TRANSFORMS[self.coupling]) for _ in range(pairs))
        return Chain(*(f for step in steps for f in (step, reverse(shape[0]))))


class RealNVP(FlowPart):
    """Affine couplings by checkerboard and by shuffled channels, at several scales (Dinh et al., 2017).

    Actnorm takes the place of their batch normalization, and data keep their scale: no logit.
    """

    kind: ClassVar[str] = "realnvp"
    levels: Count = 3
    """scales; half of the channels leave after each (images only)"""
    depth: Count = 3
    """couplings by checkerboard, and as many by channel, a level"""
    width: Count = 64
    """hidden channels, or units, of the couplings' networks"""

    def checkerboards(self, shape: Shape) -> list[Flow]:
        c, transform = shape[0], TRANSFORMS["affine"]
        nets = (layout(shape).coupling(c, transform.parameters * c, self.width) for _ in range(self.depth))
        return [f for i, net in enumerate(nets) for f in (ActNorm(shape), Checkerboard(net, i % 2, transform))]

    def by_channel(self, shape: Shape) -> list[Flow]:
        # of few channels shuffles may leave some in the kept half again and again: two steps in a row change all
        return Glow(depth=self.depth, width=self.width, mixing="shuffle").steps(shape, alternate=True)

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        if not is_image(shape):
            return Chain(*self.by_channel(shape), scaling(shape))
        check_halvings(shape, self.levels - (not squeeze_first), f"flow.levels {self.levels}")
        by_itself = lambda c_in, c_out: Constant((c_out, 1, 1))  # noqa: E731
        return multiscale(shape, self.levels, self.by_channel, by_itself, squeeze_first, before=self.checkerboards)


class NICE(FlowPart):
    """Additive couplings of interleaved halves, fully connected, and a scaling at the end (Dinh et al., 2015).

    The code is Gaussian, where theirs is logistic for most data, and the last layer has a shift too.
    """

    kind: ClassVar[str] = "nice"
    depth: Count = 4
    """couplings"""
    width: Count = 1000
    """hidden units"""
    hidden: Count = 4
    """hidden layers of each coupling's network"""

    def build(self, shape: Shape, squeeze_first: bool = True) -> Flow:
        d = math.prod(shape)
        flows: list[Flow] = [Flatten(shape), Permute(torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)]))]
        for i in range(self.depth):
            keep = d // 2 if i % 2 else d - d // 2
            net = coupling_mlp(keep, d - keep, self.width, self.hidden)
            flows += [Coupling(net, keep, Additive()), Permute(torch.arange(d).roll(-keep))]
        return Chain(*flows, scaling((d,)))


# Coders: encoder and generator, and the shape of what lies between them


class Coder(Part):
    """The networks E from data to latents and G back."""

    def latent(self, shape: Shape, levels: int = 1) -> Shape:
        """The latents' shape, for data of ``shape`` under a flow of so many levels; raises ``UserError``."""
        raise NotImplementedError

    def encoder(self, shape: Shape, times: int = 1) -> nn.Module:
        """E, with ``times`` as many outputs as the latent has values or channels."""
        raise NotImplementedError

    def generator(self, shape: Shape) -> nn.Module:
        """G."""
        raise NotImplementedError


class Identity(Coder):
    """Latents that are the data."""

    kind: ClassVar[str] = "identity"

    def latent(self, shape: Shape, levels: int = 1) -> Shape:
        return shape

    def encoder(self, shape: Shape, times: int = 1) -> nn.Module:
        return nn.Identity()

    generator = encoder


class Squeezing(Coder):
    """As many latent values as the data have: squeezes with residual steps, and their mirror image (Su & Wu, 2018)."""

    kind: ClassVar[str] = "squeezing"
    squeezes: Natural = 1
    """squeezes in E, and unsqueezes in G (images only)"""
    blocks: Natural = 1
    """residual steps after each squeeze of E, and before each of G"""
    hidden: Natural = 96
    """hidden channels of the residual steps, at least (published: 0, as many as the step has channels)"""
    block: Block = "residual"
    """3x3 convolutions (published), or depthwise 7x7 and 1x1 ones (images only)"""
    tanh: bool = False
    """end G with tanh"""

    def latent(self, shape: Shape, levels: int = 1) -> Shape:
        check_halvings(shape, self.squeezes + levels - 1, f"coder.squeezes {self.squeezes}, flow.levels {levels}")
        return layout(shape).squeezed(shape, self.squeezes)

    def encoder(self, shape: Shape, times: int = 1) -> nn.Module:
        net = layout(shape).down(shape, self.squeezes, self.blocks, self.hidden, self.block)
        c = self.latent(shape)[0]
        return net if times == 1 else nn.Sequential(net, layout(shape).head(c, times * c))

    def generator(self, shape: Shape) -> nn.Module:
        net = layout(shape).up(shape, self.squeezes, self.blocks, self.hidden, self.block)
        return nn.Sequential(net, nn.Tanh()) if self.tanh else net


class Strided(Coder):
    """Latents that are a vector: strided convolutions and residual steps, or, of vectors, fully connected networks."""

    kind: ClassVar[str] = "strided"
    size: Count = 128
    """dimensions of z"""
    width: Count = 64
    """channels of the first level, doubled at each of the next, or hidden units"""
    levels: Count = 3
    """times that height and width are halved (images only)"""
    blocks: Natural = 1
    """residual steps at each scale"""

    def latent(self, shape: Shape, levels: int = 1) -> Shape:
        check_halvings(shape, self.levels, f"coder.levels {self.levels}")
        return (self.size,)

    def encoder(self, shape: Shape, times: int = 1) -> nn.Module:
        return layout(shape).to_vector(shape, times * self.size, self.width, self.levels, self.blocks)

    def generator(self, shape: Shape) -> nn.Module:
        return layout(shape).from_vector(shape, self.size, self.width, self.levels, self.blocks)


# Posteriors


class Posterior(Part):
    """The posterior q(z|x), Gaussian with what the encoder gives."""

    outputs: ClassVar[int] = 2
    """what the encoder gives for each latent value: a mean and a log-scale, or a mean"""
    aggregate: ClassVar[bool] = False
    """whether the mean is normalized over the data, and so measured from that of the label where there is one"""

    def conditioner(self, net: nn.Module, latent: Shape) -> nn.Module:
        """Mean and log standard deviation, from an encoder."""
        raise NotImplementedError

    def build(self, conditioner: nn.Module, means: ClassMeans | None) -> Flow:
        """The posterior as a flow of its noise; one that is normalized is measured from the prior's class means."""
        if means is not None and self.aggregate:
            conditioner = RelativeToClass(conditioner, means)
        return Elementwise(conditioner, Affine(bound=6.0))


class GaussianPosterior(Posterior):
    """Mean and standard deviation from the encoder (Kingma & Welling, 2014)."""

    kind: ClassVar[str] = "gaussian"

    def conditioner(self, net: nn.Module, latent: Shape) -> nn.Module:
        return net


class OneSided(Posterior):
    """Batch-normalized means of fixed deviation, so that the KL can't vanish (Zhu et al., 2020)."""

    kind: ClassVar[str] = "one-sided"
    aggregate: ClassVar[bool] = True
    gamma: Positive = 0.5
    """standard deviation of the means; the KL is at least gamma^2 / 2 a dimension"""

    def conditioner(self, net: nn.Module, latent: Shape) -> nn.Module:
        return OneSidedBatchNorm(net, latent[0], self.gamma)


class TwoSided(Posterior):
    """Means and deviations that share variance 1 over the data, so that the KL can't vanish (Su, 2020)."""

    kind: ClassVar[str] = "two-sided"
    aggregate: ClassVar[bool] = True
    tau: OpenShare = 0.5
    """least share of the means in the variance"""

    def conditioner(self, net: nn.Module, latent: Shape) -> nn.Module:
        return TwoSidedBatchNorm(net, latent[0], self.tau)


class Noise(Posterior):
    """sigma_1 u + E(x): the mean from the encoder, with noise of one deviation (Su & Wu, 2018)."""

    kind: ClassVar[str] = "noise"
    outputs: ClassVar[int] = 1
    sigma: Positive = 0.005
    """sigma_1 at the start, in the units of [-1, 1] images"""
    std: Literal["scalar", "channel", "network", "fixed"] = "scalar"
    """one trained, one trained a channel, a network's output, or fixed as later latent flows have it"""
    normalize: bool = False
    """bring E(x) to mean 0 and deviation 1 by channel, so that sigma is in units of the latent's scale"""
    lr_scale: Positive = 30.0
    """learning rate of sigma, in units of the networks'"""

    def conditioner(self, net: nn.Module, latent: Shape) -> nn.Module:
        net = nn.Sequential(net, BatchNorm(latent[0], least=1e-6)) if self.normalize else net
        if self.std == "network":
            head = layout(latent).head(latent[0], latent[0])
            return NetworkStd(net, head, self.sigma, self.lr_scale, name="sigma_1")
        shape = by_channel(latent) if self.std == "channel" else ()
        return SharedStd(net, self.sigma, self.std != "fixed", self.lr_scale, shape, name="sigma_1")


# Decoders


class Decoder(Part):
    """The decoder p(x|z)."""

    def build(self, net: nn.Module, shape: Shape, bits: int) -> nn.Module:
        """The decoder of data of ``shape``, of images in bins, from a generator."""
        raise NotImplementedError


class GaussianDecoder(Decoder):
    """N(G(z), sigma_2^2), of images on [-1, 1], of standardized columns."""

    kind: ClassVar[str] = "gaussian"
    sigma: Positive = 0.3
    """sigma_2 at the start, on [-1, 1] images or standardized columns"""
    std: Literal["scalar", "channel", "optimal", "fixed"] = "scalar"
    """one by gradient, one a channel by gradient, the optimum in closed form, or fixed"""
    likelihood: Literal["discretized", "density"] = "discretized"
    """of 8-bit values: the probability of a bin, or a density averaged over dequantization (images only)"""
    least: NonNegative = 0.0
    """the least that sigma can become"""
    lr_scale: Positive = 30.0
    """learning rate of sigma, in units of the networks'"""

    @model_validator(mode="after")
    def consistent(self) -> Any:
        if self.least >= self.sigma:
            raise ValueError(f"least: expected less than sigma, {self.sigma:g}, found {self.least:g}")
        return self

    def build(self, net: nn.Module, shape: Shape, bits: int) -> nn.Module:
        discretized, least = self.likelihood == "discretized" and is_image(shape), self.least
        if discretized and self.std == "optimal":
            raise UserError("decoder.std optimal: expected decoder.likelihood density, found discretized")
        if discretized:  # nothing is gained from less, and far less than a bin is lost in rounding
            least = max(least, min(0.1 * 2.0**-bits, self.sigma / 2))
        if self.std == "optimal":
            conditioner: nn.Module = OptimalStd(net, self.sigma, least, name="sigma_2")
        else:
            per = by_channel(shape) if self.std == "channel" else ()
            trained = self.std != "fixed"
            conditioner = SharedStd(net, self.sigma, trained, self.lr_scale, per, least, name="sigma_2")
        if discretized:
            return DiscretizedGaussian(conditioner, bits)
        return Gaussian(conditioner, bits if is_image(shape) else None)


def class_means(classes: int, d: int) -> ClassMeans | None:
    """A mean of d values for each label, None without labels."""
    return ClassMeans(classes, d) if classes else None
