"""Recipes of text: a VAE with a language model as the decoder, and that language model alone."""

from typing import Annotated

from pydantic import Field

from fvae.conditioners import Empty
from fvae.data import Text
from fvae.flows import Elementwise, Flatten
from fvae.model import LatentModel
from fvae.networks.text import LSTMEncoder
from fvae.parts.flows import FlowPart, NoFlow
from fvae.parts.posteriors import Posterior, TwoSided
from fvae.parts.text import LSTM, TextDecoder, TextEncoder
from fvae.recipes.models import prior_of
from fvae.recipes.registry import Classes, TextShape, recipe
from fvae.schema import Width

__all__ = ["language_model", "text_vae"]


@recipe
def text_vae(
    shape: TextShape,
    latent: Annotated[Width, Field(description="dimensions of z")] = 32,
    encoder: TextEncoder = TextEncoder(),
    posterior: Posterior = TwoSided(),
    flow: FlowPart = NoFlow(),
    decoder: TextDecoder = LSTM(),
    classes: Classes = 0,
) -> LatentModel:
    """A VAE of text: LSTM encoder, and a language model conditioned on z as the decoder (Bowman et al., 2016).

    A language model can do without z, and then the KL vanishes. The batch-normalized posteriors can't let it (Zhu et
    al., 2020; Su, 2020), nor can a fixed deviation (noise), as in delta-VAEs (Razavi et al., 2019); with a flow as the
    prior it is the f-VAE of text.

    Example:
        >>> fvae.recipes.text_vae((9, 12), latent=4).elbo(torch.tensor([[4, 5, 2], [6, 2, 0]])).shape  # 2 ends, 0 pads
        torch.Size([2])
    """
    net = LSTMEncoder(shape[1], encoder.embedding, encoder.hidden, posterior.outputs * latent)
    prior, means = prior_of((latent,), flow, classes)
    q = posterior.build(net, (latent,), means)
    return LatentModel(q, decoder.build(shape, latent), prior, shape, (latent,), modality=Text(shape))


@recipe
def language_model(shape: TextShape, decoder: TextDecoder = LSTM(skip=False)) -> LatentModel:
    """text_vae's decoder alone, without a latent: what a latent has to be worth (Mikolov et al., 2010).

    Example:
        >>> fvae.recipes.language_model((9, 12)).sample(2).shape[0]
        2
    """
    return LatentModel(Elementwise(Empty()), decoder.build(shape, 0), Flatten((0,)), shape, (0,), modality=Text(shape))
