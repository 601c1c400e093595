"""What recipes are put together from: flows at one or several scales, and posterior, decoder and prior for them.

Networks and probability meet here and in the recipes alone. Of images (C, H, W) networks are convolutions, of vectors
(D,) they are fully connected.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from fvae.bound import LatentModel
from fvae.errors import UserError
from fvae.flows import (
    ActNorm,
    Chain,
    Checkerboard,
    Coupling,
    Dequantise,
    Exact,
    Flatten,
    Flow,
    InvertibleConv,
    Permute,
    Standardise,
    Steps,
    Unconditional,
    Whiten,
    multiscale,
    reverse,
    shuffle,
)
from fvae.likelihoods import Certain, Gaussian, Quantised, Scaled
from fvae.nets.conv import BLOCKS, coupling_net, squeezing, unsqueezing, vector_decoder, vector_encoder, zero_conv
from fvae.nets.mlp import coupling_mlp, mlp, residual_mlps, zero_linear
from fvae.nets.text import LSTMDecoder, TransformerDecoder
from fvae.params import BatchNorm, BestStd, ClassMeans, Learned, MeanOnly, NetworkStd, SharedStd, Split, by_channel
from fvae.registry import Shape, TextShape, divisible, several
from fvae.tokens import AdaptiveSoftmax, Softmax

Mixing = Literal["conv", "shuffle", "reverse"]
Affine = Literal["affine", "additive"]
Kind1 = Literal["scalar", "channel", "network", "fixed"]
Kind2 = Literal["gradient", "channel", "closed", "fixed"]
Bins = Literal["dequantised", "quantised"]
Block = Literal["residual", "convnext"]
LanguageModel = Literal["lstm", "transformer"]
Probability = Literal["full", "adaptive"]
MIXINGS: dict[str, Callable[[int], Flow]] = {"conv": InvertibleConv, "shuffle": shuffle, "reverse": reverse}


# Flows: (B, *shape) -> (B, D)


def coupled(c_in: int, c_out: int, width: int, images: bool, additive: bool) -> nn.Module:
    """Who sets a coupling's shift, and scale, of c_out channels, from c_in."""
    net = coupling_net if images else coupling_mlp
    return MeanOnly(net(c_in, c_out, width)) if additive else Split(net(c_in, 2 * c_out, width), bound=2.0)


def steps(
    depth: int, width: int, mixing: Mixing, coupling: Affine, actnorm: bool = True, turns: bool = False
) -> Callable[[Shape], list[Flow]]:
    """Glow's step, ``depth`` times: actnorm, mixing, coupling; with ``turns`` every other mixing is a reversal."""

    def level(shape: Shape) -> list[Flow]:
        c = shape[0]
        keep, images = c // 2, len(shape) == 3
        flows: list[Flow] = []
        for i in range(depth):
            mix = reverse if turns and i % 2 else MIXINGS[mixing]
            params = coupled(keep, c - keep, width, images, coupling == "additive")
            flows += [ActNorm(shape, actnorm), mix(c), Coupling(params, keep)]
        return [Steps(*flows)]

    return level


def leaving(c_in: int, c_out: int) -> nn.Module:
    """The conditional prior of the channels that leave: a zero-initialised 3x3 convolution of those that stay."""
    return Split(zero_conv(c_in, 2 * c_out, 3))


def glow_flow(
    shape: Shape,
    levels: int,
    depth: int,
    width: int,
    mixing: Mixing,
    coupling: Affine,
    squeeze_first: bool = True,
    actnorm: bool = True,
) -> Flow:
    """Steps at several scales, or of vectors at one, and a scaling at the end."""
    step = steps(depth, width, mixing, coupling, actnorm)
    if len(shape) == 1:
        return Chain(*step(shape), Whiten(Learned(shape)))
    return multiscale(shape, levels, step, leaving, squeeze_first)


def couplings(shape: Shape, depth: int, width: int, coupling: Affine) -> Flow:
    """Couplings whose halves take turns, and nothing else: the identity at the start, (B, *shape) to itself."""
    c = shape[0]
    flows: list[Flow] = []
    for _ in range(2 * math.ceil(depth / 2)):  # an even number of reversals
        params = coupled(c // 2, c - c // 2, width, len(shape) == 3, coupling == "additive")
        flows += [Coupling(params, c // 2), reverse(c)]
    return Chain(*flows)


def realnvp_flow(shape: Shape, levels: int, depth: int, width: int) -> Flow:
    """Affine couplings by place, a squeeze, affine couplings of shuffled channels, at each scale."""

    def by_place(shape: Shape) -> list[Flow]:
        c = shape[0]
        pairs = [(ActNorm(shape), Checkerboard(coupled(c, c, width, True, False), i % 2)) for i in range(depth)]
        return [flow for pair in pairs for flow in pair]

    # of few channels shuffles may leave some in the kept half again and again: two steps in a row change all
    shuffled = steps(depth, width, "shuffle", "affine", turns=True)
    if len(shape) == 1:
        return Chain(*shuffled(shape), Whiten(Learned(shape)))
    return multiscale(shape, levels, shuffled, lambda c_in, c_out: Learned((c_out, 1, 1)), before=by_place)


def nice_flow(shape: Shape, depth: int, width: int, hidden: int) -> Flow:
    """Additive couplings of interleaved halves, which take turns, and a scale for each dimension."""
    d = math.prod(shape)
    interleaved = Permute(torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)]))
    flows: list[Flow] = [Flatten(shape), interleaved]
    for i in range(depth):
        keep = d // 2 if i % 2 else d - d // 2
        flows += [
            Coupling(MeanOnly(coupling_mlp(keep, d - keep, width, hidden)), keep),
            Permute(torch.arange(d).roll(-keep)),
        ]
    return Chain(*flows, Whiten(Learned((d,))))


