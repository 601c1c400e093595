"""Who computes (mean, log_std): the hinge between the flows, which know no network, and the networks, which know no
probability.

A ``Params`` is called with the condition and returns ``(mean, log_std)``, both float32 or wider and broadcastable to
what they shift and scale. Bounds on ``log_std`` live here: a bounded log keeps both directions of the map finite
(an unbounded exp(s) is the usual NaN), and a log is never taken of a scale.

Under autocast the networks may compute in bfloat16: their outputs are widened here, so that the flow's own path stays
in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


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
    """The mean from a network and one scalar std, trained or fixed: f-VAE's sigma_1 and sigma_2 (Su & Wu, 2018).

    A scalar log_std under Adam moves by about the learning rate a step, and would set the pace of the whole model: the
    optimiser gives it ``pace`` times the networks' rate. It has no floor: in ``BinnedGaussian`` the bin's own w^2 / 12
    keeps its best value above w / sqrt(12).
    """

    log_std: Tensor

    def __init__(self, net: nn.Module, std: float, learned: bool = True, pace: float = 1.0):
        super().__init__()
        self.net, self.pace = net, pace
        log_std = torch.tensor(float(std)).log()
        if learned:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, *cond) -> Pair:
        return wide(self.net(*present(cond))), self.log_std


class Learned(nn.Module):
    """One trained (mean, log_std) a channel, whatever the condition: ``(C, 1, ...)`` for data of ``shape`` (C, ...)."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        channels = (shape[0], *(1 for _ in shape[1:]))
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_std = nn.Parameter(torch.zeros(channels))

    def forward(self, *cond) -> Pair:
        return self.mean, self.log_std
