"""The decoder p(x|z) of a recipe, with its settings."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from fvae.columns import Schema
from fvae.conditioners import OptimalStd, SharedStd, by_channel
from fvae.decoders import (
    AutoregressiveColumns,
    Bernoulli,
    Columns,
    ConditionalFlow,
    ConditionalLatent,
    DequantizedGaussian,
    DiscretizedGaussian,
    Gaussian,
    WithImage,
)
from fvae.errors import InputError, within
from fvae.networks.by_shape import Shape
from fvae.networks.conv import Pyramid
from fvae.parts.coders import Grid
from fvae.parts.flows import FlowPart, Glow
from fvae.parts.posteriors import Noise, Posterior
from fvae.schema import Depth, NonNegative, Part, Positive, Share, Width


class Decoder(Part):
    """The decoder p(x|z)."""

    takes_images: ClassVar[bool] = True
    """whether what G makes are images (or rows), and not logits"""

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> nn.Module:
        """The decoder of data of ``shape``, in bins of so many bits where they are images, from G of ``latent``."""
        raise NotImplementedError

    def of_columns(self, schema: Schema, generator: Callable[[int], nn.Module]) -> nn.Module:
        """The decoder of a table with a schema, from G of as many values as it asks for."""
        raise InputError(f"expected columns, of a table with a schema, found {self.kind}", "decoder")


class GaussianDecoder(Decoder, kind="gaussian"):
    """N(G(z), sigma_2^2), of images on [-1, 1], of standardized columns.

    Example:
        >>> fvae.recipes.vae((4,), decoder=fvae.GaussianDecoder(sigma=1.0, std="optimal")).elbo(torch.randn(3, 4)).shape
        torch.Size([3])
    """

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

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> Gaussian:
        discretized, least = bits and self.likelihood == "discretized", self.least
        if discretized and self.std == "optimal":
            raise InputError("expected density where std is optimal, found discretized", "decoder.likelihood")
        if bits and discretized:  # nothing is gained from a smaller one, and far less than a bin is lost in rounding
            least = max(least, min(0.1 * 2.0**-bits, self.sigma / 2))
        conditioner: nn.Module
        if self.std == "optimal":
            conditioner = OptimalStd(generator, self.sigma, least, "sigma_2")
        else:
            by, trained = by_channel(shape) if self.std == "channel" else (), self.std != "fixed"
            conditioner = SharedStd(generator, self.sigma, trained, self.lr_scale, by, least, "sigma_2")
        if not bits:
            return Gaussian(conditioner)
        return DiscretizedGaussian(conditioner, bits) if discretized else DequantizedGaussian(conditioner, bits)


class BernoulliDecoder(Decoder, kind="bernoulli"):
    """The probability that a pixel is 1, of images of 1 bit (images only).

    Example:
        >>> model = fvae.recipes.vae((1, 8, 8), decoder=fvae.BernoulliDecoder(), bits=1)
        >>> model.elbo(torch.randint(2, (3, 1, 8, 8))).shape
        torch.Size([3])
    """

    takes_images: ClassVar[bool] = False

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> Bernoulli:
        if bits != 1:
            found = f"{bits} bits" if bits else "a table"
            raise InputError(f"expected images of 1 bit (`bits`), found {found}", "decoder")
        return Bernoulli(generator)


class ColumnsDecoder(Decoder, kind="columns"):
    """A likelihood for each column of a table with a schema, by its type (tables only).

    Example:
        >>> column = fvae.Column(name="n", type="discrete", step=1.0, low=0, high=9, mean=4, std=2)
        >>> schema = fvae.Schema(columns=[column])
        >>> model = fvae.recipes.vae(schema, coder=fvae.Strided(size=2), decoder=fvae.ColumnsDecoder(components=3))
        >>> model.sample(3).shape
        torch.Size([3, 1])
    """

    components: int = Field(default=5, ge=2, le=100)
    """of the mixture of logistic distributions that a number has"""
    autoregressive: bool = False
    """give each column those before it, too, and not z alone"""
    width: Width = 256
    """hidden units of the network that sees them"""
    hidden: Depth = 2
    """its hidden layers"""
    dropout: Share = 0.0
    """share of its units that a training step leaves out"""

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> nn.Module:
        found = "images" if bits else "numbers without one; fvae.detect makes one, `types` detect of a file"
        raise InputError(f"expected a table with a schema, found {found}", "decoder")

    def of_columns(self, schema: Schema, generator: Callable[[int], nn.Module]) -> Columns:
        if self.autoregressive:
            net = generator(self.width)
            sizes = (self.components, self.width, self.hidden, self.width, self.dropout)
            return AutoregressiveColumns(net, schema, *sizes)
        decoder = Columns(nn.Identity(), schema, self.components)
        decoder.net = generator(decoder.outputs)
        return decoder


class FlowDecoder(Decoder, kind="flow"):
    """A conditional flow about G(z), a density of dequantized images (images only).

    A decoder as strong as this one leaves the latent unused if it is there from the start: train the model with a
    Gaussian decoder, then begin from its weights (``init``) with this one and the posterior frozen (``freeze``).

    Example:
        >>> decoder = fvae.FlowDecoder(flow=fvae.Glow(levels=2, depth=1, width=8), features=4)
        >>> model = fvae.recipes.f_vae_reduced((3, 16, 16), coder=fvae.Grid(channels=4, width=8), decoder=decoder)
        >>> model.sample(2, temperature=0.8, decoder_temperature=0.6).shape
        torch.Size([2, 3, 16, 16])
    """

    flow: FlowPart = Glow(levels=2, depth=4, width=64)
    """of the difference to G(z), given features of z"""
    features: Width = 32
    """channels of the features of z that the couplings see, at each scale"""
    sigma: Positive = 0.2
    """the scale of the difference to G(z) at the start, on [-1, 1] images"""
    lr_scale: Positive = 30.0
    """learning rate of sigma, in units of the networks'"""

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> ConditionalFlow:
        with within("decoder"):
            density, levels = self.flow.conditional(shape, self.features)
        if not bits or self.flow.padded(shape) != shape:
            expected = f"expected images whose height and width are multiples of {2**levels}"
            raise InputError(f"{expected}, found {' x '.join(map(str, shape))}", "decoder")
        conditioner = SharedStd(generator, self.sigma, True, self.lr_scale, name="sigma_2")
        features = Pyramid(shape[0], latent[0], self.features, levels)
        return ConditionalFlow(conditioner, density, features, shape, bits)


