"""Small parts that several tests put together: networks, layers and flows."""

import math
from collections.abc import Callable

import torch
from conftest import perturb
from torch import Tensor, nn

from fvae.flows import (
    ActNorm,
    Chain,
    Coupling,
    Elementwise,
    Flow,
    Inverse,
    InvertibleConv,
    multiscale,
    reverse,
    scaling,
)
from fvae.flows.fused import CouplingNet
from fvae.model import Terms
from fvae.networks.conv import conv
from fvae.networks.residual import zeroed
from fvae.transforms import Additive, Affine, Transform

LAYOUTS: dict[str, Callable[[int, int, int, int], Tensor]] = {  # how a (B, C, H, W) image may lie in memory
    "channels first": torch.randn,
    "channels last": lambda b, c, h, w: torch.randn(b, h, w, c).permute(0, 3, 1, 2),
    "part of more channels": lambda b, c, h, w: torch.randn(b, h, w, 2 * c + 1).permute(0, 3, 1, 2)[:, c : 2 * c],
    "columns first": lambda b, c, h, w: torch.randn(b, c, w, h).transpose(2, 3),
    "every second row": lambda b, c, h, w: torch.randn(b, c, 2 * h, w)[:, :, ::2],
    "repeated": lambda b, c, h, w: torch.randn(b, c, 1, 1).expand(b, c, h, w),
}


class Net(nn.Module):
    """A smooth network of channels and, where ``c_cond``, a condition: (B, c_in, *), (B, c_cond) -> (B, c_out, *)."""

    def __init__(self, c_in: int, c_out: int, c_cond: int = 0):
        super().__init__()
        self.enter, self.leave = nn.Linear(c_in, 6), nn.Linear(6, c_out)
        self.open = nn.Linear(c_cond, 6) if c_cond else None
        self.conditional = bool(c_cond)

    def forward(self, x, cond=None):
        a = self.enter(x.movedim(1, -1))
        if self.open is not None:
            a = a + self.open(cond).reshape(len(x), *(1 for _ in x.shape[2:]), 6)
        return self.leave(torch.tanh(a)).movedim(-1, 1)


class Around(Net):
    """``Net`` of the mean over a position's neighbors."""

    def forward(self, x, cond=None):
        return super().forward(nn.functional.avg_pool2d(x, 3, 1, 1), cond)


class Sinh(nn.Module):
    """A third-party layer that is no ``Flow`` and defines what it must: z = sinh(a x) + shift(cond)."""

    def __init__(self, d: int, c_cond: int = 0):
        super().__init__()
        self.log_a = nn.Parameter(torch.zeros(d))
        self.shift = nn.Linear(c_cond, d) if c_cond else None

    def shifted(self, x, cond, sign):
        return x if self.shift is None else x + sign * self.shift(cond).to(x.dtype)

    def forward(self, x, cond=None):
        y = self.log_a.exp() * x
        return self.shifted(torch.sinh(y), cond, 1), (torch.log(torch.cosh(y)) + self.log_a).sum(1)

    def inverse(self, z, cond=None):
        return torch.asinh(self.shifted(z, cond, -1)) / self.log_a.exp()


class Doubled(Coupling):
    """A subclass of a known layer, with an inverse alone."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return 2 * z, log_det + x[0].numel() * math.log(2)

    def inverse(self, z, cond=None):
        return super().inverse(z / 2, cond)


class Halved(Coupling):
    """A subclass of a known layer, with an inverse and its log-determinant."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z / 2, log_det - x[0].numel() * math.log(2)

    def inverse_and_log_det(self, z, cond=None):
        x, log_det = super().inverse_and_log_det(2 * z, cond)
        return x, log_det + z[0].numel() * math.log(2)


def affine(keep: int, moved: int, coupling: type[Coupling] = Coupling) -> Coupling:
    return coupling(CouplingNet(keep, 2 * moved, 5), keep)


def additive(keep: int, moved: int) -> Coupling:
    return Coupling(CouplingNet(keep, moved, 5), keep, Additive())


def backwards(conditioner: nn.Module, transform: Transform | None = None) -> Flow:
    return Inverse(Elementwise(conditioner, transform))


def step(
    shape: tuple[int, ...],
    coupling: Callable[[int, int], Coupling] = affine,
    mixing: Callable[[int], Flow] = InvertibleConv,
) -> list[Flow]:
    """A step of Glow; ``coupling(keep, moved)`` is its coupling."""
    c = shape[0]
    return [ActNorm(shape), mixing(c), coupling(c // 2, c - c // 2)]


def leaving(c_in: int, c_out: int) -> nn.Module:
    """The conditioner of the channels that leave a multi-scale flow."""
    return zeroed(conv(c_in, 2 * c_out, 3))


def image_flow(shape: tuple[int, ...], levels: int = 2, squeeze_first: bool = False) -> Flow:
    """A small Glow of flat codes, perturbed."""
    return perturb(multiscale(shape, levels, step, leaving, squeeze_first))


def vector_flow(d: int) -> Flow:
    """An affine and an additive coupling of vectors, perturbed."""
    keep, moved = d // 2, d - d // 2
    return perturb(
        Chain(
            ActNorm((d,)),
            InvertibleConv(d),
            Coupling(Net(keep, 2 * moved), keep, Affine(bound=1.0)),
            reverse(d),
            Coupling(Net(keep, moved), keep, Additive()),
            scaling((d,)),
        )
    )


def bins(n: int, shape: tuple[int, ...], bits: int = 8) -> Tensor:
    """Data in 2^bits bins, of torch's default type."""
    return torch.randint(2**bits, (n, *shape)).to(torch.get_default_dtype())


def each(terms: Terms) -> Tensor:
    """The loss of each sample, (B,)."""
    return terms.distortion + terms.rate
