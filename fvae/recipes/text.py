"""Recipes of sentences: a VAE with a language model as the decoder, and that language model alone."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from fvae.conditioners import Empty
from fvae.data import Text
from fvae.decoders import AdaptiveSoftmax, LanguageModel, Softmax
from fvae.errors import UserError
from fvae.flows import Elementwise, Flatten, with_classes
from fvae.model import LatentModel
from fvae.networks.text import LSTMDecoder, LSTMEncoder, TransformerDecoder
from fvae.recipes.parts import FlowPart, NoFlow, Posterior, TwoSided, class_means
from fvae.recipes.registry import Classes, Count, Part, Share, TextShape, recipe


class LanguagePart(Part):
    """The language model p(x|z), which predicts each token from those before and the latent."""

    hidden: Count = 256
    """units"""
    dropout: Share = 0.5
    """share of the units that a training step leaves out"""
    word_dropout: Share = 0.0
    """share of the tokens that it is not shown in training (Bowman et al., 2016)"""
    softmax: Literal["full", "adaptive"] = "full"
    """over all tokens alike, or adaptive: less work for rare ones (Grave et al., 2017)"""

    def network(self, shape: Any, latent: int, out: nn.Module) -> nn.Module:
        """The network of tokens and a latent, which ends in ``out``."""
        raise NotImplementedError

    def build(self, shape: Any, latent: int) -> LanguageModel:
        out = (Softmax if self.softmax == "full" else AdaptiveSoftmax)(self.hidden, shape[1])
        return LanguageModel(self.network(shape, latent, out), shape[0], self.word_dropout)


class LSTM(LanguagePart):
    """An LSTM that begins at z and sees it beside each token."""

    kind: ClassVar[str] = "lstm"
    embedding: Count = 256
    """values of a token's embedding"""
    skip: bool = True
    """add z to the outputs, too (Dieng et al., 2019)"""

    def network(self, shape: Any, latent: int, out: nn.Module) -> nn.Module:
        return LSTMDecoder(shape[1], self.embedding, self.hidden, latent, self.skip, self.dropout, out)


class Transformer(LanguagePart):
    """A causal transformer that sees z beside each token (Radford et al., 2019)."""

    kind: ClassVar[str] = "transformer"
    layers: Count = 2
    """blocks"""
    heads: Count = 4
    """heads of the attention"""

    @model_validator(mode="after")
    def consistent(self) -> Any:
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads, {self.heads}, found {self.hidden}")
        return self

    def network(self, shape: Any, latent: int, out: nn.Module) -> nn.Module:
        return TransformerDecoder(shape[1], shape[0], self.hidden, latent, self.layers, self.heads, self.dropout, out)


class Encoder(Part):
    """The encoder of sentences, an LSTM."""

    kind: ClassVar[str] = "lstm"
    embedding: Count = 256
    """values of a token's embedding"""
    hidden: Count = 256
    """units"""


@recipe
def text_vae(
    shape: TextShape,
    latent: Annotated[Count, Field(description="dimensions of z")] = 32,
    encoder: Encoder = Encoder(),
    posterior: Posterior = TwoSided(),
    flow: FlowPart = NoFlow(),
    decoder: LanguagePart = LSTM(),
    classes: Classes = 0,
) -> LatentModel:
    """A VAE of sentences: LSTM encoder, and a language model conditioned on z as the decoder (Bowman et al., 2016).

    A language model can do without z, and then the KL vanishes. The batch-normalized posteriors can't let it (Zhu et
    al., 2020; Su, 2020), nor can a fixed deviation (noise), as in delta-VAEs (Razavi et al., 2019); with a flow as the
    prior it is the f-VAE of text.
    """
    if latent == 1 and not isinstance(flow, NoFlow):
        raise UserError("latent: expected 2 or more for a flow, found 1")
    net = LSTMEncoder(shape[1], encoder.embedding, encoder.hidden, posterior.outputs * latent)
    density, means = flow.build((latent,)), class_means(classes, latent)
    return LatentModel(
        posterior.build(posterior.conditioner(net, (latent,)), means if isinstance(flow, NoFlow) else None),
        decoder.build(shape, latent),
        with_classes(density, means),
        shape,
        (latent,),
        modality=Text(shape),
    )


@recipe
def language_model(shape: TextShape, decoder: LanguagePart = LSTM(skip=False)) -> LatentModel:
    """text_vae's decoder alone, without a latent: what a latent has to be worth (Mikolov et al., 2010)."""
    return LatentModel(Elementwise(Empty()), decoder.build(shape, 0), Flatten((0,)), shape, (0,), modality=Text(shape))
