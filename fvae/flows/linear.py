"""Learned mixing of channels: the invertible 1x1 convolution."""

import torch
from torch import Tensor, nn

from fvae.errors import InputError
from fvae.flows.base import Flow
from fvae.precision import without_autocast

MAX_CHANNELS = 4096  # whose matrix takes ten seconds to draw; the time grows with the cube of their number


class InvertibleConv(Flow):
    """z = W x at each position, W = P L (U + diag(s)), log |det| = H W sum log |s| (Kingma & Dhariwal, 2018).

    Shapes: (B, C, *) to itself. W starts as a random orthogonal matrix; P and the signs of s stay fixed, and one (C, C)
    parameter holds L below its diagonal (L's own is 1), U above it and log |s| on it. No determinant is ever taken (one
    of 48 channels underflows float32), and W can't become singular. Mixing runs in float32 or wider also under
    autocast: it is part of the flow's own path.

    A step that moves every entry by the learning rate moves W by up to C times that, and from about 100 channels on
    training at the networks' rate explodes: the optimizer gives it ``lr_scale`` = min(1, 16 / C) times that rate.

    Raises ``ValueError`` for more than 4,096 channels.
    """

    order: Tensor
    signs: Tensor
    weight_decay = False

    def __init__(self, channels: int):
        super().__init__()
        if channels > MAX_CHANNELS:
            raise InputError(f"expected at most {MAX_CHANNELS:,} channels to mix, found {channels:,}")
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        p, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("order", p.argmax(1))  # row i of P a is row order[i] of a
        self.register_buffer("signs", s.sign().to(dtype))
        self.lr_scale = min(1.0, 16 / channels)
        self.lu = nn.Parameter((lower.tril(-1) + upper.triu(1) + s.abs().log().diag()).to(dtype))

    def forward(self, x, cond=None):
        with without_autocast(x):
            z = mix(product(self.lu, self.signs, self.order), x)
        return z, self.log_det(x)

    def inverse_and_log_det(self, z, cond=None):
        with without_autocast(z):
            x = mix(inverse_product(self.lu, self.signs, self.order), z)
        return x, -self.log_det(z)

    def log_det(self, x: Tensor) -> Tensor:
        return (x[0, 0].numel() * self.lu.diagonal().sum()).expand(len(x))


def triangles(lu: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """L and U + diag(s) of one (C, C) or of many (K, C, C)."""
    eye = torch.eye(lu.shape[-1], dtype=lu.dtype, device=lu.device)
    return lu.tril(-1) + eye, lu.triu(1) + torch.diag_embed(signs * lu.diagonal(dim1=-2, dim2=-1).exp())


def product(lu: Tensor, signs: Tensor, order: Tensor) -> Tensor:
    """W = P L (U + diag(s)): (*, C, C), (*, C), (*, C) -> (*, C, C)."""
    lower, upper = triangles(lu, signs)
    return (lower @ upper).gather(-2, order[..., None].expand_as(lu))


def inverse_product(lu: Tensor, signs: Tensor, order: Tensor) -> Tensor:
    """W^-1, by two triangular solves: (*, C, C), (*, C), (*, C) -> (*, C, C)."""
    lower, upper = triangles(lu, signs)
    eye = torch.eye(lu.shape[-1], dtype=lu.dtype, device=lu.device).expand_as(lu)
    p = eye.gather(-1, order[..., None, :].expand_as(lu))
    w = torch.linalg.solve_triangular(lower, p, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, w, upper=True)


def mix(w: Tensor, x: Tensor) -> Tensor:
    """Apply ``w`` (C, C) to the channels of ``x`` (B, C, *).

    A matrix product and not a convolution, which on a GPU would by default round its inputs to ten bits (TF32).
    """
    return torch.einsum("ij,bj...->bi...", w, x)
