"""Convolutions as matrix products: the same sums, computed where a processor is fastest.

A flow's networks widen few channels to many and narrow them again, on images down to 2x2: shapes for which a library's
convolution is two to ten times slower than the products it consists of. Images are (B, C, H, W) with their channels
innermost in memory (channels-last), so that (B H W, C) is the same memory, read as a matrix.
"""

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BLOCK = 2**17  # values of a block of rows: two of them and what multiplies them fit a core's cache
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


class ThreeProducts(torch.autograd.Function):
    """p = relu(relu(u A + a) B + b) C by blocks of rows that stay in the cache, backward too.

    u (N, i), A (i, k n), a (k n), B (n, n), b (n), C (k n, j): p (N, j), where the middle product takes the k n values
    of a row as k rows of n. Against one product after the other, the two wide intermediates and their gradients are
    read and written once; gradients of the intermediates live in one block.
    """

    @staticmethod
    def forward(ctx, u, first, a, middle, b, last):
        wide, n = first.shape[1], len(middle)
        h1 = u.new_empty(len(u), wide)
        h2, p = torch.empty_like(h1), u.new_empty(len(u), last.shape[1])
        rows = max(1, BLOCK // wide)
        for u_, h1_, h2_, p_ in zip(*(m.split(rows) for m in (u, h1, h2, p)), strict=True):
            torch.addmm(a, u_, first, out=h1_).relu_()
            torch.addmm(b, h1_.view(-1, n), middle, out=h2_.view(-1, n)).relu_()
            torch.mm(h2_, last, out=p_)
        ctx.save_for_backward(u, h1, h2, first, middle, last)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx, dp):
        u, h1, h2, first, middle, last = ctx.saved_tensors
        wide, n = first.shape[1], len(middle)
        du = torch.empty_like(u)
        dfirst, dmiddle, dlast = (torch.zeros_like(m) for m in (first, middle, last))
        da, db = u.new_zeros(wide), u.new_zeros(n)
        rows = max(1, BLOCK // wide)
        block2, block1 = (u.new_empty(min(rows, len(u)), wide) for _ in range(2))
        for u_, h1_, h2_, dp_, du_ in zip(*(m.split(rows) for m in (u, h1, h2, dp, du)), strict=True):
            dh2 = torch.mm(dp_, last.T, out=block2[: len(u_)])
            dlast.addmm_(h2_.T, dp_)
            relu_backward(dh2, h2_, 0, grad_input=dh2)
            dh2, h1_n = dh2.view(-1, n), h1_.view(-1, n)
            dh1 = block1[: len(u_)]
            torch.mm(dh2, middle.T, out=dh1.view(-1, n))
            dmiddle.addmm_(h1_n.T, dh2)
            db += dh2.sum(0)
            relu_backward(dh1, h1_, 0, grad_input=dh1)
            torch.mm(dh1, first.T, out=du_)
            dfirst.addmm_(u_.T, dh1)
            da += dh1.sum(0)
        return du, dfirst, da, dmiddle, db, dlast


relu_backward = torch.ops.aten.threshold_backward.grad_input


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
    """A 1x1 or 3x3 convolution, stride 1, same size out as in, maybe with a ReLU: (B, c_in, H, W) -> (B, c_out, H, W).

    The ReLU is in place, in the sums' own memory.
    """

    def __init__(self, c_in: int, c_out: int, size: int, bias: bool = True, relu: bool = False):
        super().__init__(c_in, c_out, size, padding=size // 2, bias=bias)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        c_out, c_in = self.weight.shape[:2]
        places = x.shape[2] * x.shape[3]
        near = x.permute(0, 2, 3, 1)
        if self.kernel_size == (1, 1):
            return self.product(near, self.weight[:, :, 0, 0], self.bias)
        if x.is_cuda or torch.compiler.is_compiling():  # either has its own way with small convolutions
            return self.ended(super().forward(x))
        if places <= 16 and places * places * c_in * c_out <= DENSE:
            return self.dense(near)
        if 32 * c_in <= c_out:
            return self.product(Unfold.apply(near), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return self.ended(super().forward(x.contiguous(memory_format=torch.channels_last)))

    def ended(self, a: Tensor) -> Tensor:
        return a.relu_() if self.relu else a

    def product(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, H, W, c) times ``weight`` (n, c): (B, n, H, W)."""
        b, h, w, c = a.shape
        return self.ended(F.linear(a.reshape(-1, c), weight, bias)).view(b, h, w, -1).permute(0, 3, 1, 2)

    def dense(self, a: Tensor) -> Tensor:
        """One matrix from the whole image to the whole image."""
        b, h, w, _ = a.shape
        z = self.ended(F.linear(a.reshape(b, -1), self.matrix(h, w).T, self.biases(h * w)))
        return z.view(b, h, w, -1).permute(0, 3, 1, 2)

    def matrix(self, h: int, w: int) -> Tensor:
        """(P c_in, P c_out) for images of P = h w places."""
        c_out, c_in = self.weight.shape[:2]
        taps = self.weight.permute(2, 3, 1, 0).reshape(9, -1)
        matrix = (neighbours(h, w, taps.dtype, taps.device) @ taps).view(h * w, h * w, c_in, c_out)
        return matrix.transpose(1, 2).reshape(h * w * c_in, h * w * c_out)

    def biases(self, places: int) -> Tensor | None:
        return None if self.bias is None else self.bias.expand(places, -1).flatten()


class CouplingNet(nn.Sequential):
    """conv3x3 - ReLU - conv1x1 - ReLU - conv3x3: (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, width: int):
        super().__init__(Conv2d(c_in, width, 3, relu=True), Conv2d(width, width, 1, relu=True), Conv2d(width, c_out, 3))

    def forward(self, x: Tensor) -> Tensor:
        b, c_in, h, w = x.shape
        first, middle, last = cast(tuple[Conv2d, Conv2d, Conv2d], tuple(self))
        width, c_out, places = len(middle.weight), len(last.weight), h * w
        if x.is_cuda or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        near = x.permute(0, 2, 3, 1)
        b_matrix = middle.weight[:, :, 0, 0].T
        if places <= 16 and places * places * max(c_in, c_out) * width <= DENSE:
            p = ThreeProducts.apply(
                near.reshape(b, -1), first.matrix(h, w), first.biases(places), b_matrix, middle.bias, last.matrix(h, w)
            )
            return (p.view(b, h, w, c_out) + last.bias).permute(0, 3, 1, 2)
        if b * places * width >= 4 * BLOCK and 20 * max(c_in, c_out) <= width:
            a_matrix = first.weight.permute(2, 3, 1, 0).flatten(0, 2)
            c_matrix = last.weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)
            u = Unfold.apply(near).view(b * places, -1)
            p = ThreeProducts.apply(u, a_matrix, first.bias, b_matrix, middle.bias, c_matrix)
            return (Fold.apply(p.view(b, h, w, -1)) + last.bias).permute(0, 3, 1, 2)
        return super().forward(x)
