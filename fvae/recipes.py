"""Every model as one expression over the three rooms. A recipe's arguments are its settings.

A model made here knows the recipe and the settings that made it (``model.config``), which is all that is needed to
build it again.
"""

import math
from functools import partial
from typing import Literal

from torch import nn

from fvae.bound import LatentModel
from fvae.errors import UserError
from fvae.flows import Chain, Colour, Flatten, Flow, Unconditional
from fvae.nets.text import LSTMEncoder
from fvae.params import Normalised, Nothing, Relative, Scaler, SharedStd, Split
from fvae.registry import RECIPES, Shape, TextShape, divisible, recipe, several
from fvae.rooms import (
    Affine,
    Bins,
    Block,
    Kind1,
    Kind2,
    LanguageModel,
    Mixing,
    Probability,
    check_decoder,
    coders,
    couplings,
    exact,
    gaussian,
    glow_flow,
    labelled,
    language,
    nice_flow,
    noised,
    realnvp_flow,
    same_size,
    scale,
    scaled,
    zero_head,
)
from fvae.tokens import Tokens

__all__ = [
    "RECIPES",
    *[
        "nice",
        "realnvp",
        "glow",
        "noisy_flow",
        "vae",
        "cvae",
        "bn_vae",
        "f_vae",
        "f_vae_reduced",
        "f_vae_general",
        "text_vae",
        "language_model",
    ],
]


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
    several(shape)
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
    divisible(shape, levels, f"levels {levels}")
    several(shape)
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
    divisible(shape, levels, f"levels {levels}")
    several(shape)
    return exact(glow_flow(shape, levels, depth, width, mixing, coupling, actnorm=actnorm), shape, classes, bits)


@recipe
def noisy_flow(
    shape: Shape,
    sigma: float = 0.02,
    flow: Literal["glow", "realnvp", "nice"] = "glow",
    levels: int = 3,
    depth: int = 8,
    width: int = 256,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A flow of data with a little Gaussian noise instead of dequantisation: F(sigma u + x) (Su & Wu, 2018).

    Args:
        sigma: the noise's fixed standard deviation, on [-1, 1] images or standardised columns
        flow: the flow F, with the networks and the mixing of the recipe of that name
    """
    if flow != "nice":
        divisible(shape, levels, f"levels {levels}")
    several(shape)
    make = {
        "glow": partial(glow_flow, shape, levels, depth, width, "conv", "affine"),
        "realnvp": partial(realnvp_flow, shape, levels, depth, width),
        "nice": partial(nice_flow, shape, depth, width, 4),
    }[flow]
    return LatentModel(
        posterior=Colour(SharedStd(scaled(nn.Identity(), shape, bits), sigma, learned=False)),
        decoder=gaussian(nn.Identity(), shape, bits, sigma, "fixed"),
        prior=labelled(make(), math.prod(shape), classes),
        shape=shape,
        latent=shape,
        scale=scale(shape),
    )


@recipe
def vae(
    shape: Shape,
    latent: int = 128,
    width: int = 64,
    levels: int = 3,
    blocks: int = 1,
    sigma_2: float = 0.3,
    sigma_2_kind: Kind2 = "gradient",
    sigma_2_least: float = 0.0,
    bins: Bins = "quantised",
    pace: float = 30.0,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A VAE with a Gaussian decoder and one learned sigma_2 (Kingma & Welling, 2014).

    Args:
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
    """
    divisible(shape, levels, f"levels {levels}")
    encoder, decoder = coders(shape, 2 * latent, latent, width, levels, blocks)
    return LatentModel(
        posterior=Colour(Split(scaled(encoder, shape, bits), bound=6.0)),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least, bins),
        prior=labelled(Flatten((latent,)), latent, classes),
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )


