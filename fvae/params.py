"""Who computes (mean, log_std): the hinge between the flows, which know no network, and the networks, which know no
probability.

A ``Params`` is called with the condition and returns ``(mean, log_std)``, both float32 or wider and broadcastable to
what they shift and scale. Bounds on ``log_std`` live here: a bounded log keeps both directions of the map finite
(an unbounded exp(s) is the usual NaN), and a log is never taken of a scale.

Under autocast the networks may compute in bfloat16: their outputs are widened here, so that the flow's own path stays
in float32.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]

MOMENTUM = 0.01  # of a running statistic, once it has seen 100


def by_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one value a channel, broadcastable to ``shape``: (C, ...) -> (C, 1, ...)."""
    return (shape[0], *(1 for _ in shape[1:]))


def wide(a: Tensor) -> Tensor:
    """Widen to float32 at least (float64 stays)."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


def without_autocast(a: Tensor) -> AbstractContextManager:
    """The flow's own path: no lower precision on ``a``'s device, at no cost where there is none anyway."""
    kind = a.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def present(cond: tuple) -> list:
    return [c for c in cond if c is not None]


class Explicit(nn.Module):
    """A ``Params`` that may have its gradient by hand: where ``runs``, ``run`` and ``pull`` do what autograd would.

    Both are for a condition with the channels last, (B, *, C), as are mean and log_std.
    """

    net: Any

    def runs(self, near: Tensor) -> bool:
        """Whether autograd may be left out: not in a class with another ``forward``, and not where hooks wait."""
        forward, run = (next(c for c in type(self).__mro__ if name in vars(c)) for name in ("forward", "run"))
        hooked = self._forward_pre_hooks or self._forward_hooks or self._backward_pre_hooks or self._backward_hooks
        return forward is run and not hooked and hasattr(self.net, "runs") and self.net.runs(near)

    def run(self, near: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """mean, log_std, and what ``pull`` needs."""
        raise NotImplementedError

    def pull(self, dmean: Tensor, dlog_std: Tensor, saved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the condition and of each parameter."""
        raise NotImplementedError


