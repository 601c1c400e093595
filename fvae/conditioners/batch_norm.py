"""Batch normalization of a posterior's parameters, so that its KL cannot vanish."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.conditioners.constant import Pair
from fvae.precision import widen
from fvae.transforms import Affine

MOMENTUM = 0.01  # of a running statistic, once it has seen 100


class RunningStatistic(nn.Module):
    """The running mean of statistics seen in training: of the last ones, or from ``restart`` on of all."""

    value: Tensor
    count: Tensor

    def __init__(self, value: Tensor):
        super().__init__()
        self.register_buffer("value", value)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def restart(self) -> None:
        self.count.zero_()

    @torch.no_grad()
    def update(self, value: Tensor) -> None:
        self.count += 1
        self.value.lerp_(value.to(self.value.dtype), (1 / self.count).clamp(min=MOMENTUM).to(self.value.dtype))


class MeanOverProcesses(torch.autograd.Function):
    """The mean over all processes, and of its gradients: torch's own differentiable one is deprecated."""

    @staticmethod
    def forward(ctx, a):
        a = a.clone()
        dist.all_reduce(a)
        return a / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient):
        return MeanOverProcesses.forward(ctx, gradient)


def mean_over_processes(mean: Tensor) -> Tensor:
    """The mean over all processes of what each has the mean of, with its gradient."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return MeanOverProcesses.apply(mean) if several else mean


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    """(C,), one value a channel of (B, C, *), as (C, 1, ...)."""
    return values.view(-1, *(1 for _ in like.shape[2:]))


class BatchNorm(nn.Module):
    """(x - mean) / std over the batch, by dimension: batch normalization without center and scale.

    Shapes: (B, C, *) to itself. Nothing is added to the variance: a network that lowers the KL makes x as small as
    what is added, and the floors built on deviation 1 are gone. Where no floor is built on it, ``least`` keeps a
    dimension of smaller variance, which counts as constant, from being blown up.

    In training the batch's own statistics, over all processes; in evaluation running ones. Raises ``ValueError`` for a
    batch of one, which has none.
    """

    def __init__(self, channels: int, least: float = 1e-20):
        super().__init__()
        self.least = least
        self.running = RunningStatistic(torch.stack([torch.zeros(channels), torch.ones(channels)]))

    def forward(self, x: Tensor) -> Tensor:
        x = widen(x)
        if self.training:
            flat = x.transpose(0, 1).flatten(1)
            if flat.shape[1] == 1:
                raise ValueError("batch normalization in training: expected a batch of 2 or more, found 1")
            mean = mean_over_processes(flat.mean(1))
            var = mean_over_processes((flat - mean[:, None]).square().mean(1))
            self.running.update(torch.stack([mean, var]))
        else:
            mean, var = self.running.value
        return (x - along_channels(mean, x)) * torch.rsqrt(along_channels(var, x).clamp(min=self.least))


class OneSidedBatchNorm(nn.Module):
    """A posterior's means kept apart, so that its KL can't vanish: BN-VAE (Zhu et al., 2020).

    mean = gamma (mu - E mu) / std mu + beta over the batch, gamma fixed and beta trained, and log_std as the network
    gives it: E KL(N(mean, std^2) || N(0, I)) >= d/2 gamma^2 in every batch, whatever the network does, as long as it
    tells one x from another.
    ``net(*cond) -> (B, 2d)``.
    """

    gamma: Tensor
    settings = ("gamma",)  # that no other model's weights change

    def __init__(self, net: nn.Module, d: int, gamma: float):
        super().__init__()
        self.net, self.transform = net, Affine(bound=6.0)
        self.statistics = BatchNorm(d)
        self.beta = nn.Parameter(torch.zeros(d))
        self.register_buffer("gamma", torch.tensor(float(gamma)))
        # of d / 2 (gamma^2 + s - log s - 1), s = E std^2: above gamma^2 / 2 whatever the deviations
        self.rate_floor = d * gamma**2 / 2
        self.least_variance = gamma**2  # of the codes of all data, above which a prior N(0, I) is missed

    def forward(self, *cond) -> Pair:
        mean, log_std = self.transform.constrain(*widen(self.net(*cond)).chunk(2, 1))
        return self.gamma * self.statistics(mean) + along_channels(self.beta, mean), log_std


class UnitPower(nn.Module):
    """s / sqrt(E s^2) over the batch, by dimension, as logarithms: log s - 1/2 log E s^2, (B, C, *) to itself.

    In training the batch's own mean, over all processes; in evaluation a running one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.running = RunningStatistic(torch.ones(channels))

    def forward(self, log_s: Tensor) -> Tensor:
        if self.training:
            power = mean_over_processes(torch.exp(2 * log_s).transpose(0, 1).flatten(1).mean(1))
            self.running.update(power)
        else:
            power = self.running.value
        return log_s - 0.5 * torch.log(along_channels(power, log_s))


class TwoSidedBatchNorm(nn.Module):
    """Means and deviations normalized so that the codes of all data together have mean 0 and variance 1 (Su, 2020).

    mean = sqrt(tau + (1 - tau) sigmoid(theta)) BN(mu), std = sqrt((1 - tau) sigmoid(-theta)) s / sqrt(E s^2), one
    trained theta a dimension for both, so that E mean^2 + E std^2 = 1 in every batch. The KL is at least
    -1/2 log(1 - tau) nats a dimension, 0.347 at tau = 1/2. ``net(*cond) -> (B, 2d)``.

    Su batch-normalizes s too (``published``), whose sign then says nothing: std is that of |s|. What has mean 0 comes
    near it, where log s^2 has no bound, and the KL is at its floor only once s is +1 or -1 for every x; s > 0, which is
    not centered, is there as soon as it is the same for all.
    """

    def __init__(self, net: nn.Module, d: int, tau: float, published: bool = False):
        super().__init__()
        self.net, self.transform, self.tau, self.published = net, Affine(bound=6.0), tau, published
        self.means, self.deviations = BatchNorm(d), BatchNorm(d) if published else UnitPower(d)
        self.theta = nn.Parameter(torch.zeros(d))
        self.rate_floor = -d / 2 * math.log(1 - tau)

    def forward(self, *cond) -> Pair:
        mean, s = widen(self.net(*cond)).chunk(2, 1)
        part = (1 - self.tau) * torch.sigmoid(-along_channels(self.theta, mean))
        if self.published:
            log_s = self.deviations(s).abs().clamp(min=1e-4).log()
        else:
            log_s = self.deviations(self.transform.constrain(mean, s)[1])
        return torch.sqrt(1 - part) * self.means(mean), 0.5 * torch.log(part) + log_s


class LayerNorm(nn.Module):
    """Mean and log_std normalized over the dimensions of each sample, with a trained scale and shift each.

    (B, 2d) of ``net(*cond)``; the KL has no floor, since nothing is said of the data as a whole.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.transform = net, Affine(bound=6.0)
        self.scale, self.shift = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def forward(self, *cond) -> Pair:
        parts = [F.layer_norm(a, a.shape[1:]) for a in widen(self.net(*cond)).chunk(2, 1)]
        mean, log_std = (a * self.scale[i] + self.shift[i] for i, a in enumerate(parts))
        return self.transform.constrain(mean, log_std)
