"""What recipes put together from their parts: a flow on the data themselves, or a latent between two networks."""

import math

from torch import nn

from fvae.conditioners import ClassMeans, FromBins
from fvae.data import Images, Modality, Table
from fvae.decoders import Exact, ExactBins
from fvae.flows import Augment, Chain, Dequantize, Elementwise, Flow, PointMass, Standardize, with_classes
from fvae.model import LatentModel
from fvae.networks.by_shape import Shape, is_image, resize
from fvae.parts.coders import Coder
from fvae.parts.decoders import Decoder
from fvae.parts.flows import FlowPart
from fvae.parts.posteriors import Posterior
from fvae.transforms import Affine


def exact_model(shape: Shape, flow: FlowPart, classes: int, bits: int) -> LatentModel:
    """A flow on the data themselves: the posterior is dequantization, or nothing, and the decoder exact."""
    data, latent = modality(shape, bits), flow.padded(shape)
    prior = prior_of(latent, flow, classes)[0]
    if isinstance(data, Images):
        posterior = augmented(Dequantize(data.bits), shape, latent, 0.5, 0.25)
        return assemble(data, posterior, ExactBins(data.bits, *shape[1:]), prior, latent)
    return assemble(data, PointMass(), Exact(), prior, latent)


def latent_model(
    shape: Shape,
    coder: Coder,
    posterior: Posterior,
    flow: FlowPart,
    decoder: Decoder,
    classes: int,
    bits: int,
    rounds: int = 0,
) -> LatentModel:
    """Posterior and decoder of a coder's networks, and the density of a flow as the prior.

    The posterior may have several ``rounds``: after the first one, flows and Gaussians in turn.
    """
    data, image = modality(shape, bits), coder.padded(shape)
    code = coder.latent(image)
    latent = flow.padded(code, coder.squeeze_first)

    def encoder(outputs: int) -> nn.Module:
        return from_data(sequential(resize(shape, image), coder.encoder(image, outputs)), data)

    first = encoder(posterior.outputs)
    generator = sequential(resize(latent, code), coder.generator(image), resize(image, shape))
    decoded = decoder.build(generator, shape, data.bits)
    prior, means = prior_of(latent, flow, classes, coder.squeeze_first)
    flows = [posterior.build(first, code, means)]
    for _ in range(rounds - 1):
        flows += [flow.couplings(code), Elementwise(encoder(2), Affine(bound=3.0))]
    whole = augmented(Chain(*flows) if rounds else flows[0], code, latent, 0.0, 0.5)
    return assemble(data, whole, decoded, prior, latent)


def sequential(*modules: nn.Module | None) -> nn.Module:
    """Modules one after the other, without those that are None; one alone as it is."""
    kept = [m for m in modules if m is not None]
    return kept[0] if len(kept) == 1 else nn.Sequential(*kept)


def augmented(posterior: nn.Module, shape: Shape, latent: Shape, mean: float, std: float) -> nn.Module:
    """A posterior of ``shape`` as one of the ``latent``, which may be larger."""
    return posterior if shape == latent else Augment(posterior, shape, mean, std)


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
