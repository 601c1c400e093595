"""What recipes put together from their parts: a flow on the data themselves, or a latent between two networks."""

import math
from functools import partial
from typing import Any

from torch import nn

from fvae.columns import Schema
from fvae.conditioners import ClassMeans, FromBins, FromColumns, feature_columns
from fvae.data import Images, Modality, Table, TypedTable
from fvae.decoders import Exact, ExactBins
from fvae.errors import InputError
from fvae.flows import Augment, Chain, Dequantize, Elementwise, Flow, PointMass, Standardize, with_classes
from fvae.model import LatentModel
from fvae.networks.by_shape import Shape, is_image
from fvae.parts.coders import Coder
from fvae.parts.decoders import Decoder
from fvae.parts.flows import FlowPart, NoFlow
from fvae.parts.posteriors import Posterior
from fvae.transforms import Affine


def exact_model(shape: Any, flow: FlowPart, classes: int, bits: int) -> LatentModel:
    """A flow on the data themselves: the posterior is dequantization, or nothing, and the decoder exact."""
    if isinstance(shape, Schema):
        raise InputError(shape.refusal, "shape")
    data, latent = modality(shape, bits), flow.padded(shape)
    prior = prior_of(latent, flow, classes)[0]
    if isinstance(data, Images):
        return assemble(data, Dequantize(data.bits), ExactBins(data.bits, *shape[1:]), prior, shape, latent)
    return assemble(data, PointMass(), Exact(), prior, shape, latent)


def latent_model(
    shape: Any,
    coder: Coder,
    posterior: Posterior,
    flow: FlowPart,
    decoder: Decoder,
    classes: int,
    bits: int,
    n: int = 0,
    between: FlowPart = NoFlow(),
) -> LatentModel:
    """Posterior and decoder of a coder's networks, and the density of a flow as the prior.

    With ``n`` the posterior is a chain of so many, with flows ``between`` them.
    """
    data, schema = modality(shape, bits), shape if isinstance(shape, Schema) else None
    shape = (len(feature_columns(schema)),) if schema else shape
    image = coder.padded(shape)
    code = coder.latent(image)
    latent = flow.padded(code, coder.squeeze_first)

    def encoder(outputs: int) -> nn.Module:
        net = resized(coder.encoder(image, outputs), shape, image, code, code)
        if schema:
            return FromColumns(net, schema)
        return FromBins(net, data.bits) if isinstance(data, Images) else net

    first = encoder(posterior.outputs)
    if schema:
        decoded = decoder.of_columns(schema, partial(coder.parameters_generator, shape))
    else:
        decoded = decoder.build(resized(coder.generator(image), latent, code, image, shape), latent, shape, data.bits)
    prior, means = prior_of(latent, flow, classes, coder.squeeze_first)
    flows = [posterior.build(first, code, means)]
    for _ in range(n - 1):
        flows += [between.couplings(code), Elementwise(encoder(2), Affine(bound=3.0))]
    return assemble(data, Chain(*flows) if n else flows[0], decoded, prior, code, latent)


def resized(net: nn.Module, given: Shape, taken: Shape, made: Shape, wanted: Shape) -> nn.Module:
    """A network whose images are padded with zeros, or cropped, from ``given`` to ``taken`` and to ``wanted``."""
    pads = [(0, b[2] - a[2], 0, b[1] - a[1]) if a != b else None for a, b in ((given, taken), (made, wanted))]
    before, after = ([nn.ZeroPad2d(pad)] if pad else [] for pad in pads)
    return nn.Sequential(*before, net, *after) if before or after else net


def prior_of(latent: Shape, flow: FlowPart, classes: int, squeeze_first: bool = True) -> tuple[Flow, ClassMeans | None]:
    """The density of a flow, with a mean of the codes for each class; the means where codes are latents."""
    density = flow.build(latent, squeeze_first)
    means = ClassMeans(classes, math.prod(latent)) if classes else None
    return with_classes(density, means), means if getattr(density, "translation", False) else None


def assemble(
    data: Modality, posterior: nn.Module, decoder: nn.Module, prior: Flow, code: Shape, latent: Shape
) -> LatentModel:
    """A model of images, scaled inside, or tables, in any units; its ``latent`` may be larger than the posterior's."""
    preprocess = Standardize(*data.shape) if data.standardized else None
    posterior = posterior if code == latent else Augment(posterior, code, latent)
    return LatentModel(posterior, decoder, prior, data.shape, latent, preprocess, data)


def modality(shape: Any, bits: int) -> Modality:
    """What data of a shape are: images in bins, or a table, of numbers or with a schema."""
    if isinstance(shape, Schema):
        return TypedTable.of(shape)
    return Images(shape, bits=bits) if is_image(shape) else Table(shape)
