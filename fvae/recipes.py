"""Every model as one expression over the three rooms. A recipe's arguments are its settings.

The only place where networks and probability meet. A model made here knows the recipe and the settings that made it
(``model.config``), which is all that is needed to build it again. Of images (C, H, W) networks are convolutions, of
vectors (D,) they are fully connected.
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
    Blind,
    Chain,
    Checkerboard,
    Colour,
    Coupling,
    Dequantise,
    Exact,
    Flatten,
    Flow,
    InvertibleConv,
    Permute,
    Standardise,
    Steps,
    Whiten,
    multiscale,
    reverse,
    shuffle,
)
from fvae.likelihoods import BinnedGaussian, Certain, Gaussian, Scaled
from fvae.nets.conv import BLOCKS, coupling_net, squeezing, unsqueezing, vector_decoder, vector_encoder, zero_conv
from fvae.nets.mlp import ResidualMLP, coupling_mlp, mlp, zero_linear
from fvae.params import (
    BestStd,
    ClassMeans,
    Headed,
    Learned,
    MeanOnly,
    Normalised,
    Relative,
    Scaler,
    SharedStd,
    Split,
    Statistics,
    by_channel,
)
from fvae.registry import RECIPES, Shape, divisible, recipe, several

__all__ = [
    "RECIPES",
    *["nice", "realnvp", "glow", "noisy_flow", "vae", "cvae", "bn_vae", "f_vae", "f_vae_reduced", "f_vae_general"],
]

Mixing = Literal["conv", "shuffle", "reverse"]
Affine = Literal["affine", "additive"]
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


def still(shape: Shape, depth: int, width: int, coupling: Affine) -> Flow:
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

    few = len(shape) == 1  # of few columns a shuffle may move none: two steps in a row move all
    shuffled = steps(depth, width, "shuffle", "affine", turns=few)
    if few:
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
    return Chain(Blind(flow), Whiten(ClassMeans(classes, d))) if classes else flow


def scale(shape: Shape) -> Flow | None:
    """Vectors come in any units; images in bins, which networks scale inside."""
    return Standardise(*shape) if len(shape) == 1 else None


def scaled(net: nn.Module, shape: Shape, bits: int) -> nn.Module:
    """A network of data, as they come to the posterior."""
    return Scaled(net, bits) if len(shape) == 3 else net


Kind2 = Literal["gradient", "channel", "closed", "fixed"]


def gaussian(
    net: nn.Module,
    shape: Shape,
    bits: int,
    sigma: float,
    kind: Kind2 = "gradient",
    pace: float = 1.0,
    least: float = 0.0,
) -> nn.Module:
    """The decoder N(net(z), sigma^2), in bins for images."""
    stds = by_channel(shape) if kind == "channel" else ()
    params = BestStd(net, sigma) if kind == "closed" else SharedStd(net, sigma, kind != "fixed", pace, stds, least)
    return BinnedGaussian(params, bits) if len(shape) == 3 else Gaussian(params)


Kind1 = Literal["scalar", "channel", "network", "fixed"]


def noised(
    net: nn.Module, latent: Shape, sigma: float, kind: Kind1 = "scalar", pace: float = 1.0, normalised: bool = False
) -> nn.Module:
    """Who sets the posterior sigma_1 u + E(x): mean E(x), maybe brought to mean 0 and deviation 1 by channel."""
    c = latent[0]
    if normalised:
        net = nn.Sequential(net, Statistics(c, least=1e-6))
    if kind == "network":
        return Headed(net, zero_conv(c, c, 3) if len(latent) == 3 else zero_linear(c, c), sigma)
    return SharedStd(net, sigma, kind != "fixed", pace, by_channel(latent) if kind == "channel" else ())


# Recipes


@recipe
def nice(
    shape: Shape, depth: int = 4, width: int = 1000, hidden: int = 4, classes: int = 0, bits: int = 8
) -> LatentModel:
    """Additive couplings of interleaved halves, fully connected, and a scaling at the end (Dinh et al., 2015).

    The code is Gaussian, where theirs is logistic for most data, and the last layer has a shift too.

    Args:
        depth: couplings
        hidden: hidden layers of each coupling's network
    """
    several("nice", shape)
    return exact(nice_flow(shape, depth, width, hidden), shape, classes, bits)


@recipe
def realnvp(
    shape: Shape, levels: int = 3, depth: int = 3, width: int = 64, classes: int = 0, bits: int = 8
) -> LatentModel:
    """Affine couplings by checkerboard and by shuffled channels, at several scales (Dinh et al., 2017).

    Actnorm takes the place of their batch normalisation, and data keep their scale: no logit.

    Args:
        depth: couplings by place, and as many by channel, a level
    """
    divisible("realnvp", shape, levels, f"levels {levels}")
    several("realnvp", shape)
    return exact(realnvp_flow(shape, levels, depth, width), shape, classes, bits)


@recipe
def glow(
    shape: Shape,
    levels: int = 3,
    depth: int = 8,
    width: int = 256,
    mixing: Mixing = "conv",
    coupling: Affine = "affine",
    actnorm: bool = True,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A multi-scale flow with exact inverse and exact likelihood of dequantised images (Kingma & Dhariwal, 2018).

    Args:
        actnorm: begin each step with a trained shift and scale by channel; without, for comparisons
    """
    divisible("glow", shape, levels, f"levels {levels}")
    several("glow", shape)
    return exact(glow_flow(shape, levels, depth, width, mixing, coupling, actnorm=actnorm), shape, classes, bits)


