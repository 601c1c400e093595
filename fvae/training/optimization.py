"""What an optimizer step depends on: groups of parameters, the weight of the rate, the average of the weights."""

import math
from typing import Any

from torch import Tensor, nn

from fvae.settings import TrainSettings


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of a model's trainable parameters for AdamW, each with its ``lr_scale``.

    Weight decay is for parameters of two dimensions or more. A module scales its learning rate by an attribute
    ``lr_scale`` and has no decay if it says ``weight_decay = False``; nor has an embedding.
    """
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            decays = p.dim() > 1 and getattr(module, "weight_decay", not isinstance(module, nn.Embedding))
            groups.setdefault((decays, getattr(module, "lr_scale", 1.0)), []).append(p)
    return [
        {"params": params, "lr": lr * scale, "lr_scale": scale, "weight_decay": weight_decay if decays else 0.0}
        for (decays, scale), params in groups.items()
    ]


def learning_rate(settings: TrainSettings, step: int, done: float) -> float:
    """The learning rate of a step: it rises linearly over ``settings.warmup`` steps and may then fall to 0 by a cosine.

    ``done`` is the share of the budget that is used up.
    """
    falling = math.cos(math.pi * min(1.0, done)) / 2 + 0.5 if settings.lr_decay == "cosine" else 1.0
    return settings.lr * min(1.0, (step + 1) / max(1, settings.warmup), falling)


def rate_weight(settings: TrainSettings, step: int) -> float:
    """The rate's weight on its way from 0 to 1: once, or in cycles whose second half is at 1 (Fu et al., 2019)."""
    if settings.anneal == "none":
        return 1.0
    n = settings.anneal_steps
    if settings.anneal == "cyclical":
        step %= 2 * n
    return min(1.0, step / n)


def average_decay(largest: float, n: int) -> float:
    """The average's weight on its past at step n, min(largest, n / (9 + n)): short trainings average over less."""
    return min(largest, n / (9 + n))
