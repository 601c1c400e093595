"""Bounds on the negative log-likelihood -log p(x), sample by sample, and their averages."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.data import Samples
from fvae.density import total
from fvae.errors import InputError
from fvae.model import LatentModel, importance_bound


class Bounds(NamedTuple):
    """Upper bounds on -log p(x) of N samples, in nats, each a float64 array (N,)."""

    loss: np.ndarray  # rate + distortion
    rate: np.ndarray
    distortion: np.ndarray
    tighter: np.ndarray  # the K-sample bound


def batches(model: LatentModel, samples: Samples, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y) as the model takes them, on its device; y is None where it takes no labels."""
    for start in range(0, len(samples), size):
        which = slice(start, start + size)
        x = torch.as_tensor(model.modality.collate(samples.values[which])).to(model.like.device)
        labels = samples.labels if model.classes else None
        yield x, None if labels is None else torch.from_numpy(labels[which]).to(x.device)


@torch.no_grad()
def encode(model: LatentModel, samples: Samples, batch_size: int = 64) -> tuple[Tensor, Tensor | None]:
    """The codes (N, D) of samples, and their labels (N,) where the model takes them."""
    pairs = [(model.encode(x, y), y) for x, y in batches(model, samples, batch_size)]
    labels = [y for _, y in pairs if y is not None]
    return torch.cat([e for e, _ in pairs]), torch.cat(labels) if labels else None


def check_labels(model: LatentModel, samples: Samples, argument: str = "") -> None:
    """Refuse data without the labels that a model is conditioned on; raises ``InputError``."""
    if not model.classes:
        return
    expected = f"expected labels from 0 to {model.classes - 1}, for a model of {model.classes} classes"
    if samples.labels is None:
        raise InputError(f"{expected}, found none", argument)
    if len(samples.labels) and not 0 <= samples.labels.min() <= samples.labels.max() < model.classes:
        raise InputError(f"{expected}, found {samples.labels.min()} to {samples.labels.max()}", argument)


@torch.no_grad()
def bounds(
    model: LatentModel,
    data: Samples,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda parts, total: parts,
) -> Bounds:
    """The bound of each sample of ``data``, averaged over ``samples`` draws of u from ``seed``, and the K-sample bound.

    Both take the same draws. Where the rate is known in closed form, as a VAE's, the averaged bound takes it so, and
    only the K-sample bound takes the drawn one. ``progress`` wraps the batches, of which it is given the number.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    parts = batches(model, data, batch_size)
    for x, y in progress(parts, math.ceil(len(data) / batch_size)):
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
    unit = model.modality.unit
    error = float(np.std(found.loss, ddof=1) / math.sqrt(len(found.loss))) if len(found.loss) > 1 else math.nan
    bound = f"-log p(x{'|y' * bool(model.classes)})"
    exact = not math.prod(model.noise_shape)  # nothing is drawn, so that no bound is tighter
    bound = bound if exact else f"upper bound on {bound}"
    result: dict[str, Any] = {
        unit.key: unit.from_nats(float(found.loss.mean())),
        f"{unit.key}_error": unit.from_nats(error),
        "bound": f"{bound}, mean over {model.modality.noun}",
        "likelihood": getattr(model.decoder, "likelihood", ""),
        "nats": float(found.loss.mean()),
        "rate": float(found.rate.mean()),
        "distortion": float(found.distortion.mean()),
        model.modality.noun: len(found.loss),
        "dimensions": model.modality.dims,
        "bits": model.modality.bits,
        "samples": samples,
    }
    if samples > 1 or exact:
        result[f"tighter_{unit.key}"] = unit.from_nats(float(found.tighter.mean()))
        result["tighter_nats"] = float(found.tighter.mean())
    return result
