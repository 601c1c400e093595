"""Recipes of images and of tabular data: each is a choice of parts."""

from typing import Annotated

from pydantic import Field

from fvae.errors import InputError
from fvae.model import LatentModel
from fvae.parts.coders import Coder, Identity, Squeezing, Strided
from fvae.parts.decoders import Decoder, GaussianDecoder
from fvae.parts.flows import MAF, NICE, FlowPart, Glow, NoFlow, RealNVP
from fvae.parts.posteriors import GaussianPosterior, Noise, Posterior, TwoSided
from fvae.recipes.models import exact_model, latent_model
from fvae.recipes.registry import Bits, Classes, Shape, recipe, variant
from fvae.schema import Depth, Positive, Width

__all__ = [
    *("bn_vae", "cvae", "f_vae", "f_vae_general", "f_vae_reduced", "glow", "maf", "nice", "noisy_flow", "nsf"),
    *("realnvp", "vae"),
]


@recipe
def nice(shape: Shape, flow: FlowPart = NICE(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """Additive couplings, fully connected (Dinh et al., 2015).

    Example:
        >>> fvae.recipes.nice((4,), flow=fvae.NICE(width=16)).sample(2).shape
        torch.Size([2, 4])
    """
    return exact_model(shape, flow, classes, bits)


@recipe
def realnvp(shape: Shape, flow: FlowPart = RealNVP(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """Affine couplings by checkerboard and by channel, at several scales (Dinh et al., 2017).

    Example:
        >>> fvae.recipes.realnvp((4,), flow=fvae.RealNVP(depth=1, width=8)).log_prob(torch.randn(3, 4)).shape
        torch.Size([3])
    """
    return exact_model(shape, flow, classes, bits)


@recipe
def glow(shape: Shape, flow: FlowPart = Glow(), classes: Classes = 0, bits: Bits = 8) -> LatentModel:
    """A multi-scale flow with exact inverse and exact likelihood of dequantized images (Kingma & Dhariwal, 2018).

    Example:
        >>> model = fvae.recipes.glow((1, 8, 8), flow=fvae.Glow(levels=2, depth=1, width=8))
        >>> x = torch.randint(256, (3, 1, 8, 8))
        >>> model.decode(model.encode(x)).sub(x).abs().max() < 0.1
        tensor(True)
    """
    return exact_model(shape, flow, classes, bits)


@variant(glow, flow=Glow(depth=6, width=128, coupling="spline"))
def nsf() -> None:
    """A flow of couplings by rational-quadratic splines (Durkan et al., 2019).

    Example:
        >>> model = fvae.recipes.nsf((4,), flow=fvae.Glow(depth=1, width=8, coupling="spline"))
        >>> model.log_prob(torch.randn(3, 4)).shape
        torch.Size([3])
    """


@variant(glow, flow=MAF())
def maf() -> None:
    """A flow whose values are each transformed as those before them say (Papamakarios et al., 2017).

    Example:
        >>> fvae.recipes.maf((4,), flow=fvae.MAF(depth=2, width=8)).log_prob(torch.randn(3, 4)).shape
        torch.Size([3])
    """


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
    """A flow of data with a little Gaussian noise instead of dequantization: F(sigma u + x) (Su & Wu, 2018).

    Example:
        >>> fvae.recipes.noisy_flow((4,), sigma=0.1, flow=fvae.Glow(depth=1, width=8)).elbo(torch.randn(3, 4)).shape
        torch.Size([3])
    """
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
    """A VAE with a Gaussian decoder and one learned sigma_2 (Kingma & Welling, 2014).

    Example:
        >>> model = fvae.recipes.vae((1, 8, 8), coder=fvae.Strided(size=4, width=8, levels=1))
        >>> model.encode(torch.randint(256, (3, 1, 8, 8))).shape
        torch.Size([3, 4])
    """
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@recipe
def cvae(
    shape: Shape,
    classes: Annotated[Width, Field(description="labels, each with its mean")] = 10,
    coder: Coder = Strided(size=16, width=32, levels=2),
    posterior: Posterior = GaussianPosterior(),
    flow: FlowPart = NoFlow(),
    decoder: Decoder = GaussianDecoder(sigma=1.0, std="fixed", likelihood="density"),
    bits: Bits = 8,
) -> LatentModel:
    """A VAE whose prior is N(mean of the label, I), so that a label can be drawn (Su, 2018).

    Encoder and decoder don't see the label, unlike those of Sohn et al. (2015). What the latent says of the image
    competes with what it says of the label: the wide fixed sigma is for samples of the right class, of images; for a
    good bound, and for tabular data, take decoder.std scalar and decoder.likelihood discretized.

    Example:
        >>> model = fvae.recipes.cvae((4,), classes=3, coder=fvae.Strided(size=2, width=8))
        >>> model.sample(2, y=torch.tensor([0, 2])).shape
        torch.Size([2, 4])
    """
    return latent_model(shape, coder, posterior, flow, decoder, classes, bits)


@variant(vae, coder=Strided(size=32, levels=2), posterior=TwoSided())
def bn_vae() -> None:
    """A VAE with a batch-normalized posterior, so that its KL can't vanish (Zhu et al., 2020; two-sided: Su, 2020).

    Example:
        >>> model = fvae.recipes.bn_vae((4,), coder=fvae.Strided(size=2, width=8), posterior=fvae.TwoSided(tau=0.3))
        >>> model.elbo(torch.randn(8, 4)).shape
        torch.Size([8])
    """


@variant(vae, coder=Squeezing(), posterior=Noise(), flow=Glow(width=128), decoder=GaussianDecoder(sigma=0.005))
def f_vae() -> None:
    """A VAE whose posterior is a conditional flow, or whose prior is one: the same (Su & Wu, 2018).

    z = F(sigma_1 u + E(x)), x ~ N(G(F^-1(z)), sigma_2^2). Built in its equal form, posterior sigma_1 u + E(x) under the
    density of F as the prior, so that training never needs F^-1.

    Example:
        >>> model = fvae.recipes.f_vae((1, 8, 8), flow=fvae.Glow(levels=2, depth=1, width=8))
        >>> model.elbo(torch.randint(256, (3, 1, 8, 8)), samples=4).shape
        torch.Size([3])
    """


@variant(vae, posterior=Noise(sigma=0.1), flow=Glow())
def f_vae_reduced() -> None:
    """f-VAE of fewer dimensions than the data: sigma_1 u + E(x) in R^d under a flow's density (Su & Wu, 2018).

    Example:
        >>> model = fvae.recipes.f_vae_reduced((4,), coder=fvae.Strided(size=2), flow=fvae.Glow(depth=1))
        >>> model.encode(torch.randn(3, 4)).shape
        torch.Size([3, 2])
    """


@recipe
def f_vae_general(
    shape: Shape,
    rounds: Annotated[Depth, Field(description="flows of the posterior, the last of which is the prior's")] = 2,
    coder: Coder = Squeezing(),
    sigma: Annotated[
        Positive,
        Field(description="the first sigma_i at the start, in the units of [-1, 1] images; the others begin at 1"),
    ] = 0.005,
    flow: FlowPart = Glow(depth=6, width=128),
    decoder: Decoder = GaussianDecoder(sigma=0.005),
    flow_prior: Annotated[
        bool, Field(description="whether the last flow is the prior's; without, the prior is N(0, I), and z = h_n")
    ] = True,
    classes: Classes = 0,
    bits: Bits = 8,
) -> LatentModel:
    """f-VAE of several rounds, f_i = F_i(sigma_i(x) f_(i-1) + mu_i(x)), f_0 = u, z = f_n (Su & Wu, 2018).

    Built in its equal form: with h_i = sigma_i(x) f_(i-1) + mu_i(x), so that f_i = F_i(h_i), the posterior is h_n, the
    prior the density of F_n, and the decoder G(h_n). sigma_i(x) are networks; sigma is the first at the start, the
    others begin at 1. The flows of the posterior are ``flow.couplings``, of as many steps. Without ``flow_prior`` those
    are all: the posterior has n - 1 flows, and the prior none.

    Example:
        >>> model = fvae.recipes.f_vae_general((4,), rounds=2, flow=fvae.Glow(depth=2, width=8))
        >>> model.elbo(torch.randn(3, 4)).shape
        torch.Size([3])
    """
    if rounds == 1 and not flow_prior:
        raise InputError("expected true with one round, which has no other flow", "flow_prior")
    posterior, prior = Noise(sigma=sigma, std="network"), flow if flow_prior else NoFlow()
    return latent_model(shape, coder, posterior, prior, decoder, classes, bits, rounds, flow)
