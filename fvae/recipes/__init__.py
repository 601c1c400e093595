"""Every model as a choice of parts. A recipe's arguments are its settings; ``RECIPES`` has all of them by name.

A model made by a recipe knows the recipe and the settings that made it (``model.config``), which is all that is needed
to build it again.
"""

from fvae.recipes.images import bn_vae, cvae, f_vae, f_vae_general, f_vae_reduced, glow, nice, noisy_flow, realnvp, vae
from fvae.recipes.parts import (
    NICE,
    GaussianDecoder,
    GaussianPosterior,
    Glow,
    Identity,
    NoFlow,
    Noise,
    OneSided,
    RealNVP,
    Squeezing,
    Strided,
    TwoSided,
)
from fvae.recipes.registry import RECIPES, recipe
from fvae.recipes.text import LSTM, Encoder, Transformer, language_model, text_vae

__all__ = [
    "LSTM",
    "NICE",
    "RECIPES",
    "Encoder",
    "GaussianDecoder",
    "GaussianPosterior",
    "Glow",
    "Identity",
    "NoFlow",
    "Noise",
    "OneSided",
    "RealNVP",
    "Squeezing",
    "Strided",
    "Transformer",
    "TwoSided",
    "bn_vae",
    "cvae",
    "f_vae",
    "f_vae_general",
    "f_vae_reduced",
    "glow",
    "language_model",
    "nice",
    "noisy_flow",
    "realnvp",
    "recipe",
    "text_vae",
    "vae",
]
