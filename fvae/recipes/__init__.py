"""Every model as a choice of parts. A recipe's arguments are its settings; ``RECIPES`` has all of them by name.

A model made by a recipe knows the recipe and the settings that made it (``model.config``), which is all that is needed
to build it again. To add a recipe, decorate a function with ``recipe``, or with ``variant`` where it differs from
another in its defaults alone; to add a choice of a part, subclass the part.
"""

from fvae.parts.coders import Coder, Grid, Identity, Squeezing, Strided
from fvae.parts.decoders import BernoulliDecoder, ColumnsDecoder, Decoder, FlowDecoder, GaussianDecoder, LatentDecoder
from fvae.parts.flows import MAF, NICE, FlowPart, Glow, NoFlow, RealNVP
from fvae.parts.posteriors import (
    FlowPosterior,
    GaussianPosterior,
    LayerNormalized,
    Noise,
    OneSided,
    Posterior,
    TwoSided,
)
from fvae.parts.text import LSTM, TextDecoder, TextEncoder, Transformer
from fvae.recipes.images import *
from fvae.recipes.registry import RECIPES, recipe, variant
from fvae.recipes.text import *
