"""Bounds on the negative log-likelihood -log p(x), sample by sample, and their averages."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.data import Samples
from fvae.density import total, without_nan
from fvae.errors import InputError
from fvae.model import LatentModel, importance_bound
from fvae.terms import Terms


class Bounds(NamedTuple):
    """Upper bounds on -log p(x) of N samples, in nats, each a float64 array (N,)."""

    loss: np.ndarray  # rate + distortion
    rate: np.ndarray
    distortion: np.ndarray
    tighter: np.ndarray  # the K-sample bound
    error: np.ndarray  # its standard error between draws, by the jackknife; infinite of one draw


def batches(
    model: LatentModel, samples: Samples, size: int, full: bool = False
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y) as the model takes them, on its device; y is None where it takes no labels.

    With ``full`` the last batch is filled up with the first samples: how a sum is rounded depends on a batch's shape.
    """
    for start in range(0, len(samples), size):
        which = np.arange(start, start + size) % len(samples) if full else slice(start, start + size)
        x = torch.as_tensor(model.modality.collate(samples.values[which])).to(model.like.device)
        x = model.modality.cast(x, model.like.dtype)
        labels = samples.labels if model.classes else None
        yield x, None if labels is None else torch.from_numpy(labels[which]).to(x.device)


@torch.no_grad()
def encode(model: LatentModel, samples: Samples, batch_size: int = 64) -> tuple[Tensor, Tensor | None]:
    """The codes (N, D) of samples, and their labels (N,) where the model takes them."""
    pairs: list[tuple[Tensor, Tensor | None]] = []
    for x, y in batches(model, samples, batch_size):
        start = len(pairs) * batch_size
        pairs.append((model.encode(x, y, samples.names[start : start + batch_size]), y))
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
    batch_size: int | None = None,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda parts, total: parts,
    allow_nan: bool = False,
) -> Bounds:
    """The bound of each sample of ``data``, averaged over ``samples`` draws of u, and the K-sample bound.

    Both take the same draws, which depend on ``seed`` and the sample's values alone. Where the rate is known in closed
    form, as a VAE's, the averaged bound takes it so, and only the K-sample bound takes the drawn one.
    ``progress`` wraps the batches, of which it is given the number, and may end early: the first samples are left.
    Raises ``InputError`` for a bound of NaN, unless ``allow_nan``; one beyond the range of float64 is infinite.
    """
    model, batch_size = for_scoring(model), batch_size or max(64, 8192 // math.prod(model.shape))
    rows: list[Tensor] = []
    parts = batches(model, data, batch_size, full=True)
    for x, y in progress(parts, math.ceil(len(data) / batch_size)):
        draws = model.draws(x, y, list(noise_of(model, x, samples, seed)), sampled=True)
        rates = [t.rate if t.kl is None else total(t.kl) for t in draws]
        rate, distortion = (
            torch.stack([a.cpu().double() for a in each]).mean(0) for each in (rates, [t.distortion for t in draws])
        )
        tighter, error = importance_bound(draws), jackknife_error(draws)
        rows.append(torch.stack([rate + distortion, rate, distortion, tighter, error]))
    found = torch.cat(rows, 1)[:, : len(data)]
    if not allow_nan:
        without_nan(found[:4].T, "bound", infinite=True, names=data.names)
    return Bounds(*found.numpy())


@torch.no_grad()
def nats_by_column(model: LatentModel, data: Samples, seed: int = 0) -> dict[str, float] | None:
    """The mean of -log p(x_c|z) of each column, by its name, one draw of u each; None of a model without columns.

    With the rate they add up to the bound. A column that is missing in a row counts 0 there.
    """
    if not hasattr(model.decoder, "by_column"):
        return None
    model, names = for_scoring(model), model.modality.recipe_shape.names
    sums = torch.zeros(len(names), dtype=torch.float64)
    for x, y in batches(model, data, 1024):
        u, _ = model.split_noise(noise_of(model, x, 1, seed)[0])
        z = model.posterior(u, model.condition(x, y))[0]
        sums -= model.decoder.by_column(x, z).double().sum(0).cpu()
    return dict(zip(names, (sums / len(data)).tolist(), strict=True))


def for_scoring(model: LatentModel) -> LatentModel:
    """A model of vectors in float64, which keeps the order of densities far from the data; others unchanged."""
    if len(model.shape) != 1 or model.like.dtype == torch.float64:
        return model
    return deepcopy(model).to("cpu" if model.like.device.type == "mps" else model.like.device, torch.float64)


def noise_of(model: LatentModel, x: Tensor, samples: int, seed: int) -> Tensor:
    """u (samples, B, *noise_shape) for x (B, ...), drawn from ``seed`` and the values of each sample."""
    noise, generator = torch.empty(len(x), samples, *model.noise_shape, dtype=model.like.dtype), torch.Generator()
    for row, u in zip(x.cpu().numpy(), noise, strict=True):
        content = row.tobytes().rstrip(b"\0")  # without the padding of sentences, which depends on the batch
        digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest()
        u.normal_(generator=generator.manual_seed(int.from_bytes(digest)))
    return noise.transpose(0, 1).to(model.like.device)


def jackknife_error(draws: list[Terms]) -> Tensor:
    """The standard error of the K-sample bound (B,), from the bounds that leave one draw out; infinite for K = 1."""
    log_weights = torch.stack([-(t.rate + t.distortion).cpu().double() for t in draws])
    none = torch.full_like(log_weights[:1], -math.inf)
    before = torch.cat([none, log_weights[:-1].logcumsumexp(0)])
    after = torch.cat([log_weights.flip(0)[:-1].logcumsumexp(0).flip(0), none])
    variance = (len(draws) - 1) * torch.logaddexp(before, after).var(0, correction=0)
    return variance.sqrt().nan_to_num(nan=math.inf, posinf=math.inf)


def summary(model: LatentModel, found: Bounds, samples: int) -> dict[str, Any]:
    """Averages over samples of ``bounds``, with their standard errors, in nats a sample and in the data's unit.

    They are over the samples whose bounds are not infinite, where there are any; ``infinite`` counts the others.
    """
    unit, n = model.modality.unit, len(found.loss)
    kept = ~np.isinf(found.loss) & ~np.isinf(found.tighter)
    found = Bounds(*(a[kept] for a in found)) if kept.any() else found
    several = kept.any() and len(found.loss) > 1
    error = float(np.std(found.loss, ddof=1) / math.sqrt(len(found.loss))) if several else math.nan
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
        model.modality.noun: n,
        "infinite": n - int(kept.sum()),
        "dimensions": model.modality.dims,
        "bits": model.modality.bits,
        "samples": samples,
    }
    if samples > 1 or exact:
        result[f"tighter_{unit.key}"] = unit.from_nats(float(found.tighter.mean()))
        result["tighter_nats"] = float(found.tighter.mean())
    return result
