"""Convolutions as matrix products: the same sums, computed where a processor is fastest.

A flow's networks widen few channels to many and narrow them again, on images down to 2x2: shapes for which a library's
convolution is two to ten times slower than the products it consists of. Images are (B, C, H, W) with their channels
innermost in memory (channels-last), so that (B H W, C) is the same memory, read as a matrix.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DENSE = 2**18  # entries that the matrix of a whole image may have before assembling it costs more than it saves


def unfold(a: Tensor) -> Tensor:
    """Each place's 3x3 neighbours, zero beyond the border: (B, H, W, C) -> (B, H, W, 9 C)."""
    b, h, w, c = a.shape
    padded = F.pad(a, (0, 0, 1, 1, 1, 1))
    line = (w + 2) * c
    rows = padded.as_strided((b, h, w, 3, 3 * c), ((h + 2) * line, line, c, line, 1))
    return rows.reshape(b, h, w, 9 * c)


def fold(a: Tensor) -> Tensor:
    """Each place's values for its 3x3 neighbours, added up where they belong: (B, H, W, 9 C) -> (B, H, W, C)."""
    b, h, w, c = a.shape
    out = a.new_zeros(b, h + 2, w + 2, c // 9)
    for i in range(3):
        for j in range(3):
            out[:, i : i + h, j : j + w] += a[..., (3 * i + j) * (c // 9) : (3 * i + j + 1) * (c // 9)]
    return out[:, 1:-1, 1:-1]


class Unfold(torch.autograd.Function):
    """``unfold``, whose adjoint is ``fold``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a):
        return unfold(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return Fold.apply(grad)


class Fold(torch.autograd.Function):
    """``fold``, whose adjoint is ``unfold``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a):
        return fold(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return Unfold.apply(grad)


@lru_cache(16)
def neighbours(h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(P P, 9) of 0 and 1: whether place p is neighbour i of place q, in the rows p P + q, of an image of P = h w."""
    centre = torch.arange(h * w, device=device)
    y, x = centre // w, centre % w
    dy, dx = y[:, None] - y + 1, x[:, None] - x + 1
    near = (dy >= 0) & (dy <= 2) & (dx >= 0) & (dx <= 2)
    tap = torch.where(near, 3 * dy + dx, 9)
    return F.one_hot(tap, 10)[..., :9].reshape(-1, 9).to(dtype)


class Conv2d(nn.Conv2d):
    """A 1x1 or 3x3 convolution, stride 1, same size out as in: (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, size: int, bias: bool = True):
        super().__init__(c_in, c_out, size, padding=size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):
            return self.product(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0]).permute(0, 3, 1, 2)
        c_out, c_in = self.weight.shape[:2]
        places = x.shape[2] * x.shape[3]
        if x.is_cuda or torch.compiler.is_compiling():  # either has its own way with small convolutions
            return super().forward(x.contiguous(memory_format=torch.channels_last))
        if places <= 16 and places * places * c_in * c_out <= DENSE:
            return self.dense(x)
        if 4 * c_in <= c_out:
            near = Unfold.apply(x.permute(0, 2, 3, 1))
            return self.product(near, self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)
        if 4 * c_out <= c_in:
            parts = self.product(
                x.permute(0, 2, 3, 1), self.weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2), bias=False
            )
            z = Fold.apply(parts)
            return (z if self.bias is None else z + self.bias).permute(0, 3, 1, 2)
        return super().forward(x.contiguous(memory_format=torch.channels_last))

    def product(self, a: Tensor, weight: Tensor, bias: bool = True) -> Tensor:
        """(B, H, W, c) times ``weight`` (n, c): (B, H, W, n)."""
        b, h, w, c = a.shape
        return F.linear(a.reshape(-1, c), weight, self.bias if bias else None).view(b, h, w, -1)

    def dense(self, x: Tensor) -> Tensor:
        """One matrix from the whole image to the whole image."""
        (b, c_in, h, w), c_out = x.shape, len(self.weight)
        places = h * w
        taps = self.weight.permute(2, 3, 1, 0).reshape(9, -1)
        matrix = (neighbours(h, w, taps.dtype, taps.device) @ taps).view(places, places, c_in, c_out)
        matrix = matrix.transpose(1, 2).reshape(places * c_in, places * c_out)
        flat = x.permute(0, 2, 3, 1).reshape(b, -1)
        z = flat @ matrix if self.bias is None else torch.addmm(self.bias.expand(places, -1).flatten(), flat, matrix)
        return z.view(b, h, w, c_out).permute(0, 3, 1, 2)
