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
    padded = F.pad(a, (0, 0, 1, 1, 1, 1)).contiguous()  # a's own order may not have been
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


class Linear(torch.autograd.Function):
    """A linear map of one tensor, such as ``unfold``, with its ``adjoint``, such as ``fold``, as its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, way, adjoint):
        return way(a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.way, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx, grad):
        return Linear.apply(grad, ctx.adjoint, ctx.way), None, None


def three_products(u: Tensor, first: Tensor, a: Tensor, middle: Tensor, b: Tensor, last: Tensor) -> list[Tensor]:
    """h1 = relu(u A + a), h2 = relu(h1 B + b), p = h2 C, by blocks of rows that stay in the cache.

    u (N, i), A (i, k n), a (k n), B (n, n), b (n), C (k n, j): h1, h2 (N, k n) and p (N, j). The middle product takes
    the k n values of a row as k rows of n.
    """
    wide, n = first.shape[1], len(middle)
    h1 = u.new_empty(len(u), wide)
    h2, p = torch.empty_like(h1), u.new_empty(len(u), last.shape[1])
    rows = max(1, BLOCK // wide)
    for u_, h1_, h2_, p_ in zip(*(m.split(rows) for m in (u, h1, h2, p)), strict=True):
        torch.addmm(a, u_, first, out=h1_).relu_()
        torch.addmm(b, h1_.view(-1, n), middle, out=h2_.view(-1, n)).relu_()
        torch.mm(h2_, last, out=p_)
    return [h1, h2, p]


def three_products_backward(
    dp: Tensor, u: Tensor, h1: Tensor, h2: Tensor, first: Tensor, middle: Tensor, last: Tensor
) -> list[Tensor]:
    """Gradients of ``three_products`` with respect to its arguments, by the same blocks.

    The wide intermediates are read once, and their gradients never leave the cache.
    """
    wide, n = first.shape[1], len(middle)
    du = torch.empty_like(u)
    dfirst, dmiddle, dlast, da, db = cast(list[list[Tensor]], [[] for _ in range(5)])
    rows = min(len(u), max(1, BLOCK // wide))
    block2, block1 = u.new_empty(2, rows, wide)
    for u_, h1_, h2_, dp_, du_ in zip(*(m.split(rows) for m in (u, h1, h2, dp, du)), strict=True):
        dh2 = torch.mm(dp_, last.T, out=block2[: len(u_)])
        relu_backward(dh2, h2_, 0, grad_input=dh2)
        dh1 = block1[: len(u_)]
        torch.mm(dh2.view(-1, n), middle.T, out=dh1.view(-1, n))
        relu_backward(dh1, h1_, 0, grad_input=dh1)
        torch.mm(dh1, first.T, out=du_)
        add(dlast, h2_.T, dp_)
        add(dmiddle, h1_.view(-1, n).T, dh2.view(-1, n))
        add(dfirst, u_.T, dh1)
        db.append(dh2.view(-1, n).sum(0))
        da.append(dh1.sum(0))
    return [du, dfirst[0], sum(da[1:], da[0]), dmiddle[0], sum(db[1:], db[0]), dlast[0]]


def add(to: list[Tensor], a: Tensor, b: Tensor) -> None:
    """to[0] += a b."""
    if to:
        to[0].addmm_(a, b)
    else:
        to.append(a @ b)


relu_backward = torch.ops.aten.threshold_backward.grad_input


@lru_cache(16)
@torch.inference_mode(False)
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
            return self.product(Linear.apply(near, unfold, fold), self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return self.ended(super().forward(near.contiguous().permute(0, 3, 1, 2)))

    def ended(self, a: Tensor) -> Tensor:
        return a.relu_() if self.relu else a

    def product(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, H, W, c) times ``weight`` (n, c): (B, n, H, W)."""
        b, h, w, c = a.shape
        return self.ended(F.linear(a.reshape(-1, c), weight, bias)).view(b, h, w, -1).permute(0, 3, 1, 2)

    def dense(self, a: Tensor) -> Tensor:
        """One matrix from the whole image to the whole image."""
        b, h, w, _ = a.shape
        bias = None if self.bias is None else self.bias.repeat(h * w)
        z = self.ended(F.linear(a.reshape(b, -1), self.matrix(h, w).T, bias))
        return z.view(b, h, w, -1).permute(0, 3, 1, 2)

    def matrix(self, h: int, w: int) -> Tensor:
        """(P c_in, P c_out) for images of P = h w places."""
        c_out, c_in = self.weight.shape[:2]
        taps = self.weight.permute(2, 3, 1, 0).reshape(9, -1)
        matrix = (neighbours(h, w, taps.dtype, taps.device) @ taps).view(h * w, h * w, c_in, c_out)
        return matrix.transpose(1, 2).reshape(h * w * c_in, h * w * c_out)

    def matrix_backward(self, gradient: Tensor, h: int, w: int) -> Tensor:
        """The weight's gradient from that of ``matrix``."""
        c_out, c_in = self.weight.shape[:2]
        apart = gradient.view(h * w, c_in, h * w, c_out).transpose(1, 2).reshape(-1, c_in * c_out)
        taps = neighbours(h, w, gradient.dtype, gradient.device).T @ apart
        return taps.view(3, 3, c_in, c_out).permute(3, 2, 0, 1)


