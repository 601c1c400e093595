"""All the density arithmetic there is: one map, (x - mean) / std, read in both directions.

Actnorm, affine coupling, the VAE's posterior, the multi-scale prior and the class prior are this map; they differ only
in who computes ``(mean, log_std)``. Log-densities are in nats, one a sample, in float32 or wider.
"""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def total(a: Tensor) -> Tensor:
    """Sum over everything but the batch: ``(B, *) -> (B,)``, in float32 at least."""
    return a.flatten(1).sum(1, dtype=torch.promote_types(a.dtype, torch.float32))


def log_normal(e: Tensor) -> Tensor:
    """log N(e; 0, I) = -1/2 sum_i (e_i^2 + log 2 pi), in nats: ``(B, *) -> (B,)``."""
    return -0.5 * (total(e.square()) + e[0].numel() * LOG_2PI)


def mean_log_normal(d: int) -> float:
    """E log N(e; 0, I) = -d/2 (log 2 pi + 1) over e ~ N(0, I) of d values, in nats."""
    return -0.5 * d * (LOG_2PI + 1)


def whiten(x: Tensor, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """z = (x - mean) / std and its log-determinant -sum log std: ``(B, *) -> (B, *), (B,)``."""
    return (x - mean) * torch.exp(-log_std), -total(log_std.expand_as(x))


def colour(u: Tensor, mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """z = mean + std u and its log-determinant +sum log std: ``(B, *) -> (B, *), (B,)``."""
    return mean + u * torch.exp(log_std), total(log_std.expand_as(u))
