"""Every recipe at small sizes, with data for it: what the tests of all recipes are parametrized with."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from conftest import perturb

from fvae.conditioners import RunningStatistic
from fvae.model import LatentModel, Terms
from fvae.recipes import RECIPES

GREY, COLOR, VECTOR = (1, 8, 12), (3, 12, 8), (5,)
ODD = (1, 7, 9)  # which models of two levels pad to 8x12
EXACT = ("nice", "realnvp", "glow", "nsf", "maf", "noisy_flow")  # flows, whose codes give the data back
GAUSSIAN = ("vae", "cvae", "bn_vae")  # whose rate's mean over u is known

FLOW = {"levels": 2, "depth": 2, "width": 8}
STRIDED = {"size": 6, "width": 8, "levels": 2}
SQUEEZING = {"squeezes": 1, "blocks": 1, "hidden": 8}
SMALL: dict[str, dict[str, Any]] = {
    "nice": {"flow": {"depth": 2, "width": 8, "hidden": 2}},
    "realnvp": {"flow": FLOW},
    "glow": {"flow": FLOW},
    "nsf": {"flow": {"levels": 2, "depth": 1, "width": 8}},
    "maf": {"flow": {"depth": 2, "width": 8}},
    "noisy_flow": {"flow": FLOW, "sigma": 0.1},
    "vae": {"coder": STRIDED},
    "cvae": {"coder": STRIDED, "classes": 3},
    "bn_vae": {"coder": STRIDED},
    "f_vae": {"coder": SQUEEZING, "flow": FLOW},
    "f_vae_general": {"coder": SQUEEZING, "flow": FLOW},
    "f_vae_reduced": {"coder": STRIDED, "flow": {"depth": 2, "width": 8}},
}


class Row(NamedTuple):
    """A recipe, a shape and settings that change the small ones; a part with a kind of its own is given whole."""

    recipe: str
    shape: tuple[int, ...]
    extra: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.recipe} {self.shape} {self.extra}"

    def make(self) -> LatentModel:
        settings = dict(SMALL[self.recipe])
        for name, value in self.extra.items():
            changes = isinstance(value, dict) and "kind" not in value
            settings[name] = settings.get(name, {}) | value if changes else value
        return RECIPES[self.recipe](self.shape, **settings)

    def moved(self, amount: float = 0.05) -> LatentModel:
        """Made, fitted to the scale of some data, and perturbed."""
        model = self.make()
        if len(self.shape) == 1:
            model.preprocess.fit(data(model, 200))
        return perturb(model, amount)

    def ready(self, amount: float = 0.05) -> tuple[LatentModel, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Moved, with a batch of data, labels and noise."""
        model = self.moved(amount)
        return model, *batch(model)


def row(recipe: str, shape: tuple[int, ...], **extra: Any) -> Row:
    return Row(recipe, shape, extra)


def make(recipe: str, shape: tuple[int, ...], **extra: Any) -> LatentModel:
    return Row(recipe, shape, extra).make()