class CouplingNet(nn.Sequential):
    """conv3x3 - ReLU - conv1x1 - ReLU - conv3x3: (B, c_in, H, W) -> (B, c_out, H, W).

    ``run`` and ``pull`` are the network and its gradient by hand, for images with the channels last, (B, H, W, C).
    """

    def __init__(self, c_in: int, c_out: int, width: int):
        super().__init__(Conv2d(c_in, width, 3, relu=True), Conv2d(width, width, 1, relu=True), Conv2d(width, c_out, 3))

    def forward(self, x: Tensor) -> Tensor:
        near = x.permute(0, 2, 3, 1)
        if not self.runs(near):
            return super().forward(x)
        return Network.apply(self, near, *self.parameters()).permute(0, 3, 1, 2)

    @property
    def layers(self) -> tuple[Conv2d, Conv2d, Conv2d]:
        return cast(tuple[Conv2d, Conv2d, Conv2d], tuple(self))

    def is_dense(self, places: int) -> bool:
        first, _, last = self.layers
        return places <= 16 and places * places * max(first.in_channels, last.out_channels) * len(first.weight) <= DENSE

    def runs(self, near: Tensor) -> bool:
        """Whether ``run`` is the faster way: on a CPU, for whole images as rows, or for many and wide rows."""
        if near.is_cuda or torch.compiler.is_compiling() or torch.is_autocast_enabled(near.device.type):
            return False
        made = [(getattr(m, "relu", None), getattr(m, "kernel_size", None)) for m in self]
        if made != [(True, (3, 3)), (True, (1, 1)), (False, (3, 3))] or not all(map(untouched, (self, *self))):
            return False
        (b, h, w, c_in), (first, _, last) = near.shape, self.layers
        narrow = 20 * max(c_in, last.out_channels) <= first.out_channels
        return self.is_dense(h * w) or (narrow and b * h * w * first.out_channels >= 4 * BLOCK)

    def run(self, near: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and what ``pull`` needs."""
        (b, h, w, _), (first, middle, last) = near.shape, self.layers
        assert first.bias is not None and middle.bias is not None and last.bias is not None
        dense = self.is_dense(h * w)
        if dense:
            u, a_matrix, c_matrix = near.reshape(b, -1), first.matrix(h, w), last.matrix(h, w)
        else:
            u, a_matrix = unfold(near).view(b * h * w, -1), first.weight.permute(2, 3, 1, 0).flatten(0, 2)
            c_matrix = last.weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)
        a = first.bias.repeat(h * w) if dense else first.bias
        b_matrix = middle.weight[:, :, 0, 0].T
        h1, h2, p = three_products(u, a_matrix, a, b_matrix, middle.bias, c_matrix)
        out = p.view(b, h, w, -1)
        return (out if dense else fold(out)) + last.bias, [u, h1, h2, a_matrix, b_matrix, c_matrix]

    def pull(self, dout: Tensor, saved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the input and of each parameter, from that of the output and what ``run`` saved."""
        (b, h, w, c_out), (first, _, last) = dout.shape, self.layers
        dense, c_in = self.is_dense(h * w), first.in_channels
        dp = dout.reshape(b, -1) if dense else unfold(dout).view(b * h * w, -1)
        du, dfirst, da, dmiddle, db, dlast = three_products_backward(dp, *saved)
        if dense:
            near, da = du.view(b, h, w, c_in), da.view(h * w, -1).sum(0)
            dfirst, dlast = first.matrix_backward(dfirst, h, w), last.matrix_backward(dlast, h, w)
        else:
            near = fold(du.view(b, h, w, -1))
            dfirst = dfirst.view(3, 3, c_in, -1).permute(3, 2, 0, 1)
            dlast = dlast.view(-1, 3, 3, c_out).permute(3, 0, 1, 2).flip(2, 3)
        return near, [dfirst, da, dmiddle.T[:, :, None, None], db, dlast, dout.sum((0, 1, 2))]


def untouched(module: nn.Module) -> bool:
    """Whether a module does what its class says: one of this file's, without hooks."""
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return type(module) in (Conv2d, CouplingNet) and not any(hooks) and getattr(module, "bias", 0) is not None


class Network(torch.autograd.Function):
    """A ``CouplingNet`` by its own ``run`` and ``pull``."""

    @staticmethod
    def forward(ctx, net, near, *parameters):
        out, saved = net.run(near)
        ctx.net = net
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        near, gradients = ctx.net.pull(dout, ctx.saved_tensors)
        return None, near, *gradients
