"""fvae: VAEs, normalizing flows and everything between them, under one objective.

>>> import fvae, torch
>>> model = fvae.recipes.f_vae(shape=(1, 8, 8), flow=fvae.Glow(levels=2, depth=1, width=8))
>>> images = torch.randint(256, (100, 1, 8, 8), dtype=torch.uint8)
>>> rows = fvae.fit(model, images, steps=5, progress=False)
>>> model.elbo(images[:4]).shape
torch.Size([4])
>>> model.sample(2, temperature=0.8).shape
torch.Size([2, 1, 8, 8])

Recipes, one for each kind of model, are in ``fvae.recipes``; their parts (``Glow``, ``Strided``, ``GaussianDecoder``,
...) are here. Everything is imported when it is first used, so that the command's help does not wait for torch.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.2.0.dev0"
HOMES = {
    "columns": ("Column", "Schema"),
    "data": ("Samples", "detect", "read_data"),
    "errors": ("InputError", "MachineError"),
    "estimator": ("Density",),
    "interpolation": ("interpolate",),
    "model": ("LatentModel",),
    "recipes": (
        *("BernoulliDecoder", "ColumnsDecoder", "FlowDecoder", "FlowPosterior", "GaussianDecoder"),
        *("GaussianPosterior", "Glow", "Grid"),
        *("Identity", "LSTM", "LatentDecoder", "LayerNormalized", "MAF", "NICE", "NoFlow", "Noise", "OneSided"),
        *("RealNVP", "Squeezing", "Strided", "TextEncoder", "Transformer", "TwoSided"),
    ),
    "runs": ("load", "save"),
    "settings": ("DataSettings", "TrainSettings"),
    "statistics": ("initialize",),
    "terms": ("Terms",),
    "training": ("fit",),
}
HOME = {name: module for module, names in HOMES.items() for name in names}
__all__ = ["__version__", "recipes", *HOME]


def __getattr__(name: str) -> Any:
    if name == "recipes":
        return import_module("fvae.recipes")
    if name in HOME:
        return getattr(import_module(f"fvae.{HOME[name]}"), name)
    known = sys.modules[__name__]
    raise AttributeError(f"module 'fvae' has no attribute {name!r}", name=name, obj=known)  # with "Did you mean"


def __dir__() -> list[str]:
    return sorted(__all__)
