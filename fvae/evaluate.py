"""What a model says of data: bounds on -log p(x), image by image."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from fvae.bound import LatentModel, bits_per_dim, importance_bound

Pixels = TypeVar("Pixels", np.ndarray, Tensor)


class Bounds(NamedTuple):
    """Upper bounds on -log p(x) of N images, in nats, each a float64 array (N,)."""

    loss: np.ndarray  # rate + distortion
    rate: np.ndarray
    distortion: np.ndarray
    tighter: np.ndarray  # the K-sample bound


def batches(pixels: np.ndarray, model: LatentModel, size: int) -> Iterator[Tensor]:
    """Batches of 8-bit ``pixels`` (N, C, H, W) as the model's bins, on its device."""
    device = next(model.parameters()).device
    for start in range(0, len(pixels), size):
        yield torch.from_numpy(to_bins(pixels[start : start + size], model.decoder.bits)).to(device)


def to_bins(pixels: Pixels, bits: int) -> Pixels:
    """8-bit values to ``bits``-bit bins: floor(x / 2^(8 - bits))."""
    return pixels >> (8 - bits)


def spread(pixels: np.ndarray, n: int) -> np.ndarray:
    """``n`` images from all over the set, which may be sorted by class."""
    return pixels[np.unique(np.linspace(0, len(pixels) - 1, min(n, len(pixels))).round().astype(int))]


@torch.no_grad()
def bounds(model: LatentModel, pixels: np.ndarray, samples: int = 1, seed: int = 0, batch_size: int = 64) -> Bounds:
    """The bound of each 8-bit image of ``pixels`` (N, C, H, W), averaged over ``samples`` draws of u.

    The K-sample bound takes the same draws. A rate that is known in closed form (``vae``) is, and only that bound
    takes the sampled one. Noise comes from ``seed`` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    for x in batches(pixels, model, batch_size):
        noise = [model.noise(len(x), generator) for _ in range(samples)]
        draws = [model(x, u=u) for u in noise]
        weights = [model(x, u=u, sampled=True) for u in noise] if model.gaussian else draws
        rate = torch.stack([t.rate.cpu().double() for t in draws]).mean(0)
        distortion = torch.stack([t.distortion.cpu().double() for t in draws]).mean(0)
        rows.append(torch.stack([rate + distortion, rate, distortion, importance_bound(weights)]))
    return Bounds(*torch.cat(rows, 1).numpy())


def summary(model: LatentModel, found: Bounds, samples: int) -> dict[str, Any]:
    """Averages over images of ``bounds``, with their standard errors, in nats an image and bits a dimension."""
    dims = math.prod(model.shape)
    error = float(np.std(found.loss, ddof=1) / math.sqrt(len(found.loss))) if len(found.loss) > 1 else math.nan
    result: dict[str, Any] = {
        "bits_per_dim": bits_per_dim(float(found.loss.mean()), dims),
        "bits_per_dim_error": bits_per_dim(error, dims),
        "bound": "upper bound on -log2 p(x) / dimensions, mean over images",
        "noise": model.decoder.noise,
        "nats": float(found.loss.mean()),
        "rate": float(found.rate.mean()),
        "distortion": float(found.distortion.mean()),
        "images": len(found.loss),
        "dimensions": dims,
        "bits": model.decoder.bits,
        "samples": samples,
    }
    if samples > 1:
        result["tighter_bits_per_dim"] = bits_per_dim(float(found.tighter.mean()), dims)
        result["tighter_nats"] = float(found.tighter.mean())
    return result