class LatentDecoder(Decoder, kind="latent"):
    """A second latent on a finer grid, given the first, with an encoder and a flow of its own (images only).

    Train the model with a Gaussian decoder, then begin from its weights (``init``) with this one, and freeze the
    posterior and ``decoder.conditioner``, the generator of the first stage: the second latent is then left with what
    that one does not already show. Height and width are multiples of 2^(levels of ``coder`` + levels of ``flow``).

    Example:
        >>> decoder = fvae.LatentDecoder(coder=fvae.Grid(channels=4, levels=1, width=8), flow=fvae.Glow(levels=1))
        >>> model = fvae.recipes.f_vae_reduced((3, 16, 16), coder=fvae.Grid(channels=4, width=8), decoder=decoder)
        >>> model.sample(2, temperature=0.8).shape
        torch.Size([2, 3, 16, 16])
    """

    coder: Grid = Grid(levels=2, upsampling="shuffle")
    """the networks between an image and the finer latent"""
    posterior: Posterior = Noise(sigma=0.2, std="fixed", normalize=True)
    """of the finer latent"""
    flow: FlowPart = Glow(levels=2, depth=6, width=96)
    """the density of the finer latent given the first"""
    features: Width = 32
    """channels of the features of z that the couplings see, at each scale"""
    decoder: Decoder = GaussianDecoder(sigma=0.1)
    """of an image given both latents"""
    sigma: Positive = 0.2
    """what the difference to G(z) is divided by for the encoder, at the start; with init, the first stage's sigma_2"""

    def build(self, generator: nn.Module, latent: Shape, shape: Shape, bits: int | None) -> ConditionalLatent:
        multiple = 2 ** (self.coder.levels + getattr(self.flow, "levels", 0))
        if not bits or any(side % multiple for side in shape[1:]):
            expected = f"expected images whose height and width are multiples of {multiple}"
            raise InputError(f"{expected}, found {' x '.join(map(str, shape))}", "decoder")
        fine, factor = self.coder.latent(shape), 2**self.coder.levels
        if fine[1:] < latent[1:]:
            expected, found = (" x ".join(map(str, grid[1:])) for grid in (latent, fine))
            text = f"expected a grid no coarser than the first latent's, {expected}, found {found}"
            raise InputError(text, "decoder.coder.levels")
        encoder = self.coder.encoder((2 * shape[0], *shape[1:]), self.posterior.outputs)
        small = shape[0] * factor**2
        given = self.coder.model_copy(update={"channels": small + latent[0] + fine[0]})
        generated = WithImage(given.generator(shape), shape[0], factor)
        if not self.decoder.takes_images:
            needs = "expected one about a mean image, as gaussian or flow"
            raise InputError(f"{needs}, found {self.decoder.kind}", "decoder.decoder")
        with within("decoder"):
            inner = self.decoder.build(generated, given.latent(shape), shape, bits)
            prior, levels = self.flow.conditional(fine, self.features)
        return ConditionalLatent(
            SharedStd(generator, self.sigma, name="sigma_coarse"),
            self.posterior.build(encoder, fine, None),
            prior,
            Pyramid(small, latent[0], self.features, levels),
            inner,
            fine,
            bits,
        )
