"""What a latent says of the data: mutual information, active units, and what the decoder makes of it.

For models whose posterior is Gaussian given x, p(z|x) = N(mean(x), std(x)^2). All in nats.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fvae.atoms import LOG_2PI, colour
from fvae.bound import LatentModel
from fvae.data.samples import Samples
from fvae.evaluate import batches
from fvae.flows import Colour

ACTIVE = 0.01  # the least variance of a posterior mean over the data that counts


class Information(NamedTuple):
    """Of N samples: see ``information``."""

    mutual: float
    active: int
    units: int
    gap: float


def known(model: LatentModel) -> bool:
    """Whether a model has the posterior that these figures are defined for, of few enough dimensions to mean much."""
    return isinstance(model.posterior, Colour) and len(model.latent) == 1 and model.latent[0] > 0


@torch.no_grad()
def information(model: LatentModel, data: Samples, seed: int = 0, batch_size: int = 64) -> Information:
    """What z says of x, over the N samples of ``data``.

    - ``mutual``: I(x; z) = E_x E_z|x [ log p(z|x) - log 1/N sum_j p(z|x_j) ], one z a sample; at most log N (Hoffman
      and Johnson, 2016);
    - ``active``: the units whose posterior mean has a variance over x above 0.01 (Burda et al., 2016), as a
      batch-normalised one always has;
    - ``gap``: the distortion with the z of another sample (the next one's) less that with its own: what the decoder
      gains by listening.
    """
    generator = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = []
    gap = 0.0
    for x, y in batches(model, data, batch_size):
        mean, log_std = model.posterior.params(model.given(model.scale(x)[0], y))
        u = model.noise(len(x), generator)
        z = colour(u, mean, log_std)[0]
        gap += float((model.decoder(x, z) - model.decoder(x, z.roll(1, 0))).sum())
        kept.append([a.double().cpu() for a in (mean, log_std.expand_as(mean), z)])
    mean, log_std, z = (torch.cat(parts) for parts in zip(*kept, strict=True))
    own = log_density(z, mean, log_std)
    mixed = torch.cat([torch.logsumexp(log_density(row[None], mean, log_std), 0, keepdim=True) for row in z])
    mutual = float((own - mixed).mean()) + math.log(len(z))
    active = int((mean.var(0, correction=0) > ACTIVE).sum())
    return Information(mutual, active, mean.shape[1], gap / len(z))


def log_density(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(z; mean, std^2), summed over dimensions."""
    return -0.5 * (((z - mean) * torch.exp(-log_std)).square() + 2 * log_std + LOG_2PI).sum(-1)