CHANNELS, NETWORK, OPTIMAL = {"std": "channel"}, {"std": "network", "normalize": True}, {"std": "optimal"}
DENSITY = {"likelihood": "density"}
GRID = {"kind": "grid", "channels": 4, "width": 8, "levels": 1}
FLOW_DECODER = {"kind": "flow", "flow": {"levels": 2, "depth": 1, "width": 8}, "features": 4}
LATENT_DECODER = {"kind": "latent", "coder": GRID, "flow": {"levels": 1, "depth": 2, "width": 8}, "features": 4}
TABLE = [
    row("nice", GREY),
    row("nice", GREY, classes=3, bits=3),
    row("nice", VECTOR, flow={"depth": 3}),
    row("realnvp", GREY),
    row("realnvp", COLOR, classes=2, flow={"depth": 1}),
    row("realnvp", VECTOR),
    row("realnvp", ODD, classes=2),
    row("glow", GREY),
    row("glow", COLOR, flow={"mixing": "shuffle", "coupling": "additive"}, bits=5),
    row("glow", GREY, flow={"actnorm": False, "split_prior": "unconditional"}),
    row("realnvp", COLOR, flow={"split_prior": "conditional"}),
    row("glow", ODD, bits=5),
    row("glow", VECTOR, classes=3),
    row("glow", COLOR, flow={"coupling": "logistics", "depth": 1}),
    row("nsf", GREY),
    row("nsf", VECTOR, flow={"depth": 2}, classes=2),
    row("maf", VECTOR, classes=2),
    row("maf", VECTOR, flow={"transform": "spline", "hidden": 1}),
    row("maf", (1, 3, 4), flow={"transform": "logistics"}),
    row("noisy_flow", GREY),
    row("noisy_flow", ODD),
    row("noisy_flow", GREY, flow=FLOW | {"kind": "realnvp", "depth": 1}, bits=4),
    row("noisy_flow", COLOR, flow={"kind": "nice", "depth": 2, "width": 8}, classes=2),
    row("noisy_flow", VECTOR),
    row("vae", GREY, bits=3),
    row("vae", COLOR, coder={"blocks": 2}, decoder=CHANNELS),
    row("vae", GREY, decoder=OPTIMAL | DENSITY, classes=3),
    row("vae", GREY, decoder=DENSITY),
    row("vae", ODD, decoder=CHANNELS),
    row("vae", VECTOR, decoder={"std": "fixed"}),
    row("cvae", GREY),
    row("cvae", VECTOR, coder={"blocks": 0}),
    row("bn_vae", GREY, posterior="one-sided"),
    row("bn_vae", VECTOR, posterior={"kind": "two-sided", "deviations": "batch"}),
    row("bn_vae", GREY, posterior={"kind": "layer-norm"}, decoder={"kind": "bernoulli"}, bits=1),
    row("bn_vae", VECTOR, posterior="one-sided", classes=3),
    row("bn_vae", COLOR, posterior="two-sided", classes=2),
    row("bn_vae", VECTOR, posterior={"tau": 0.2}),
    row("bn_vae", COLOR, coder=GRID, posterior="two-sided"),
    row("vae", COLOR, coder=GRID, posterior="one-sided", decoder=LATENT_DECODER | {"posterior": "two-sided"}),
    row("vae", VECTOR, posterior={"kind": "flow", "depth": 2, "width": 8}, coder={"size": 4}),
    row("f_vae", COLOR, posterior={"kind": "flow", "depth": 2, "width": 8}, flow="none", classes=2),
    row("f_vae", GREY),
    row("f_vae", VECTOR, flow={"kind": "maf", "depth": 2, "width": 8, "transform": "spline"}),
    row("f_vae", COLOR, flow={"coupling": "additive", "mixing": "reverse"}, coder={"tanh": True, "hidden": 0}),
    row("f_vae", GREY, posterior={"sigma": 0.3, "std": "fixed"}, bits=1),
    row("f_vae", COLOR, posterior=CHANNELS, decoder=CHANNELS | {"sigma": 0.03, "least": 0.02}, classes=3),
    row("f_vae", GREY, posterior=NETWORK, coder={"block": "convnext"}, decoder=OPTIMAL | DENSITY),
    row("f_vae", VECTOR, posterior=CHANNELS, decoder=CHANNELS),
    row("f_vae", ODD, posterior=CHANNELS, classes=2),
    row("f_vae", VECTOR, posterior=NETWORK, decoder={"sigma": 0.3}, classes=3),
    row("f_vae_general", GREY, flow={"depth": 1}),
    row("f_vae_general", GREY, rounds=3, flow={"depth": 1, "coupling": "additive"}, classes=3),
    row("f_vae_general", COLOR, flow={"depth": 1}, decoder=DENSITY | CHANNELS, bits=4),
    row("f_vae_general", VECTOR),
    row("f_vae_general", GREY, rounds=3, sigma=0.5, flow={"depth": 1}, flow_prior=False, decoder={"sigma": 0.3}),
    row("f_vae_general", ODD, flow={"depth": 1}),
    row("f_vae_reduced", GREY),
    row("f_vae_reduced", COLOR, posterior={"normalize": True, "sigma": 0.4, "std": "fixed"}, classes=3),
    row("f_vae_reduced", COLOR, coder=GRID, flow=FLOW | {"kind": "glow"}, decoder=FLOW_DECODER, bits=5),
    row("vae", GREY, decoder=FLOW_DECODER, classes=2),
    row("vae", GREY, decoder=LATENT_DECODER, classes=2),
    row("f_vae_reduced", COLOR, coder=GRID | {"levels": 2}, flow=FLOW | {"kind": "glow"}, decoder=LATENT_DECODER),
    row("vae", COLOR, decoder=LATENT_DECODER | {"decoder": FLOW_DECODER}, bits=5),
    row("f_vae_reduced", COLOR, coder=GRID | {"upsampling": "shuffle"}, flow=FLOW | {"kind": "glow"}),
    row("f_vae_reduced", VECTOR, coder={"size": 3}, posterior={"std": "network"}, decoder=OPTIMAL),
]


def every(kept=lambda row: True) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", [row for row in TABLE if kept(row)], ids=str)


every_recipe = every()


def data(model: LatentModel, n: int = 6) -> torch.Tensor:
    """Images: smooth waves with a little noise, in the model's bins. Vectors: a bent line, in several units."""
    if len(model.shape) == 1:
        t = torch.randn(n, 1)
        i = torch.arange(model.shape[0])
        return 7 - 3 * i + 2.0 ** (i - 2) * (torch.sin(t * (i + 1) / 2) + 0.1 * torch.randn(n, len(i)))
    top = 2 ** model.config["settings"]["bits"] - 1
    c, h, w = model.shape
    rows, columns = torch.arange(h) / h, torch.arange(w) / w
    a, b, phase = torch.rand(3, n, 1, 1, 1)
    wave = torch.sin(2 * math.pi * (a * rows[:, None] + b * columns + phase)) + 0.1 * torch.randn(n, c, h, w)
    return ((wave + 1.3) / 2.6 * (top + 1)).floor().clamp(0, top)


def batch(model: LatentModel, n: int = 6) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Data, labels where the model takes them, and noise."""
    return data(model, n), model.draw_labels(n), model.noise(n)


def both(model: LatentModel, x, y, u) -> list[Terms]:
    """The terms in training and in evaluation, which is how the model is left."""
    return [model.train()(x, y, u), model.eval()(x, y, u)]


def has_statistics(model: LatentModel) -> bool:
    return any(isinstance(m, RunningStatistic) for m in model.modules())
