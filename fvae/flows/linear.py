"""Learned mixing of channels: the invertible 1x1 convolution."""

import torch
from torch import Tensor, nn

from fvae.flows.base import Flow


class InvertibleConv(Flow):
    """z = W x at each place, W = P L (U + diag(s)), log |det| = H W sum log |s| (Kingma & Dhariwal, 2018).

    Shapes: (B, C, *) to itself. W starts as a random orthogonal matrix; P and the signs of s stay fixed, and one (C, C)
    parameter holds L below its diagonal (L's own is 1), U above it and log |s| on it. No determinant is ever taken (one
    of 48 channels underflows float32), and W can't become singular. Mixing runs in float32 or wider also under
    autocast: it is part of the flow's own path.

    A step that moves every entry by the learning rate moves W by up to C times that, and from about 100 channels on
    training at the networks' rate explodes: the optimiser gives it ``pace`` = min(1, 16 / C) times that rate.
    """

    order: Tensor
    signs: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64)).Q
        p, lower, upper = torch.linalg.lu(rotation)
        s = upper.diagonal()
        dtype = torch.get_default_dtype()
        self.register_buffer("order", p.argmax(1))  # row i of P a is row order[i] of a
        self.register_buffer("signs", s.sign().to(dtype))
        self.pace = min(1.0, 16 / channels)
        self.lu = nn.Parameter((lower.tril(-1) + upper.triu(1) + s.abs().log().diag()).to(dtype))

    def triangles(self) -> tuple[Tensor, Tensor]:
        """L and U + diag(s), both (C, C)."""
        eye = torch.eye(len(self.lu), dtype=self.lu.dtype, device=self.lu.device)
        return self.lu.tril(-1) + eye, self.lu.triu(1) + torch.diag(self.signs * self.lu.diagonal().exp())

    def forward(self, x, cond=None):
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self.triangles()
            z = mix((lower @ upper)[self.order], x)
        places = x[0, 0].numel()
        return z, (places * self.lu.diagonal().sum()).expand(len(x))

    def inverse(self, z, cond=None):
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self.triangles()
            eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
            w = torch.linalg.solve_triangular(lower, eye[:, self.order], upper=False, unitriangular=True)
            return mix(torch.linalg.solve_triangular(upper, w, upper=True), z)


def mix(w: Tensor, x: Tensor) -> Tensor:
    """Apply ``w`` (C, C) to the channels of ``x`` (B, C, *).

    A matrix product and not a convolution, which on a GPU would by default round its inputs to ten bits (TF32).
    """
    return torch.einsum("ij,bj...->bi...", w, x)