@recipe
def cvae(
    shape: Shape,
    classes: int = 10,
    latent: int = 16,
    width: int = 32,
    levels: int = 2,
    blocks: int = 1,
    sigma_2: float = 1.0,
    sigma_2_kind: Kind2 = "fixed",
    sigma_2_least: float = 0.0,
    bins: Bins = "dequantised",
    pace: float = 30.0,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose prior is N(mean of the label, I), so that a label can be drawn (Su, 2018).

    Encoder and decoder don't see the label, unlike those of Sohn et al. (2015). What the latent says of the image
    competes with what it says of the label: the wide fixed sigma_2 is for samples of the right class, of images; for a
    good bound, and for rows of numbers, take sigma_2_kind gradient and bins quantised.

    Args:
        classes: labels, each with its mean
        levels: times that height and width are halved; of images alone
        width: channels of the first level, doubled at each of the next, or hidden units
    """
    settings = {k: v for k, v in locals().items() if k != "shape"}
    return vae(shape, **settings)


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
    sigma_2_kind: Kind2 = "gradient",
    sigma_2_least: float = 0.0,
    bins: Bins = "quantised",
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
    divisible(shape, levels, f"levels {levels}")
    encoder, decoder = coders(shape, 2 * latent, latent, width, levels, blocks)
    net = scaled(encoder, shape, bits)
    params: nn.Module = Normalised(net, latent, gamma) if form == "one-sided" else Scaler(net, latent, tau)
    prior = labelled(Flatten((latent,)), latent, classes)
    if isinstance(prior, Chain):  # what is normalised is the distance from the label's mean
        params = Relative(params, prior.flows[1].params)
    return LatentModel(
        posterior=Colour(params),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least, bins),
        prior=prior,
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )


@recipe
def f_vae(
    shape: Shape,
    squeezes: int = 1,
    blocks: int = 1,
    hidden: int = 96,
    block: Block = "residual",
    levels: int = 3,
    depth: int = 8,
    width: int = 128,
    mixing: Mixing = "conv",
    coupling: Affine = "affine",
    sigma_1: float = 0.005,
    sigma_1_kind: Kind1 = "scalar",
    normalised: bool = False,
    sigma_2: float = 0.005,
    sigma_2_kind: Kind2 = "gradient",
    sigma_2_least: float = 0.0,
    bins: Bins = "quantised",
    pace: float = 30.0,
    tanh: bool = False,
    classes: int = 0,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose posterior is a conditional flow, or whose prior is one: the same (Su & Wu, 2018).

    z = F(sigma_1 u + E(x)), x ~ N(G(F^-1(z)), sigma_2^2). Built in its equal form, posterior sigma_1 u + E(x) under the
    density of F as the prior, so that training never needs F^-1.

    Args:
        squeezes: squeezes in E, and unsqueezes in G; of images alone
        blocks: residual steps after each squeeze of E, and before each of G
        levels: scales of the flow F; of images alone
        depth: flow steps a level of F
        width: hidden channels of F's coupling networks
        sigma_1: the posterior's standard deviation at the start, in the units of [-1, 1] images
        sigma_1_kind: one trained, one trained a channel, a network's output, or fixed as later latent flows have it
        normalised: bring E(x) to mean 0 and deviation 1 by channel, so that sigma_1 is in units of the latent's scale
        tanh: end G with tanh
    """
    encoder, generator, latent = same_size(shape, squeezes, levels, blocks, hidden, block)
    mean = scaled(encoder(), shape, bits)
    back = nn.Sequential(generator(), nn.Tanh()) if tanh else generator()
    flow = glow_flow(latent, levels, depth, width, mixing, coupling, squeeze_first=False)
    return LatentModel(
        posterior=Colour(noised(mean, latent, sigma_1, sigma_1_kind, pace, normalised)),
        decoder=gaussian(back, shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least, bins),
        prior=labelled(flow, math.prod(latent), classes),
        shape=shape,
        latent=latent,
        scale=scale(shape),
    )


@recipe
def f_vae_general(
    shape: Shape,
    rounds: int = 2,
    squeezes: int = 1,
    blocks: int = 1,
    hidden: int = 96,
    block: Block = "residual",
    levels: int = 3,
    depth: int = 6,
    width: int = 128,
    mixing: Mixing = "conv",
    coupling: Affine = "affine",
    sigma_1: float = 0.005,
    sigma_2: float = 0.005,
    sigma_2_kind: Kind2 = "gradient",
    sigma_2_least: float = 0.0,
    bins: Bins = "quantised",
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
        sigma_1: the first sigma_i at the start, in the units of [-1, 1] images; the others begin at 1
    """
    encoder, generator, latent = same_size(shape, squeezes, levels, blocks, hidden, block)
    posterior: list[Flow] = [Colour(noised(scaled(encoder(), shape, bits), latent, sigma_1, "network", pace))]
    for _ in range(rounds - 1):
        net = nn.Sequential(encoder(), zero_head(latent, 2))
        posterior += [Unconditional(couplings(latent, depth, width, coupling)), Colour(Split(scaled(net, shape, bits)))]
    flow = glow_flow(latent, levels, depth, width, mixing, coupling, squeeze_first=False)
    return LatentModel(
        posterior=Chain(*posterior),
        decoder=gaussian(generator(), shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least, bins),
        prior=labelled(flow, math.prod(latent), classes),
        shape=shape,
        latent=latent,
        scale=scale(shape),
    )


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
    sigma_2_least: float = 0.0,
    bins: Bins = "quantised",
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
    divisible(shape, levels, f"levels {levels}")
    if latent == 1:
        raise UserError("latent must be 2 or more; found 1")
    encoder, decoder = coders(shape, latent, latent, width, levels, blocks)
    return LatentModel(
        posterior=Colour(noised(scaled(encoder, shape, bits), (latent,), sigma_1, sigma_1_kind, pace, normalised)),
        decoder=gaussian(decoder, shape, bits, sigma_2, sigma_2_kind, pace, sigma_2_least, bins),
        prior=labelled(glow_flow((latent,), 1, flow_depth, flow_width, "conv", "affine"), latent, classes),
        shape=shape,
        latent=(latent,),
        scale=scale(shape),
    )


@recipe
def text_vae(
    shape: TextShape,
    posterior: Literal["gaussian", "fixed", "one-sided", "two-sided"] = "two-sided",
    gamma: float = 0.6,
    tau: float = 0.5,
    std: float = 0.5,
    prior: Literal["normal", "flow"] = "normal",
    flow_depth: int = 4,
    flow_width: int = 128,
    decoder: LanguageModel = "lstm",
    skip: bool = True,
    latent: int = 32,
    embedding: int = 256,
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.5,
    word_dropout: float = 0.0,
    softmax: Probability = "full",
    classes: int = 0,
) -> LatentModel:
    """A VAE of sentences: LSTM encoder, and a language model that is told z as the decoder (Bowman et al., 2016).

    A language model can do without z, and then the KL vanishes. The batch-normalised posteriors can't let it (Zhu et
    al., 2020; Su, 2020), nor can a fixed deviation, as in delta-VAEs (Razavi et al., 2019); with a flow as the prior it
    is the f-VAE of text.

    Args:
        posterior: free mean and deviation; free mean and a fixed deviation; or bn_vae's one- or two-sided form
        gamma: the one-sided form's standard deviation of the means; KL is at least latent/2 gamma^2
        tau: the two-sided form's least share of the means in the variance
        std: the fixed form's deviation
        prior: N(0, I), or a flow over z
        flow_depth: steps of the flow over z
        flow_width: hidden units of its couplings
        skip: the LSTM decoder hears z beside its outputs, too (Dieng et al., 2019)
        hidden: units of the LSTMs, and of the transformer
        word_dropout: share of the tokens that the decoder is not shown in training
    """
    longest, vocabulary = shape
    check_decoder(decoder, hidden, heads)
    if prior == "flow" and latent == 1:
        raise UserError("prior flow needs latent 2 or more; found 1")
    encoder = LSTMEncoder(vocabulary, embedding, hidden, latent if posterior == "fixed" else 2 * latent)
    params: nn.Module = {
        "gaussian": lambda: Split(encoder, bound=6.0),
        "fixed": lambda: SharedStd(encoder, std, learned=False),
        "one-sided": lambda: Normalised(encoder, latent, gamma),
        "two-sided": lambda: Scaler(encoder, latent, tau),
    }[posterior]()
    flow = (
        Flatten((latent,)) if prior == "normal" else glow_flow((latent,), 1, flow_depth, flow_width, "conv", "affine")
    )
    density = labelled(flow, latent, classes)
    if isinstance(density, Chain) and prior == "normal" and "sided" in posterior:
        params = Relative(params, density.flows[1].params)
    net = language(shape, decoder, latent, skip, embedding, hidden, layers, heads, dropout, softmax)
    return LatentModel(Colour(params), Tokens(net, longest, word_dropout), density, shape, (latent,))


@recipe
def language_model(
    shape: TextShape,
    decoder: LanguageModel = "lstm",
    embedding: int = 256,
    hidden: int = 256,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.5,
    softmax: Probability = "full",
) -> LatentModel:
    """text_vae's decoder alone, with a latent of no dimensions: what a latent has to be worth (Mikolov et al., 2010).

    Args:
        hidden: units of the LSTM, or of the transformer
    """
    check_decoder(decoder, hidden, heads)
    net = language(shape, decoder, 0, False, embedding, hidden, layers, heads, dropout, softmax)
    return LatentModel(Colour(Nothing()), Tokens(net, shape[0]), Flatten((0,)), shape, (0,))