class Split(Explicit):
    """Both from one network: its output's channels are ``(mean, s)``, log_std = bound tanh(s / bound).

    ``net(*cond) -> (B, 2C, *)`` gives ``mean`` and ``log_std`` of ``(B, C, *)``.
    """

    def __init__(self, net: nn.Module, bound: float = 3.0):
        super().__init__()
        self.net, self.bound = net, bound

    def forward(self, *cond) -> Pair:
        mean, s = wide(self.net(*present(cond))).chunk(2, dim=1)
        return mean, self.bound * torch.tanh(s / self.bound)

    def run(self, near: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """mean, log_std, and what ``pull`` needs."""
        out, saved = self.net.run(near)
        mean, s = out.chunk(2, -1)
        t = torch.tanh(s / self.bound)
        return mean, self.bound * t, [t, *saved]

    def pull(self, dmean: Tensor, dlog_std: Tensor, saved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the condition and of each parameter."""
        t, *saved = saved
        return self.net.pull(torch.cat([dmean, dlog_std * (1 - t.square())], -1), saved)


class MeanOnly(Explicit):
    """The mean from a network and std = 1: additive coupling, class priors. ``net(*cond) -> (B, C, *)``."""

    log_std: Tensor

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("log_std", torch.zeros(()), persistent=False)

    def forward(self, *cond) -> Pair:
        return wide(self.net(*present(cond))), self.log_std

    def run(self, near: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """mean, log_std, and what ``pull`` needs."""
        mean, saved = self.net.run(near)
        return mean, self.log_std, saved

    def pull(self, dmean: Tensor, dlog_std: Tensor, saved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the condition and of each parameter."""
        return self.net.pull(dmean, saved)


class SharedStd(nn.Module):
    """The mean from a network and one std, or one a channel, trained or fixed: f-VAE's sigma_1, sigma_2.

    A scalar log_std under Adam moves by about the learning rate a step, and would set the pace of the whole model: the
    optimiser gives it ``pace`` times the networks' rate. It has no floor of its own: in ``Gaussian`` the bin's
    w^2 / 12 keeps its best value above w / sqrt(12). ``shape`` is that of log_std: () or (C, 1, ...). With ``least``,
    below ``std``, it never becomes less than that.
    """

    log_std: Tensor

    def __init__(
        self,
        net: nn.Module,
        std: float,
        learned: bool = True,
        pace: float = 1.0,
        shape: tuple[int, ...] = (),
        least: float = 0.0,
    ):
        super().__init__()
        self.net, self.pace, self.least = net, pace, least
        log_std = torch.full(shape, float(std) - least).log()
        if learned:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, *cond) -> Pair:
        return wide(self.net(*present(cond))), self.floored()

    @property
    def std(self) -> Tensor:
        """The standard deviation, in the mean over channels."""
        return self.floored().exp().mean()

    def floored(self) -> Tensor:
        """The log of least + exp(log_std): above that of ``least``, with a gradient everywhere."""
        if not self.least:
            return self.log_std
        return math.log(self.least) + F.softplus(self.log_std - math.log(self.least))


class NetworkStd(nn.Module):
    """The mean from a network and log_std from a second one on top of it: sigma(x), near ``std`` at the start.

    log_std = level + bound tanh(head(mean) / bound), ``head`` zero-initialised and ``level`` one trained number, at
    ``pace`` times the networks' rate as ``SharedStd``'s.
    """

    def __init__(self, net: nn.Module, head: nn.Module, std: float, pace: float = 1.0, bound: float = 3.0):
        super().__init__()
        self.net, self.head, self.pace, self.bound = net, head, pace, bound
        self.level = nn.Parameter(torch.tensor(math.log(std)))

    def forward(self, *cond) -> Pair:
        mean = self.net(*present(cond))
        return wide(mean), self.level + self.bound * torch.tanh(wide(self.head(mean)) / self.bound)

    @property
    def std(self) -> Tensor:
        """The standard deviation where ``head`` says nothing."""
        return self.level.exp()


class BestStd(nn.Module):
    """The mean from a network and the std that is best for the data at hand: sigma-VAE's (Rybkin et al., 2021).

    std^2 = mean of (x - mean)^2 over a training batch, which minimises the Gaussian's loss; no gradient is needed for
    it. In evaluation it is that of the last batches, kept as ``BatchNorm`` keeps its own. It is ``least`` at least.
    """

    def __init__(self, net: nn.Module, std: float, least: float = 0.0):
        super().__init__()
        self.net, self.least = net, least
        self.seen = Running(torch.tensor(float(std) ** 2))

    @property
    def log_std(self) -> Tensor:
        return 0.5 * self.seen.value.clamp(min=self.least**2).log()

    @property
    def std(self) -> Tensor:
        return self.log_std.exp()

    def forward(self, *cond) -> Pair:
        return wide(self.net(*present(cond))), self.log_std

    def best(self, square: Tensor) -> Tensor:
        """log_std for squared errors (B, *): the batch's in training, the kept one otherwise."""
        if not self.training:
            return self.log_std
        mean = across(square.mean())
        self.seen.see(mean)
        return 0.5 * mean.clamp(min=self.least**2).log()


class Running(nn.Module):
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
    def see(self, value: Tensor) -> None:
        self.count += 1
        self.value.lerp_(value.to(self.value.dtype), (1 / self.count).clamp(min=MOMENTUM).to(self.value.dtype))


class Across(torch.autograd.Function):
    """The mean over all processes, and of its gradients: torch's own differentiable one is deprecated."""

    @staticmethod
    def forward(ctx, a):
        a = a.clone()
        dist.all_reduce(a)
        return a / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient):
        return Across.forward(ctx, gradient)


def across(mean: Tensor) -> Tensor:
    """The mean over all processes of what each has the mean of, with its gradient."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return mean
    return Across.apply(mean)


class BatchNorm(nn.Module):
    """(x - mean) / std over the batch, by dimension: batch normalisation without centre and scale.

    Shapes: (B, C, *) to itself. Nothing is added to the variance: a network that lowers the KL makes x as small as
    what is added, and the floors built on deviation 1 are gone. Where no floor is built on it, ``least`` keeps a
    dimension of smaller variance, which counts as constant, from being blown up.

    In training the batch's own statistics, over all processes; in evaluation running ones. Raises ``ValueError`` for a
    batch of one, which has none.
    """

    def __init__(self, channels: int, least: float = 1e-20):
        super().__init__()
        self.least = least
        self.seen = Running(torch.stack([torch.zeros(channels), torch.ones(channels)]))

    def forward(self, x: Tensor) -> Tensor:
        x = wide(x)
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        if self.training:
            flat = x.transpose(0, 1).flatten(1)
            if flat.shape[1] == 1:
                raise ValueError("batch normalisation in training: expected a batch of 2 or more, found 1")
            mean = across(flat.mean(1))
            var = across((flat - mean[:, None]).square().mean(1))
            self.seen.see(torch.stack([mean, var]))
        else:
            mean, var = self.seen.value
        return (x - mean.view(shape)) * torch.rsqrt(var.view(shape).clamp(min=self.least))


class Normalised(nn.Module):
    """A posterior's means kept apart, so that its KL can't vanish: BN-VAE (Zhu et al., 2020).

    mean = gamma (mu - E mu) / std mu + beta over the batch, gamma fixed and beta trained, and log_std as the network
    gives it: E KL(N(mean, std^2) || N(0, I)) >= d/2 gamma^2 in every batch, whatever the network does, as long as it
    tells one x from another.
    ``net(*cond) -> (B, 2d)``.
    """

    gamma: Tensor

    def __init__(self, net: nn.Module, d: int, gamma: float, bound: float = 6.0):
        super().__init__()
        self.split = Split(net, bound)
        self.statistics = BatchNorm(d)
        self.beta = nn.Parameter(torch.zeros(d))
        self.register_buffer("gamma", torch.tensor(float(gamma)))

    def forward(self, *cond) -> Pair:
        mean, log_std = self.split(*cond)
        return self.gamma * self.statistics(mean) + self.beta, log_std


class UnitPower(nn.Module):
    """s / sqrt(E s^2) over the batch, by dimension, as logarithms: log s - 1/2 log E s^2, (B, C, *) to itself.

    In training the batch's own mean, over all processes; in evaluation a running one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.seen = Running(torch.ones(channels))

    def forward(self, log_s: Tensor) -> Tensor:
        if self.training:
            power = across(torch.exp(2 * log_s).transpose(0, 1).flatten(1).mean(1))
            self.seen.see(power)
        else:
            power = self.seen.value
        return log_s - 0.5 * torch.log(power).view(1, -1, *(1 for _ in log_s.shape[2:]))


