"""Convolutions as matrix products: the same sums, computed where a processor is fastest.

A flow's networks widen few channels to many and narrow them again: a product for the channels between, and products
with a few shifted copies at the ends. Images are (B, C, H, W) with their channels innermost in memory (channels-last),
so that (B H W, C) is the same memory, read as a matrix.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fvae.networks.conv import channels_last, pointwise

BLOCK = 2**17  # values of a block of rows: two of them and what multiplies them fit a core's cache


def unfold(a: Tensor) -> Tensor:
    """Each position's 3x3 neighbors, zero beyond the border: (B, H, W, C) -> (B, H, W, 9 C)."""
    b, h, w, c = a.shape
    padded = F.pad(a, (0, 0, 1, 1, 1, 1)).contiguous()  # a's own order may not have been
    line = (w + 2) * c
    rows = padded.as_strided((b, h, w, 3, 3 * c), ((h + 2) * line, line, c, line, 1))
    return rows.reshape(b, h, w, 9 * c).contiguous()  # of w = 1 the rows would still overlap


def fold(a: Tensor) -> Tensor:
    """Each position's values for its 3x3 neighbors, added up where they belong: (B, H, W, 9 C) -> (B, H, W, C)."""
    b, h, w, c = a.shape
    across = F.pad(a.view(b, h, w, 3, 3, c // 9), (0, 0, 0, 0, 0, 0, 1, 1))
    line = across[:, :, 2:, :, 0] + across[:, :, 1:-1, :, 1] + across[:, :, :-2, :, 2]
    down = F.pad(line, (0, 0, 0, 0, 0, 0, 1, 1))
    return down[:, 2:, :, 0] + down[:, 1:-1, :, 1] + down[:, :-2, :, 2]


def three_products(u: Tensor, first: Tensor, a: Tensor, middle: Tensor, b: Tensor, final: Tensor) -> list[Tensor]:
    """h1 = relu(u A + a), h2 = relu(h1 B + b), p = h2 C, by blocks of rows that stay in the cache.

    u (N, i), A (i, n), a (n), B (n, n), b (n), C (n, j): h1, h2 (N, n) and p (N, j).
    """
    h1 = u.new_empty(len(u), len(middle))
    h2, p = torch.empty_like(h1), u.new_empty(len(u), final.shape[1])
    for u_, h1_, h2_, p_ in zip(*blocks(len(middle), u, h1, h2, p), strict=True):
        torch.addmm(a, u_, first, out=h1_).relu_()
        torch.addmm(b, h1_, middle, out=h2_).relu_()
        torch.mm(h2_, final, out=p_)
    return [h1, h2, p]


def three_products_backward(
    dp: Tensor, u: Tensor, h1: Tensor, h2: Tensor, first: Tensor, middle: Tensor, final: Tensor
) -> list[Tensor]:
    """Gradients of ``three_products`` with respect to its arguments, by the same blocks.

    The wide intermediates are read once, and their gradients never leave the cache.
    """
    du = torch.empty_like(u)
    dfirst, dmiddle, dfinal, da, db = cast(list[list[Tensor]], [[] for _ in range(5)])
    for u_, h1_, h2_, dp_, du_ in zip(*blocks(len(middle), u, h1, h2, dp, du), strict=True):
        dh2 = torch.mm(dp_, final.T)
        relu_backward(dh2, h2_, 0, grad_input=dh2)
        dh1 = torch.mm(dh2, middle.T)
        relu_backward(dh1, h1_, 0, grad_input=dh1)
        torch.mm(dh1, first.T, out=du_)
        add(dfinal, h2_.T, dp_)
        add(dmiddle, h1_.T, dh2)
        add(dfirst, u_.T, dh1)
        db.append(dh2.sum(0))
        da.append(dh1.sum(0))
    return [du, dfirst[0], sum(da[1:], da[0]), dmiddle[0], sum(db[1:], db[0]), dfinal[0]]


def blocks(width: int, *matrices: Tensor) -> list[tuple[Tensor, ...]]:
    """Each matrix's rows, in blocks of ``BLOCK`` values ``width`` wide."""
    return [m.split(max(1, BLOCK // width)) for m in matrices]


def add(to: list[Tensor], a: Tensor, b: Tensor) -> None:
    """to[0] += a b."""
    if to:
        to[0].addmm_(a, b)
    else:
        to.append(a @ b)


relu_backward = torch.ops.aten.threshold_backward.grad_input


class CouplingNet(nn.Module):
    """conv3x3 - ReLU - conv1x1 - ReLU - conv3x3 (zero): (B, c_in, H, W) -> (B, c_out, H, W) (Kingma & Dhariwal, 2018).

    Where that is faster, the three convolutions run as matrix products with an explicit gradient (``Products``).
    """

    weight_1: Tensor
    weight_2: Tensor
    weight_3: Tensor
    bias_1: Tensor
    bias_2: Tensor
    bias_3: Tensor

    def __init__(self, c_in: int, c_out: int, width: int):
        super().__init__()
        layers = nn.Conv2d(c_in, width, 3), nn.Conv2d(width, width, 1), nn.Conv2d(width, c_out, 3)
        for p in layers[2].parameters():
            nn.init.zeros_(p)
        for i, layer in enumerate(layers, 1):
            for name, parameter in layer.named_parameters():
                self.register_parameter(f"{name}_{i}", parameter)

    @property
    def layers(self) -> tuple[Tensor, ...]:
        """Weight and bias of each convolution."""
        return self.weight_1, self.bias_1, self.weight_2, self.bias_2, self.weight_3, self.bias_3

    def forward(self, x: Tensor) -> Tensor:
        near = x.permute(0, 2, 3, 1)
        if products_are_faster(near, self.weight_1, self.weight_3):
            return Products.apply(near, *self.layers).permute(0, 3, 1, 2)
        return three_convolutions(x, *self.layers)


def three_convolutions(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
    """The network as the library's convolutions, in channels-last on a CPU."""
    near = channels_last(x)
    h = F.conv2d(near, w1, b1, padding=1).relu_()
    return F.conv2d(channels_last(pointwise(h, w2, b2).relu_()), w3, b3, padding=1)


def products_are_faster(near: Tensor, first: Tensor, final: Tensor) -> bool:
    """Whether products are the faster way: on a CPU, between few channels.

    Of many rows, when they are wide enough for their memory traffic to count; of few in training, when the number of
    operations counts. Elsewhere a library's convolutions are as fast or faster (measured, docs/performance.md).
    """
    if near.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled(near.device.type):
        return False
    if any(torch.func.debug_unwrap(a) is not a for a in (near, first)):  # torch.func differentiates operations
        return False
    width, times = len(first), len(first) / max(first.shape[1], len(final))
    values = near[..., 0].numel() * width
    if values >= 4 * BLOCK:
        return times >= 20
    return times >= 8 and values < 2 * BLOCK and torch.is_grad_enabled()


class Products(torch.autograd.Function):
    """A ``CouplingNet`` of images with the channels last, (B, H, W, C), and its gradient, as products by blocks."""

    @staticmethod
    def forward(ctx, near, w1, b1, w2, b2, w3, b3):
        b, h, w, _ = near.shape
        u = unfold(near).flatten(0, 2)
        first, middle = w1.permute(2, 3, 1, 0).flatten(0, 2), w2[:, :, 0, 0].T
        final = w3.flip(2, 3).permute(1, 2, 3, 0).flatten(1)
        h1, h2, p = three_products(u, first, b1, middle, b2, final)
        ctx.save_for_backward(u, h1, h2, first, middle, final)
        return fold(p.unflatten(0, (b, h, w))) + b3

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        b, h, w, c_out = dout.shape
        u, *rest = ctx.saved_tensors  # read once: a checkpoint hands them out once
        du, dfirst, da, dmiddle, db, dfinal = three_products_backward(unfold(dout).flatten(0, 2), u, *rest)
        dfirst = dfirst.view(3, 3, u.shape[1] // 9, -1).permute(3, 2, 0, 1)
        dfinal = dfinal.view(-1, 3, 3, c_out).permute(3, 0, 1, 2).flip(2, 3)
        near = fold(du.unflatten(0, (b, h, w)))
        return near, dfirst, da, dmiddle.T[:, :, None, None], db, dfinal, dout.sum((0, 1, 2))
