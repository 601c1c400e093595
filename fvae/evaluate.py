"""What a model says of data: bounds on -log q(x), sample by sample."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fvae.data import Samples
from fvae.density import total
from fvae.model import LatentModel, importance_bound
from fvae.watch import watched

Values = TypeVar("Values", np.ndarray, Tensor)


class Bounds(NamedTuple):
    """Upper bounds on -log q(x) of N samples, in nats, each a float64 array (N,)."""

    loss: np.ndarray  # rate + distortion
    rate: np.ndarray
    distortion: np.ndarray
    tighter: np.ndarray  # the K-sample bound


def gaussian_posterior(model: LatentModel, data: Samples) -> bool:
    """Whether the posterior offers its mean and deviation, as a vector of one dimension or more."""
    if len(model.latent) != 1 or not model.latent[0] or not len(data):
        return False
    x, y = next(batches(model, data.take(np.arange(min(2, len(data)))), 2))
    before = model.training
    with torch.no_grad():
        found = model.eval().gaussian_of(model.preprocess(x)[0], y)
    model.train(before)
    return found is not None


def batches(model: LatentModel, samples: Samples, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y) as the model takes them, on its device; y is None where it takes no labels."""
    for start in range(0, len(samples), size):
        which = slice(start, start + size)
        x = torch.as_tensor(model.modality.collate(samples.values[which])).to(model.like.device)
        labels = samples.labels if model.classes else None
        yield x, None if labels is None else torch.from_numpy(labels[which]).to(x.device)


@torch.no_grad()
def bounds(
    model: LatentModel, data: Samples, samples: int = 1, seed: int = 0, batch_size: int = 64, watch: str = ""
) -> Bounds:
    """The bound of each sample of ``data``, averaged over ``samples`` draws of u.

    The K-sample bound takes the same draws. A rate that is known in closed form (``vae``) is, and only that bound
    takes the sampled one. Noise comes from ``seed`` alone. ``watch`` is the name by which standard error hears how far
    it is; without one it hears nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    parts = batches(model, data, batch_size)
    for x, y in watched(parts, math.ceil(len(data) / batch_size), watch) if watch else parts:
        noise = [model.noise(len(x), generator) for _ in range(samples)]
        draws = model.draws(x, y, noise, sampled=True)
        rates = [t.rate if t.kl is None else total(t.kl) for t in draws]
        rate, distortion = (
            torch.stack([a.cpu().double() for a in each]).mean(0) for each in (rates, [t.distortion for t in draws])
        )
        rows.append(torch.stack([rate + distortion, rate, distortion, importance_bound(draws)]))
    return Bounds(*torch.cat(rows, 1).numpy())


def summary(model: LatentModel, found: Bounds, samples: int) -> dict[str, Any]:
    """Averages over samples of ``bounds``, with their standard errors, in nats a sample and in the data's unit."""
    told = model.modality.unit
    error = float(np.std(found.loss, ddof=1) / math.sqrt(len(found.loss))) if len(found.loss) > 1 else math.nan
    bound = f"-log q(x{'|y' * bool(model.classes)})"
    exact = not math.prod(model.noise_shape)  # nothing is drawn, so that no bound is tighter
    bound = bound if exact else f"upper bound on {bound}"
    result: dict[str, Any] = {
        told.key: told.of(float(found.loss.mean())),
        f"{told.key}_error": told.of(error),
        "bound": f"{bound}, mean over {model.modality.noun}",
        "noise": getattr(model.decoder, "likelihood", ""),
        "nats": float(found.loss.mean()),
        "rate": float(found.rate.mean()),
        "distortion": float(found.distortion.mean()),
        model.modality.noun: len(found.loss),
        "dimensions": model.modality.dims,
        "bits": model.modality.bits,
        "samples": samples,
    }
    if samples > 1 or exact:
        result[f"tighter_{told.key}"] = told.of(float(found.tighter.mean()))
        result["tighter_nats"] = float(found.tighter.mean())
    return result
