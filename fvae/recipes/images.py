"""Recipes of images and of rows of numbers: each is a choice of parts."""

import math
from typing import Annotated

from pydantic import Field

from fvae.decoders import Exact
from fvae.errors import UserError
from fvae.flows import Chain, Dequantize, Elementwise, PointMass, with_classes
from fvae.model import LatentModel
from fvae.recipes.parts import (
    NICE,
    Coder,
    Decoder,
    FlowPart,
    GaussianDecoder,
    GaussianPosterior,
    Glow,
    Identity,
    NoFlow,
    Noise,
    Posterior,
    RealNVP,
    Squeezing,
    Strided,
    TwoSided,
    class_means,
    in_networks_scale,
    is_image,
    modality,
    standardize,
)
from fvae.recipes.registry import Bits, Classes, Count, Positive, Shape, recipe
from fvae.transforms import Affine


def check_several(shape: Shape, expected: str = "shape: expected 2 columns") -> None:
    """Refuse vectors of one value, of which no half can set the other; raises ``UserError``."""
    if math.prod(shape) == 1:
        raise UserError(f"{expected} or more for a flow, found 1")


def exact(shape: Shape, flow: FlowPart, classes: int, bits: int) -> LatentModel:
    """A flow on the data themselves: the posterior is dequantization, or nothing, and the decoder exact."""
    check_several(shape)
    posterior, decoder = (Dequantize(bits), Exact(bits)) if is_image(shape) else (PointMass(), Exact())
    prior = with_classes(flow.build(shape), class_means(classes, math.prod(shape)))
    return LatentModel(posterior, decoder, prior, shape, shape, standardize(shape), modality(shape, bits))


def latent_model(
    shape: Shape, coder: Coder, posterior: Posterior, flow: FlowPart, decoder: Decoder, classes: int, bits: int
) -> LatentModel:
    """Posterior and decoder of a coder's networks, and the density of a flow as the prior."""
    latent = coder.latent(shape, getattr(flow, "levels", 1))
    if not isinstance(flow, NoFlow):
        check_several(latent, *["coder.size: expected 2"] * isinstance(coder, Strided))
    conditioner = posterior.conditioner(in_networks_scale(coder.encoder(shape, posterior.outputs), shape, bits), latent)
    generator = coder.generator(shape)
    density, means = (
        flow.build(latent, squeeze_first=isinstance(coder, Identity)),
        class_means(classes, math.prod(latent)),
    )
    return LatentModel(
        posterior=posterior.build(conditioner, means if isinstance(flow, NoFlow) else None),
        decoder=decoder.build(generator, shape, bits),
        prior=with_classes(density, means),
        shape=shape,
        latent=latent,
        preprocess=standardize(shape),
        modality=modality(shape, bits),
    )


