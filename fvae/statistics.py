"""What a model takes from data without gradients: actnorm's first statistics, and those that evaluation knows."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from fvae.conditioners import RunningStatistic
from fvae.flows import ActNorm
from fvae.flows.fused import one_by_one
from fvae.model import LatentModel
from fvae.networks.conv import StartsAtMean


def initialize(model: nn.Module, x: Tensor, y: Tensor | None = None) -> None:
    """Set ``StartsAtMean`` from one batch, and in one pass every ``ActNorm``, each after those before it.

    Data-dependent initialization (Kingma & Dhariwal, 2018). Call it once, before training (and before compiling or
    wrapping for several devices), with a large batch x (256 is enough); ``fvae.fit`` does, unless the model has been
    initialized, trained or loaded before.

    Example:
        >>> model = fvae.recipes.glow((4,), flow=fvae.Glow(depth=1, width=8))
        >>> fvae.initialize(model, 5 + torch.randn(256, 4))
        >>> model.encode(5 + torch.randn(256, 4)).mean().abs() < 0.5
        tensor(True)
    """
    if isinstance(model, LatentModel):  # first, since actnorm of a decoder's flow takes the difference to it
        generator = getattr(model.decoder, "conditioner", model.decoder)  # a decoder inside it makes differences
        start = getattr(model.decoder, "start", model.modality.scaled)
        for layer in (m for m in generator.modules() if isinstance(m, StartsAtMean)):
            layer.fit(start(x))
        model.initialized = True
    with torch.no_grad(), one_by_one(model), ExitStack() as hooks:
        for norm in (m for m in model.modules() if isinstance(m, ActNorm)):
            hooks.enter_context(norm.register_forward_pre_hook(lambda flow, args: flow.fit(args[0])))
        model(x, y)


@torch.no_grad()
def fit_statistics(
    model: LatentModel, batches: Iterable[tuple[Tensor, Tensor | None]], kept: Sequence[nn.Module] = ()
) -> None:
    """Set the statistics that evaluation uses, of batch normalization and optimal deviations, from these batches.

    The statistics of averaged weights are not the average of statistics. A model without any is left alone, as are the
    parts in ``kept``.
    """
    known = {m for part in kept for m in part.modules()}
    running = [m for m in model.modules() if isinstance(m, RunningStatistic) and m not in known]
    if not running:
        return
    for statistic in running:
        statistic.restart()
    in_decoder = any(isinstance(m, RunningStatistic) for m in model.decoder.modules())
    before, generator = model.training, torch.Generator().manual_seed(0)
    model.train()
    for part in kept:
        part.eval()
    for x, y in batches:
        u = model.noise(len(x), generator)
        if in_decoder:
            model(x, y, u)
        else:
            model.posterior(model.split_noise(u)[0], model.condition(model.preprocess(x)[0], y))
    model.train(before)
