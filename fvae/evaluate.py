"""What a model says of data: bounds on -log q(x), sample by sample."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fvae.data.samples import NOUNS, Samples
from fvae.density import bits_per_dim, total
from fvae.model import LatentModel, importance_bound
from fvae.watch import watched

Values = TypeVar("Values", np.ndarray, Tensor)


class Bounds(NamedTuple):
    """Upper bounds on -log q(x) of N samples, in nats, each a float64 array (N,)."""

    loss: np.ndarray  # rate + distortion
    rate: np.ndarray
    distortion: np.ndarray
    tighter: np.ndarray  # the K-sample bound


class Unit(NamedTuple):
    """What bounds of a model's data are told in."""

    name: str
    key: str  # of tables
    of: Callable[[Any], Any]  # nats of a sample


def bits_of(model: LatentModel) -> Any:
    """Bits a value of data in bins; None of other data."""
    return getattr(model.decoder, "bits", None)


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


def unit(model: LatentModel) -> Unit:
    """Bits a dimension for data in bins, nats a sample for continuous data, whose bits depend on their units."""
    if bits_of(model) is None:
        return Unit("nats", "nats", lambda nats: nats)
    return Unit("bits/dim", "bits_per_dim", partial(bits_per_dim, dims=math.prod(model.shape)))


def to_bins(values: Values, bits: int | None) -> Values:
    """8-bit values to ``bits``-bit bins, floor(x / 2^(8 - bits)); continuous values (no bits) as they are."""
    return values if bits is None else values >> (8 - bits)


def batches(model: LatentModel, samples: Samples, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y) as the model takes them, on its device; y is None where it takes no labels."""
    device = next(model.parameters()).device
    for start in range(0, len(samples), size):
        values, labels = samples.batch(slice(start, start + size))
        x = torch.from_numpy(to_bins(values, bits_of(model))).to(device)
        yield x, None if labels is None or not model.classes else torch.from_numpy(labels).to(device)


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
    told = unit(model)
    error = float(np.std(found.loss, ddof=1) / math.sqrt(len(found.loss))) if len(found.loss) > 1 else math.nan
    bound = f"-log q(x{'|y' * bool(model.classes)})"
    exact = not math.prod(model.noise_shape)  # nothing is drawn, so that no bound is tighter
    bound = bound if exact else f"upper bound on {bound}"
    result: dict[str, Any] = {
        told.key: told.of(float(found.loss.mean())),
        f"{told.key}_error": told.of(error),
        "bound": f"{bound}, mean over {NOUNS[len(model.shape)]}",
        "noise": getattr(model.decoder, "likelihood", ""),
        "nats": float(found.loss.mean()),
        "rate": float(found.rate.mean()),
        "distortion": float(found.distortion.mean()),
        NOUNS[len(model.shape)]: len(found.loss),
        "dimensions": None if len(model.shape) == 2 else math.prod(model.shape),  # text has as many as it has tokens
        "bits": bits_of(model),
        "samples": samples,
    }
    if samples > 1 or exact:
        result[f"tighter_{told.key}"] = told.of(float(found.tighter.mean()))
        result["tighter_nats"] = float(found.tighter.mean())
    return result