@recipe
def nice(shape: Shape, flow: FlowPart = NICE(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """Additive couplings, fully connected (Dinh et al., 2015)."""
    return exact(shape, flow, classes, bits)


@recipe
def realnvp(shape: Shape, flow: FlowPart = RealNVP(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """Affine couplings by checkerboard and by channel, at several scales (Dinh et al., 2017)."""
    return exact(shape, flow, classes, bits)


@recipe
def glow(shape: Shape, flow: FlowPart = Glow(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """A multi-scale flow with exact inverse and exact likelihood of dequantized images (Kingma & Dhariwal, 2018)."""
    return exact(shape, flow, classes, bits)


@recipe
def noisy_flow(
    shape: Shape,
    sigma: Annotated[
        Positive,
        Field(description="the noise's fixed standard deviation, on [-1, 1] images or standardized columns"),
    ] = 0.02,
    flow: FlowPart = Glow(),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """A flow of data with a little Gaussian noise instead of dequantization: F(sigma u + x) (Su & Wu, 2018)."""
    posterior = Noise(sigma=sigma, std="fixed", lr_scale=1.0)
    decoder = GaussianDecoder(sigma=sigma, std="fixed", likelihood="density", lr_scale=1.0)
    return latent_model(shape, Identity(), posterior, flow, decoder, classes, bits)


@recipe
def vae(
    shape: Shape,
    coder: Coder = Strided(),
    posterior: Posterior = GaussianPosterior(),
    flow: FlowPart = NoFlow(),
    decoder: Decoder = GaussianDecoder(),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """A VAE with a Gaussian decoder and one learned sigma_2 (Kingma & Welling, 2014)."""
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def cvae(
    shape: Shape,
    classes: Annotated[Count, Field(description="labels, each with its mean")] = 10,
    coder: Coder = Strided(size=16, width=32, levels=2),
    posterior: Posterior = GaussianPosterior(),
    flow: FlowPart = NoFlow(),
    decoder: Decoder = GaussianDecoder(sigma=1.0, std="fixed", likelihood="density"),
    bits: Bits = 8,
) -> LatentModel:
    """A VAE whose prior is N(mean of the label, I), so that a label can be drawn (Su, 2018).

    Encoder and decoder don't see the label, unlike those of Sohn et al. (2015). What the latent says of the image
    competes with what it says of the label: the wide fixed sigma is for samples of the right class, of images; for a
    good bound, and for rows of numbers, take decoder.std scalar and decoder.likelihood discretized.
    """
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def bn_vae(
    shape: Shape,
    coder: Coder = Strided(size=32, levels=2),
    posterior: Posterior = TwoSided(),
    flow: FlowPart = NoFlow(),
    decoder: Decoder = GaussianDecoder(),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """A VAE with a batch-normalized posterior, so that its KL can't vanish (Zhu et al., 2020; two-sided: Su, 2020)."""
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def f_vae(
    shape: Shape,
    coder: Coder = Squeezing(),
    posterior: Posterior = Noise(),
    flow: FlowPart = Glow(width=128),
    decoder: Decoder = GaussianDecoder(sigma=0.005),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """A VAE whose posterior is a conditional flow, or whose prior is one: the same (Su & Wu, 2018).

    z = F(sigma_1 u + E(x)), x ~ N(G(F^-1(z)), sigma_2^2). Built in its equal form, posterior sigma_1 u + E(x) under the
    density of F as the prior, so that training never needs F^-1.
    """
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def f_vae_reduced(
    shape: Shape,
    coder: Coder = Strided(),
    posterior: Posterior = Noise(sigma=0.1),
    flow: FlowPart = Glow(),
    decoder: Decoder = GaussianDecoder(),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """f-VAE of fewer dimensions than the data: sigma_1 u + E(x) in R^d under a flow's density (Su & Wu, 2018)."""
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def f_vae_general(
    shape: Shape,
    rounds: Annotated[Count, Field(description="flows of the posterior, the last of which is the prior's")] = 2,
    coder: Coder = Squeezing(),
    sigma: Annotated[
        Positive,
        Field(description="the first sigma_i at the start, in the units of [-1, 1] images; the others begin at 1"),
    ] = 0.005,
    flow: FlowPart = Glow(depth=6, width=128),
    decoder: Decoder = GaussianDecoder(sigma=0.005),
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """f-VAE of several rounds, f_i = F_i(sigma_i(x) f_(i-1) + mu_i(x)), f_0 = u, z = f_n (Su & Wu, 2018).

    Built in its equal form: with h_i = sigma_i(x) f_(i-1) + mu_i(x), so that f_i = F_i(h_i), the posterior is h_n, the
    prior the density of F_n, and the decoder G(h_n). sigma_i(x) are networks; sigma is the first at the start, the
    others begin at 1. The flows of the posterior are ``flow.couplings``, of as many steps.
    """
    model = latent_model(shape, coder, Noise(sigma=sigma, std="network"), flow, decoder, classes, bits)
    rest = []
    for _ in range(rounds - 1):
        net = in_networks_scale(coder.encoder(shape, 2), shape, bits)
        rest += [flow.couplings(model.latent), Elementwise(net, Affine(bound=3.0))]
    posterior = Chain(model.posterior, *rest)
    return LatentModel(posterior, model.decoder, model.prior, shape, model.latent, model.preprocess, model.modality)