@recipe
def noisy_flow(
    shape: Shape,
    sigma: float = 0.02,
    flow: Literal["glow", "realnvp", "nice"] = "glow",
    levels: int = 3,
    depth: int = 8,
    width: int = 256,
    bits: int = 8,
) -> LatentModel:
    """A flow of data with a little Gaussian noise instead of dequantisation: F(sigma u + x) (Su & Wu, 2018).

    Args:
        sigma: the noise's fixed standard deviation, on [-1, 1] images or standardised columns
        flow: the flow F, with the networks and the mixing of the recipe of that name
    """
    if flow != "nice":
        divisible("noisy_flow", shape, levels, f"levels {levels}")
    several("noisy_flow", shape)
    make = {
        "glow": partial(glow_flow, shape, levels, depth, width, "conv", "affine"),
        "realnvp": partial(realnvp_flow, shape, levels, depth, width),
        "nice": partial(nice_flow, shape, depth, width, 4),
    }[flow]
    return LatentModel(
        posterior=Colour(SharedStd(scaled(nn.Identity(), shape, bits), sigma, learned=False)),
        decoder=gaussian(nn.Identity(), shape, bits, sigma, "fixed"),
        prior=make(),
        shape=shape,
        latent=shape,
        scale=scale(shape),
    )


def coders(shape: Shape, out: int, latent: int, width: int, levels: int, blocks: int) -> tuple[nn.Module, nn.Module]:
    """A VAE's encoder to ``out`` values and its decoder from ``latent``."""
    if len(shape) == 1:
        return mlp(shape[0], out, width, blocks), mlp(latent, shape[0], width, blocks)
    encoder = vector_encoder(shape, out, width, levels, blocks)
    return encoder, vector_decoder(shape, latent, width, levels, blocks)


