"""What recipes put together from their parts: a flow on the data themselves, or a latent between two networks."""

import math

from torch import nn

from fvae.conditioners import ClassMeans, FromBins
from fvae.data import Images, Modality, Table
from fvae.decoders import Exact, ExactBins
from fvae.flows import Dequantize, Flow, PointMass, Standardize, with_classes
from fvae.model import LatentModel
from fvae.networks.by_shape import Shape, is_image
from fvae.parts.coders import Coder, check_sides
from fvae.parts.decoders import Decoder
from fvae.parts.flows import FlowPart
from fvae.parts.posteriors import Posterior


def exact_model(shape: Shape, flow: FlowPart, classes: int, bits: int) -> LatentModel:
    """A flow on the data themselves: the posterior is dequantization, or nothing, and the decoder exact."""
    data = modality(shape, bits)
    check_sides(shape, flow.divisor(), "flow.levels")
    prior = prior_of(shape, flow, classes)[0]
    if isinstance(data, Images):
        return assemble(data, Dequantize(data.bits), ExactBins(data.bits), prior, shape)
    return assemble(data, PointMass(), Exact(), prior, shape)


def latent_model(
    shape: Shape, coder: Coder, posterior: Posterior, flow: FlowPart, decoder: Decoder, classes: int, bits: int
) -> LatentModel:
    """Posterior and decoder of a coder's networks, and the density of a flow as the prior."""
    data, latent = modality(shape, bits), coder.latent(shape)
    if is_image(latent):
        check_sides(shape, shape[1] // latent[1] * flow.divisor(coder.squeeze_first), "flow.levels")
    encoder = from_data(coder.encoder(shape, posterior.outputs), data)
    decoded = decoder.build(coder.generator(shape), shape, data.bits)
    prior, means = prior_of(latent, flow, classes, coder.squeeze_first)
    return assemble(data, posterior.build(encoder, latent, means), decoded, prior, latent)


def prior_of(latent: Shape, flow: FlowPart, classes: int, squeeze_first: bool = True) -> tuple[Flow, ClassMeans | None]:
    """The density of a flow, with a mean of the codes for each class; the means where codes are latents."""
    density = flow.build(latent, squeeze_first)
    means = ClassMeans(classes, math.prod(latent)) if classes else None
    return with_classes(density, means), means if getattr(density, "translation", False) else None


def assemble(data: Modality, posterior: nn.Module, decoder: nn.Module, prior: Flow, latent: Shape) -> LatentModel:
    """A model of images, which the networks scale inside, or of tables, which come in any units."""
    preprocess = Standardize(*data.shape) if isinstance(data, Table) else None
    return LatentModel(posterior, decoder, prior, data.shape, latent, preprocess, data)


def modality(shape: Shape, bits: int) -> Modality:
    """What data of a shape are: images in bins, or a table."""
    return Images(shape, bits=bits) if is_image(shape) else Table(shape)


def from_data(net: nn.Module, data: Modality) -> nn.Module:
    """A network of preprocessed data: bins are brought to [-1, 1]."""
    return FromBins(net, data.bits) if isinstance(data, Images) else net
