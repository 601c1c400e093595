"""The encoder and the decoder of text, with their settings."""

from typing import Any, Literal

from pydantic import model_validator
from torch import nn

from fvae.decoders import AdaptiveSoftmax, LanguageModel, Softmax
from fvae.networks.text import LSTMDecoder, TransformerDecoder
from fvae.schema import Depth, Part, Share, Width


class TextDecoder(Part):
    """The language model p(x|z), which predicts each token from those before and the latent."""

    hidden: Width = 256
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


class LSTM(TextDecoder, kind="lstm"):
    """An LSTM that begins at z and sees it with each token.

    Example:
        >>> fvae.recipes.text_vae((9, 12), decoder=fvae.LSTM(hidden=16)).sample(2).shape[0]
        2
    """

    embedding: Width = 256
    """values of a token's embedding"""
    skip: bool = True
    """add z to the outputs, too (Dieng et al., 2019)"""

    def network(self, shape: Any, latent: int, out: nn.Module) -> nn.Module:
        return LSTMDecoder(shape[1], self.embedding, self.hidden, latent, self.skip, self.dropout, out)


class Transformer(TextDecoder, kind="transformer"):
    """A causal transformer that sees z with each token (Radford et al., 2019).

    Example:
        >>> fvae.recipes.text_vae((9, 12), decoder=fvae.Transformer(layers=1, heads=2, hidden=16)).sample(2).shape[0]
        2
    """

    layers: Depth = 2
    """blocks"""
    heads: Depth = 4
    """heads of the attention"""

    @model_validator(mode="after")
    def consistent(self) -> Any:
        if self.hidden % self.heads:
            raise ValueError(f"hidden: expected a multiple of heads, {self.heads}, found {self.hidden}")
        return self

    def network(self, shape: Any, latent: int, out: nn.Module) -> nn.Module:
        return TransformerDecoder(shape[1], shape[0], self.hidden, latent, self.layers, self.heads, self.dropout, out)


class TextEncoder(Part, kind="lstm"):
    """The encoder of text, an LSTM.

    Example:
        >>> fvae.recipes.text_vae((9, 12), latent=4, encoder=fvae.TextEncoder(hidden=16)).latent
        (4,)
    """

    embedding: Width = 256
    """values of a token's embedding"""
    hidden: Width = 256
    """units"""