@recipe
def vae(
    shape: Shape,
    latent: int = 128,
    width: int = 64,
    levels: int = 3,
    blocks: int = 1,
    sigma_2: float = 0.3,
    sigma_2_kind: Kind2 = "gradient",
    pace: float = 30.0,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A VAE with a Gaussian decoder and one learned sigma_2 (Kingma & Welling, 2014).

    Args:
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
    """
    divisible("vae", shape, levels, f"levels {levels}")
    encoder, decoder = coders(shape, 2 * latent, latent, width, levels, blocks)
    return LatentModel(
        posterior=Colour(Split(scaled(encoder, shape, bits), bound=6.0)),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace),
        prior=labelled(Flatten((latent,)), latent, classes),
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )


@recipe
def cvae(
    shape: Shape,
    classes: int = 10,
    latent: int = 32,
    width: int = 64,
    levels: int = 2,
    blocks: int = 1,
    sigma_2: float = 0.3,
    pace: float = 30.0,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose prior is N(mean of the label, I), so that a label can be drawn (Su, 2018).

    Encoder and decoder don't see the label, unlike those of Sohn et al. (2015).

    Args:
        classes: labels, each with its mean
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
    """
    divisible("cvae", shape, levels, f"levels {levels}")
    settings = {"latent": latent, "width": width, "levels": levels, "blocks": blocks, "sigma_2": sigma_2, "pace": pace}
    return vae(shape, **settings, classes=classes, bits=bits)


@recipe
def bn_vae(
    shape: Shape,
    form: Literal["one-sided", "two-sided"] = "two-sided",
    gamma: float = 0.5,
    tau: float = 0.5,
    latent: int = 32,
    width: int = 64,
    levels: int = 2,
    blocks: int = 1,
    sigma_2: float = 0.3,
    pace: float = 30.0,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose posterior is batch-normalised, so that its KL can't vanish (Zhu et al., 2020; two-sided: Su, 2020).

    Args:
        form: one-sided, means of fixed deviation gamma; or two-sided, means and deviations that share variance 1
        gamma: the one-sided form's standard deviation of the means; KL is at least latent/2 gamma^2
        tau: the two-sided form's least share of the means in the variance
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
    """
    divisible("bn_vae", shape, levels, f"levels {levels}")
    encoder, decoder = coders(shape, 2 * latent, latent, width, levels, blocks)
    net = scaled(encoder, shape, bits)
    params: nn.Module = Normalised(net, latent, gamma) if form == "one-sided" else Scaler(net, latent, tau)
    prior = labelled(Flatten((latent,)), latent, classes)
    if isinstance(prior, Chain):  # what is normalised is the distance from the label's mean
        params = Relative(params, prior.flows[1].params)
    return LatentModel(
        posterior=Colour(params),
        decoder=gaussian(decoder, shape, bits, sigma_2, "gradient", pace),
        prior=prior,
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )


def same_size(shape: Shape, squeezes: int, blocks: int, hidden: int, block: str) -> tuple[nn.Module, nn.Module, Shape]:
    """f-VAE's E and G, and the shape between them, which has as many values as the data."""
    if len(shape) == 1:
        e, g = (nn.Sequential(*(ResidualMLP(shape[0], max(shape[0], hidden)) for _ in range(blocks))) for _ in "EG")
        return e, g, shape
    c, h, w = shape
    arguments = (c, squeezes, blocks, hidden, BLOCKS[block])
    return squeezing(*arguments), unsqueezing(*arguments), (c * 4**squeezes, h >> squeezes, w >> squeezes)


@recipe
def f_vae(
    shape: Shape,
    squeezes: int = 2,
    blocks: int = 4,
    hidden: int = 64,
    block: Literal["residual", "convnext"] = "residual",
    levels: int = 3,
    depth: int = 8,
    width: int = 128,
    mixing: Mixing = "conv",
    coupling: Affine = "affine",
    rounds: int = 1,
    sigma_1: float = 0.02,
    sigma_1_kind: Kind1 = "scalar",
    normalised: bool = False,
    sigma_2: float = 0.05,
    sigma_2_kind: Kind2 = "gradient",
    sigma_2_least: float = 0.0,
    pace: float = 30.0,
    tanh: bool = False,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose posterior is a conditional flow, or whose prior is one: the same (Su & Wu, 2018).

    z = F(sigma_1 u + E(x)), x ~ N(G(F^-1(z)), sigma_2^2). Built in its equal form, posterior sigma_1 u + E(x) under the
    density of F as the prior, so that training never needs F^-1. More rounds are ``f_vae_general``'s.

    Args:
        squeezes: squeezes in E, and unsqueezes in G; of images alone
        blocks: residual steps after each squeeze of E, and before each of G
        hidden: hidden channels of those steps, at least (published: 0, as many as the step has channels)
        block: those steps: 3x3 convolutions (published), or depthwise 7x7 and 1x1 ones
        levels: scales of the flow F; of images alone
        depth: flow steps a level of F
        width: hidden channels of F's coupling networks
        rounds: flows of the posterior, the last of which is the prior's
        sigma_1: the posterior's standard deviation at the start, in the units of [-1, 1] images
        sigma_1_kind: one trained, one trained a channel, a network's output, or fixed as later latent flows have it
        normalised: bring E(x) to mean 0 and deviation 1 by channel, so that sigma_1 is in units of the latent's scale
        tanh: end G with tanh
    """
    halvings = squeezes + levels - 1
    divisible("f_vae", shape, halvings, f"squeezes {squeezes} and levels {levels}")
    several("f_vae", shape)
    if sigma_2_least >= sigma_2:
        raise UserError(f"f_vae: sigma_2_least must be below sigma_2, {sigma_2:g}; found {sigma_2_least:g}")
    encoder, decoder, latent = same_size(shape, squeezes, blocks, hidden, block)
    if tanh:
        decoder = nn.Sequential(decoder, nn.Tanh())
    posterior: list[Flow] = [
        Colour(noised(scaled(encoder, shape, bits), latent, sigma_1, sigma_1_kind, pace, normalised))
    ]
    for _ in range(rounds - 1):
        more, _, _ = same_size(shape, squeezes, blocks, hidden, block)
        c = latent[0]
        last = zero_conv(c, 2 * c, 3) if len(latent) == 3 else zero_linear(c, 2 * c)
        net = scaled(nn.Sequential(more, last), shape, bits)
        posterior += [Blind(still(latent, depth, width, coupling)), Colour(Split(net))]
    flow = glow_flow(latent, levels, depth, width, mixing, coupling, squeeze_first=False)
    return LatentModel(
        posterior=posterior[0] if rounds == 1 else Chain(*posterior),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least),
        prior=labelled(flow, math.prod(latent), classes),
        shape=shape,
        latent=latent,
        scale=scale(shape),
    )


@recipe
def f_vae_general(
    shape: Shape,
    rounds: int = 2,
    squeezes: int = 2,
    blocks: int = 2,
    hidden: int = 64,
    levels: int = 3,
    depth: int = 6,
    width: int = 128,
    mixing: Mixing = "conv",
    coupling: Affine = "affine",
    sigma_1: float = 0.02,
    sigma_2: float = 0.05,
    pace: float = 30.0,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """f-VAE of several rounds, f_i = F_i(sigma_i(x) f_(i-1) + mu_i(x)), f_0 = u, z = f_n (Su & Wu, 2018).

    Built in its equal form: with h_i = sigma_i(x) f_(i-1) + mu_i(x), so that f_i = F_i(h_i), the posterior is h_n, the
    prior the density of F_n, and the decoder G(h_n). sigma_i(x) are networks.

    Args:
        rounds: flows of the posterior, the last of which is the prior's
        squeezes: squeezes in each mu_i, and unsqueezes in G; of images alone
        hidden: hidden channels of the residual steps, at least
        sigma_1: the first sigma_i at the start, in the units of [-1, 1] images; the others begin at 1
    """
    settings = {k: v for k, v in locals().items() if k != "shape"}
    divisible("f_vae_general", shape, squeezes + levels - 1, f"squeezes {squeezes} and levels {levels}")
    several("f_vae_general", shape)
    return f_vae(shape, **settings, sigma_1_kind="network")


@recipe
def f_vae_reduced(
    shape: Shape,
    latent: int = 128,
    width: int = 64,
    levels: int = 3,
    blocks: int = 1,
    flow_depth: int = 8,
    flow_width: int = 256,
    sigma_1: float = 0.1,
    sigma_1_kind: Kind1 = "scalar",
    normalised: bool = False,
    sigma_2: float = 0.3,
    sigma_2_kind: Kind2 = "gradient",
    pace: float = 30.0,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """f-VAE of fewer dimensions than the data: sigma_1 u + E(x) in R^d under a flow's density (Su & Wu, 2018).

    Args:
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
        flow_depth: steps of the flow over R^d
        flow_width: hidden units of its couplings
        sigma_1: the posterior's standard deviation at the start
        sigma_1_kind: one trained, one trained a dimension, a network's output, or fixed as later latent flows have it
        normalised: bring E(x) to mean 0 and deviation 1 by dimension, so that sigma_1 is in units of the latent's scale
    """
    divisible("f_vae_reduced", shape, levels, f"levels {levels}")
    if latent == 1:
        raise UserError("f_vae_reduced: latent must be 2 or more; found 1")
    encoder, decoder = coders(shape, latent, latent, width, levels, blocks)
    return LatentModel(
        posterior=Colour(noised(scaled(encoder, shape, bits), (latent,), sigma_1, sigma_1_kind, pace, normalised)),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace),
        prior=labelled(glow_flow((latent,), 1, flow_depth, flow_width, "conv", "affine"), latent, classes),
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )
