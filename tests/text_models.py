"""Small models of text, and sentences for them."""

from typing import Any

import torch
from conftest import perturb
from torch import Tensor

from fvae.data import Samples
from fvae.model import LatentModel
from fvae.recipes import text_vae
from fvae.tokens import EOS, PAD, UNK

SHAPE = (9, 12)  # eight tokens and the end, of twelve
LSTM: dict[str, Any] = {"kind": "lstm", "embedding": 8, "hidden": 16, "dropout": 0.0}
TRANSFORMER: dict[str, Any] = {"kind": "transformer", "hidden": 16, "layers": 2, "heads": 2, "dropout": 0.0}
FLOW: dict[str, Any] = {"kind": "glow", "depth": 2, "width": 8}
TABLE: dict[str, dict[str, Any]] = {
    "gaussian": {"posterior": "gaussian"},
    "noise": {"posterior": {"kind": "noise", "sigma": 0.5, "std": "fixed"}},
    "one-sided, classes": {"posterior": "one-sided", "classes": 3},
    "two-sided": {},
    "two-sided, flow": {"flow": FLOW},
    "two-sided, no skip": {"decoder": LSTM | {"skip": False}},
    "gaussian, flow, classes": {"posterior": "gaussian", "flow": FLOW, "classes": 2},
    "transformer": {"decoder": TRANSFORMER},
    "two-sided, adaptive": {"decoder": LSTM | {"softmax": "adaptive"}},
    "transformer, adaptive": {"decoder": TRANSFORMER | {"softmax": "adaptive"}},
    "transformer, gaussian, classes": {"decoder": TRANSFORMER, "posterior": "gaussian", "classes": 3},
}


def make_text_vae(amount: float = 0.0, shape: tuple[int, int] = SHAPE, **settings: Any) -> LatentModel:
    """A small ``text_vae``, perturbed by an amount."""
    small = {"latent": 4, "encoder": {"embedding": 8, "hidden": 16}, "decoder": LSTM}
    model = text_vae(shape, **(small | settings))
    return perturb(model, amount) if amount else model


def sentences(n: int = 6, max_length: int = SHAPE[0] - 1) -> Tensor:
    """Each begins at any token and counts on, of any length, the first empty: (n, T)."""
    words = SHAPE[1] - UNK
    lengths = torch.randint(1, max_length + 1, (n,))
    lengths[0] = 0
    positions = torch.arange(max_length + 1)
    x = (torch.randint(words, (n, 1)) + positions) % words + UNK
    x = torch.where(positions < lengths[:, None], x, PAD)
    return x.scatter(1, lengths[:, None], EOS)


def as_samples(x: Tensor) -> Samples:
    return Samples(x.int().numpy(), [""] * len(x))