# Rooms


def exact(flow: Flow, shape: Shape, classes: int, bits: int) -> LatentModel:
    """A flow on the data themselves: the posterior is dequantisation, or nothing, and the decoder certain."""
    images = len(shape) == 3
    posterior, decoder = (Dequantise(bits), Certain(bits)) if images else (Exact(), Certain(None))
    return LatentModel(posterior, decoder, labelled(flow, math.prod(shape), classes), shape, shape, scale(shape))


def labelled(flow: Flow, d: int, classes: int) -> Flow:
    """A prior whose code has a mean for each label."""
    return Chain(Unconditional(flow), Whiten(ClassMeans(classes, d))) if classes else flow


def scale(shape: Shape) -> Flow | None:
    """Vectors come in any units; images in bins, which networks scale inside."""
    return Standardise(*shape) if len(shape) == 1 else None


def scaled(net: nn.Module, shape: Shape, bits: int) -> nn.Module:
    """A network of data, as they come to the posterior."""
    return Scaled(net, bits) if len(shape) == 3 else net


def gaussian(
    net: nn.Module,
    shape: Shape,
    bits: int,
    sigma: float,
    kind: Kind2 = "gradient",
    pace: float = 1.0,
    least: float = 0.0,
    bins: Bins = "dequantised",
) -> nn.Module:
    """The decoder N(net(z), sigma^2), of images in bins."""
    quantised = bins == "quantised" and len(shape) == 3
    if quantised:  # nothing is gained from less, and far less than a bin is lost in rounding
        least = max(least, min(0.1 * 2.0**-bits, sigma / 2))
    if kind == "closed":
        if quantised:
            raise UserError("sigma_2_kind closed is for bins dequantised; found bins quantised")
        params: nn.Module = BestStd(net, sigma, least)
    else:
        params = SharedStd(net, sigma, kind != "fixed", pace, by_channel(shape) if kind == "channel" else (), least)
    if quantised:
        return Quantised(params, bits)
    return Gaussian(params, bits if len(shape) == 3 else None)


def noised(
    net: nn.Module, latent: Shape, sigma: float, kind: Kind1 = "scalar", pace: float = 1.0, normalised: bool = False
) -> nn.Module:
    """Who sets the posterior sigma_1 u + E(x): mean E(x), maybe brought to mean 0 and deviation 1 by channel."""
    if normalised:
        net = nn.Sequential(net, BatchNorm(latent[0], least=1e-6))
    if kind == "network":
        return NetworkStd(net, zero_head(latent, 1), sigma, pace)
    return SharedStd(net, sigma, kind != "fixed", pace, by_channel(latent) if kind == "channel" else ())


# Networks


def coders(shape: Shape, out: int, latent: int, width: int, levels: int, blocks: int) -> tuple[nn.Module, nn.Module]:
    """A VAE's encoder to ``out`` values and its decoder from ``latent``."""
    if len(shape) == 1:
        return mlp(shape[0], out, width, blocks), mlp(latent, shape[0], width, blocks)
    encoder = vector_encoder(shape, out, width, levels, blocks)
    return encoder, vector_decoder(shape, latent, width, levels, blocks)


def same_size(
    shape: Shape, squeezes: int, levels: int, blocks: int, hidden: int, block: Block
) -> tuple[Callable[[], nn.Module], Callable[[], nn.Module], Shape]:
    """Who makes f-VAE's E, and its G, and the shape between them, which has as many values as the data."""
    several(shape)
    if len(shape) == 1:
        steps = partial(residual_mlps, shape[0], max(shape[0], hidden), blocks)
        return steps, steps, shape
    divisible(shape, squeezes + levels - 1, f"squeezes {squeezes} and levels {levels}")
    c, h, w = shape
    settings = (c, squeezes, blocks, hidden, BLOCKS[block])
    latent = (c * 4**squeezes, h >> squeezes, w >> squeezes)
    return partial(squeezing, *settings), partial(unsqueezing, *settings), latent


def zero_head(latent: Shape, times: int) -> nn.Module:
    """The last layer, at zero, of a network from a latent's C channels to ``times`` C."""
    c = latent[0]
    return zero_conv(c, times * c, 3) if len(latent) == 3 else zero_linear(c, times * c)


def language(
    shape: TextShape,
    decoder: LanguageModel,
    latent: int,
    skip: bool,
    embedding: int,
    hidden: int,
    layers: int,
    heads: int,
    dropout: float,
    softmax: Probability,
) -> nn.Module:
    """A decoder of sentences that is told a latent, which may have no dimensions."""
    longest, vocabulary = shape
    out = Softmax(hidden, vocabulary) if softmax == "full" else AdaptiveSoftmax(hidden, vocabulary)
    if decoder == "lstm":
        return LSTMDecoder(vocabulary, embedding, hidden, latent, skip, dropout, out)
    return TransformerDecoder(vocabulary, longest, hidden, latent, layers, heads, dropout, out)


def check_decoder(decoder: LanguageModel, hidden: int, heads: int) -> None:
    """Refuse networks of no units, and a transformer whose heads don't share them; raises ``UserError``."""
    if not hidden:
        raise UserError("hidden must be above 0; found 0")
    if decoder == "transformer" and hidden % heads:
        raise UserError(f"hidden must be a multiple of heads, {heads}; found {hidden}")
