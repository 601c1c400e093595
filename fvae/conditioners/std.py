"""The mean from a network and a standard deviation that is shared, a network's, or the optimum: sigma_1 and sigma_2."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.conditioners.batch_norm import RunningStatistic, mean_over_processes
from fvae.conditioners.constant import Pair
from fvae.precision import widen


class SharedStd(nn.Module):
    """The mean from a network and one std, or one a channel, trained or fixed: f-VAE's sigma_1, sigma_2.

    A scalar log_std under Adam moves by about the learning rate a step, which would limit the whole model: the
    optimizer gives it ``lr_scale`` times the networks' rate. It has no floor of its own: in ``Gaussian`` the bin's
    w^2 / 12 keeps its best value above w / sqrt(12). ``shape`` is that of log_std: () or (C, 1, ...). With ``least``,
    below ``std``, it never becomes less than that. ``name`` is what it is reported as.
    """

    log_std: Tensor
    weight_decay = False
    settings = ("log_std",)  # that no other model's weights change where it is a buffer

    def __init__(
        self,
        net: nn.Module,
        std: float,
        trained: bool = True,
        lr_scale: float = 1.0,
        shape: tuple[int, ...] = (),
        least: float = 0.0,
        name: str = "std",
    ):
        super().__init__()
        self.net, self.lr_scale, self.least, self.name = net, lr_scale, least, name
        log_std = torch.full(shape, float(std) - least).log()
        if trained:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)

    def forward(self, *cond) -> Pair:
        return widen(self.net(*cond)), self.floored()

    def metrics(self) -> dict[str, Tensor]:
        """The standard deviation, averaged over channels."""
        return {self.name: self.floored().exp().mean()}

    def floored(self) -> Tensor:
        """The log of least + exp(log_std): above that of ``least``, with a gradient everywhere."""
        if not self.least:
            return self.log_std
        return math.log(self.least) + F.softplus(self.log_std - math.log(self.least))


class NetworkStd(nn.Module):
    """The mean from a network and log_std from a second one on top of it: sigma(x), near ``std`` at the start.

    log_std = level + 3 tanh(head(mean) / 3), ``head`` zero-initialized and ``level`` one trained number, at
    ``lr_scale`` times the networks' rate as ``SharedStd``'s.
    """

    def __init__(self, net: nn.Module, head: nn.Module, std: float, lr_scale: float = 1.0, name: str = "std"):
        super().__init__()
        self.net, self.head, self.lr_scale, self.name = net, head, lr_scale, name
        self.level = nn.Parameter(torch.tensor(math.log(std)))

    def forward(self, *cond) -> Pair:
        mean = self.net(*cond)
        return widen(mean), self.level + 3.0 * torch.tanh(widen(self.head(mean)) / 3.0)

    def metrics(self) -> dict[str, Tensor]:
        """The standard deviation where ``head`` is 0."""
        return {self.name: self.level.exp()}


class OptimalStd(nn.Module):
    """The mean from a network and the std that is optimal for the data at hand: sigma-VAE's (Rybkin et al., 2021).

    std^2 = mean of (x - mean)^2 over a training batch, which minimizes the Gaussian's loss; no gradient is needed for
    it. In evaluation it is that of the last batches, kept as ``BatchNorm`` keeps its own. It is ``least`` at least.
    """

    def __init__(self, net: nn.Module, std: float, least: float = 0.0, name: str = "std"):
        super().__init__()
        self.net, self.least, self.name = net, least, name
        self.running = RunningStatistic(torch.tensor(float(std) ** 2))

    @property
    def log_std(self) -> Tensor:
        return 0.5 * self.running.value.clamp(min=self.least**2).log()

    def forward(self, *cond) -> Pair:
        return widen(self.net(*cond)), self.log_std

    def metrics(self) -> dict[str, Tensor]:
        return {self.name: self.log_std.exp()}

    def best(self, square: Tensor) -> Tensor:
        """log_std for squared errors (B, *): the batch's in training, the kept one otherwise."""
        if not self.training:
            return self.log_std
        mean = mean_over_processes(square.mean())
        self.running.update(mean)
        return 0.5 * mean.clamp(min=self.least**2).log()
