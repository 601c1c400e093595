"""What a latent says of the data: mutual information, active units, and what the decoder makes of it.

For models whose posterior is Gaussian given x, q(z|x) = N(mean(x), std(x)^2). All in nats.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.data.samples import Samples
from fvae.density import LOG_2PI, log_normal, total
from fvae.metrics.bounds import batches, for_scoring
from fvae.model import LatentModel
from fvae.terms import Terms, log_likelihood
from fvae.transforms import Affine

ACTIVE_VARIANCE = 0.01  # of a posterior mean over the data, above which a unit is active


class LatentInformation(NamedTuple):
    """Of N samples: see ``latent_information``."""

    mutual_information: float
    active_units: int
    units: int
    shuffled_gap: float
    marginal_kl: float
    code_mean: float
    code_variance: float
    rate_floor: float
    saturated: bool
    second_rate: float


@torch.no_grad()
def latent_information(model: LatentModel, data: Samples, seed: int = 0, batch_size: int = 64) -> LatentInformation:
    """What z says of x, over the N samples of ``data``; raises ``ValueError`` where the posterior isn't Gaussian.

    - ``mutual_information``: I(x; z) = E_x E_z|x [ log q(z|x) - log 1/N sum_j q(z|x_j) ], one z a sample; at most
      log N (Hoffman and Johnson, 2016). Takes N^2 steps;
    - ``active_units``: those of all ``units`` whose posterior mean has a variance over x above 0.01 (Burda et al.,
      2016), as a batch-normalized one always has;
    - ``shuffled_gap``: the distortion with the z of another sample, drawn from all of them, less that with its own:
      what the decoder gains from using z;
    - ``marginal_kl``: KL(q(z) || p(z)) = E_x KL(q(z|x) || p(z)) - I(x; z) of the aggregate posterior q(z) from the
      prior, what samples of the prior miss ("holes"): an upper limit, far above it where ``saturated``. With labels,
      the mean over them of KL(q(z|y) || p(z|y)), with I(x; z | y);
    - ``code_mean``, ``code_variance``: of codes of the data, by dimension, the root mean square of their means and the
      average of their variances, which are 0 and 1 where q(z) is p(z), but for a mean of 1 / sqrt(N) by chance;
    - ``rate_floor``: the least rate that the posterior's settings allow, whatever is learned;
    - ``saturated``: whether the mutual information (with labels, that given them) is near its limit, the logarithm of
      the number of samples (of a label), so that it and the marginal KL say little;
    - ``second_rate``: what the decoder's own latent costs, where it has one, of which the others do not speak.
    """
    model, generator = for_scoring(model), torch.Generator().manual_seed(seed)
    kept: list[tuple[Tensor, ...]] = []
    codes, log_p = [], []
    for x, y in batches(model, data, batch_size):
        found = model.gaussian_of(model.preprocess(x)[0], y)
        if found is None:
            raise ValueError("model: expected a Gaussian posterior, found one that offers no mean and deviation")
        mean, log_std = found
        z, _ = Affine()(model.split_noise(model.noise(len(x), generator))[0], mean, log_std)
        kept.append((mean, log_std.expand_as(mean), z))
        e, log_det = model.prior(z, y)
        codes.append(e.cpu().double())
        log_p.append((log_normal(e) + log_det).cpu().double())
    mean, log_std, z = (torch.cat(parts) for parts in zip(*kept, strict=True))
    gap, second, shuffled, end = 0.0, 0.0, z[derangement(len(z), generator).to(z.device)], 0
    for x, y in batches(model, data, batch_size):
        which, x = slice(end, end + len(x)), model.preprocess(x)[0]
        given, noise = model.decoder_condition(y), model.split_noise(model.noise(len(x), generator))[1]
        own, other = (model.decoder(x, part[which], *given, **noise) for part in (z, shuffled))
        gap += float((log_likelihood(own) - log_likelihood(other)).sum())
        second += float(own.rate.sum()) if isinstance(own, Terms) else 0.0
        end += len(x)
    mean, log_std, z = (a.flatten(1).cpu().double() for a in (mean, log_std, z))
    log_q, mutual = log_posterior(mean, log_std, z), mutual_information(mean, log_std, z)
    active = int((mean.var(0, correction=0) > ACTIVE_VARIANCE).sum())
    known, limit = mutual, math.log(len(z))
    if model.classes and data.labels is not None:
        known, limit = mutual_information_given(data.labels, mean, log_std, z)
    marginal = float((log_q - torch.cat(log_p)).mean()) - known
    variance, average = torch.var_mean(torch.cat(codes), 0)
    moments = float(average.square().mean().sqrt()), float(variance.mean())
    fixed = getattr(model.prior, "translation", False)  # under a prior that is learned there is no floor
    floor = math.prod(model.latent[1:]) * fixed * sum(getattr(m, "rate_floor", 0.0) for m in model.posterior.modules())
    saturated, n = known > limit - 0.5, len(z)
    return LatentInformation(mutual, active, mean.shape[1], gap / n, marginal, *moments, floor, saturated, second / n)


def verdict(found: LatentInformation, n: int) -> str:
    """What the figures of n samples say of a latent, in a sentence."""
    if found.mutual_information < 0.1 and abs(found.shuffled_gap) < 0.1:
        return "collapsed: the latent says nothing of the data"
    by_chance = 3 / math.sqrt(n)
    if found.marginal_kl > max(1.0, 0.2 * found.mutual_information) and not found.saturated:
        return f"holes: samples of the prior miss the data's codes by {found.marginal_kl:.3g} nats"
    if abs(found.code_variance - 1) > 0.1 + by_chance or found.code_mean > 0.3 + by_chance:
        return f"holes: the data's codes have variance {found.code_variance:.3g} where the prior has 1"
    if found.mutual_information > math.log(n) - 0.5:
        return f"used: the codes distinguish all {n} samples, and have the prior's mean and variance"
    return "used: the data's codes fill the prior"


def has_gaussian_posterior(model: LatentModel, data: Samples) -> bool:
    """Whether the posterior offers its mean and deviation, of one dimension or more."""
    if not math.prod(model.latent) or not len(data):
        return False
    x, y = next(batches(model, data.take(np.arange(min(2, len(data)))), 2))
    before = model.training
    with torch.no_grad():
        found = model.eval().gaussian_of(model.preprocess(x)[0], y)
    model.train(before)
    return found is not None


def derangement(n: int, generator: torch.Generator) -> Tensor:
    """A random permutation of n, a single cycle, so that for n > 1 nothing keeps its position: (n,)."""
    order = torch.randperm(n, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def log_posterior(mean: Tensor, log_std: Tensor, z: Tensor) -> Tensor:
    """log N(z_i; mean_i, std_i^2), each (N, d): (N,)."""
    u, log_derivative = Affine().inverse(z, mean, log_std)
    return log_normal(u) + total(log_derivative)


def mutual_information(mean: Tensor, log_std: Tensor, z: Tensor, batch_size: int = 256) -> float:
    """mean_i [ log q(z_i|x_i) - log 1/N sum_j q(z_i|x_j) ] for q(z|x_j) = N(mean_j, std_j^2), each (N, d)."""
    log_q = log_posterior(mean, log_std, z)
    mean, z = mean - mean.mean(0), z - mean.mean(0)  # so that large means leave their differences their digits
    weight = torch.exp(-2 * log_std)
    square, constant = (mean.square() * weight).sum(-1), (2 * log_std + LOG_2PI).sum(-1)
    log_mixture = []  # of each z under all posteriors: the square of the difference as two products
    for rows in z.split(batch_size):
        distance = (rows.square() @ weight.T - 2 * rows @ (mean * weight).T + square).clamp(min=0)
        log_mixture.append(torch.logsumexp(-0.5 * (distance + constant), 1))
    below = (log_q - torch.cat(log_mixture)).clamp(max=0)  # these limits hold but for rounding, far from the data
    return max(0.0, float(below.mean()) + math.log(len(z)))


def mutual_information_given(labels: np.ndarray, mean: Tensor, log_std: Tensor, z: Tensor) -> tuple[float, float]:
    """I(x; z | y), the mean over samples of the mutual information among those of each one's label, and its limit."""
    found = limit = 0.0
    for label in np.unique(labels):
        own = torch.from_numpy(labels == label)
        share = int(own.sum()) / len(z)
        found += share * mutual_information(mean[own], log_std[own], z[own])
        limit += share * math.log(int(own.sum()))
    return found, limit