class Scaler(nn.Module):
    """Means and deviations normalised so that the codes of all data together have mean 0 and variance 1 (Su, 2020).

    mean = sqrt(tau + (1 - tau) sigmoid(theta)) BN(mu), std = sqrt((1 - tau) sigmoid(-theta)) s / sqrt(E s^2), one
    trained theta a dimension for both, so that E mean^2 + E std^2 = 1 in every batch. The KL is at least
    -1/2 log(1 - tau) nats a dimension, 0.347 at tau = 1/2. ``net(*cond) -> (B, 2d)``.

    Su batch-normalises s too. What has mean 0 comes near it, where log s^2 has no bound, and the KL is at its floor
    only once s is +1 or -1 for every x; s > 0, which is not centred, is there as soon as it is the same for all.
    """

    def __init__(self, net: nn.Module, d: int, tau: float, bound: float = 6.0):
        super().__init__()
        self.split, self.tau = Split(net, bound), tau
        self.means, self.deviations = BatchNorm(d), UnitPower(d)
        self.theta = nn.Parameter(torch.zeros(d))

    def forward(self, *cond) -> Pair:
        mean, log_std = self.split(*cond)
        part = (1 - self.tau) * torch.sigmoid(-self.theta)
        return torch.sqrt(1 - part) * self.means(mean), 0.5 * torch.log(part) + self.deviations(log_std)


class Relative(nn.Module):
    """A posterior whose mean is measured from that of the label: mean = mean_y + r(x), on the condition (x, y).

    A normalised mean alone doesn't bound the KL to a prior of classes; that of r does.
    """

    def __init__(self, params: nn.Module, means: nn.Module):
        super().__init__()
        self.params = params
        self.means = (means,)  # the prior's: not ours to count

    def forward(self, cond) -> Pair:
        x, y = cond
        mean, log_std = self.params(x)
        return mean + self.means[0](y)[0], log_std


class Learned(nn.Module):
    """One trained (mean, log_std) a channel, whatever the condition: ``(C, 1, ...)`` for data of ``shape`` (C, ...)."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(by_channel(shape)))
        self.log_std = nn.Parameter(torch.zeros(by_channel(shape)))

    def forward(self, *cond) -> Pair:
        return self.mean, self.log_std


class Fixed(nn.Module):
    """One (mean, log_std) a channel, not trained: ``(C, 1, ...)`` for data of ``shape`` (C, ...)."""

    mean: Tensor
    log_std: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(by_channel(shape)))
        self.register_buffer("log_std", torch.zeros(by_channel(shape)))

    def forward(self, *cond) -> Pair:
        return self.mean, self.log_std


class ClassMeans(nn.Module):
    """A trained mean for each label and std = 1: (B,) labels, or (B, K) weights of labels, to (B, D) (Su, 2018).

    Weights are for the way between two labels. At the start any two means are about ``apart`` deviations from each
    other, whatever D: from means that are all alike training parts them too slowly.
    """

    log_std: Tensor

    def __init__(self, classes: int, d: int, apart: float = 8.0):
        super().__init__()
        self.mean = nn.Parameter(apart / math.sqrt(2 * d) * torch.randn(classes, d))
        self.register_buffer("log_std", torch.zeros(()), persistent=False)

    def forward(self, *cond) -> Pair:
        (y,) = cond
        if y is None:
            raise ValueError("expected labels y (B,), found none: this model's prior is one of classes")
        with without_autocast(self.mean):
            return (y.to(self.mean.dtype) @ self.mean if y.dim() == 2 else self.mean[y.long()]), self.log_std


class Nothing(nn.Module):
    """Mean and log_std of no dimensions, (B, 0): the posterior of a latent that isn't there."""

    def forward(self, *cond) -> Pair:
        nothing = torch.zeros(len(cond[0]), 0, device=cond[0].device)
        return nothing, nothing
