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

BLOCK = 2**17  # values of a block of rows: two of them and what multiplies them fit a core's cache


def unfold(a: Tensor) -> Tensor:
    """Each place's 3x3 neighbours, zero beyond the border: (B, H, W, C) -> (B, H, W, 9 C)."""
    b, h, w, c = a.shape
    padded = F.pad(a, (0, 0, 1, 1, 1, 1)).contiguous()  # a's own order may not have been
    line = (w + 2) * c
    rows = padded.as_strided((b, h, w, 3, 3 * c), ((h + 2) * line, line, c, line, 1))
    return rows.reshape(b, h, w, 9 * c).contiguous()  # of w = 1 the rows would still overlap


def fold(a: Tensor) -> Tensor:
    """Each place's values for its 3x3 neighbours, added up where they belong: (B, H, W, 9 C) -> (B, H, W, C)."""
    b, h, w, c = a.shape
    across = F.pad(a.view(b, h, w, 3, 3, c // 9), (0, 0, 0, 0, 0, 0, 1, 1))
    line = across[:, :, 2:, :, 0] + across[:, :, 1:-1, :, 1] + across[:, :, :-2, :, 2]
    down = F.pad(line, (0, 0, 0, 0, 0, 0, 1, 1))
    return down[:, 2:, :, 0] + down[:, 1:-1, :, 1] + down[:, :-2, :, 2]


def three_products(u: Tensor, first: Tensor, a: Tensor, middle: Tensor, b: Tensor, last: Tensor) -> list[Tensor]:
    """h1 = relu(u A + a), h2 = relu(h1 B + b), p = h2 C, by blocks of rows that stay in the cache.

    u (N, i), A (i, n), a (n), B (n, n), b (n), C (n, j): h1, h2 (N, n) and p (N, j).
    """
    h1 = u.new_empty(len(u), len(middle))
    h2, p = torch.empty_like(h1), u.new_empty(len(u), last.shape[1])
    for u_, h1_, h2_, p_ in zip(*blocks(len(middle), u, h1, h2, p), strict=True):
        torch.addmm(a, u_, first, out=h1_).relu_()
        torch.addmm(b, h1_, middle, out=h2_).relu_()
        torch.mm(h2_, last, out=p_)
    return [h1, h2, p]


def three_products_backward(
    dp: Tensor, u: Tensor, h1: Tensor, h2: Tensor, first: Tensor, middle: Tensor, last: Tensor
) -> list[Tensor]:
    """Gradients of ``three_products`` with respect to its arguments, by the same blocks.

    The wide intermediates are read once, and their gradients never leave the cache.
    """
    du = torch.empty_like(u)
    dfirst, dmiddle, dlast, da, db = cast(list[list[Tensor]], [[] for _ in range(5)])
    for u_, h1_, h2_, dp_, du_ in zip(*blocks(len(middle), u, h1, h2, dp, du), strict=True):
        dh2 = torch.mm(dp_, last.T)
        relu_backward(dh2, h2_, 0, grad_input=dh2)
        dh1 = torch.mm(dh2, middle.T)
        relu_backward(dh1, h1_, 0, grad_input=dh1)
        torch.mm(dh1, first.T, out=du_)
        add(dlast, h2_.T, dp_)
        add(dmiddle, h1_.T, dh2)
        add(dfirst, u_.T, dh1)
        db.append(dh2.sum(0))
        da.append(dh1.sum(0))
    return [du, dfirst[0], sum(da[1:], da[0]), dmiddle[0], sum(db[1:], db[0]), dlast[0]]


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


class Conv2d(nn.Conv2d):
    """A 1x1 or 3x3 convolution, stride 1, same size out as in, maybe with a ReLU: (B, c_in, H, W) -> (B, c_out, H, W).

    The ReLU is in place, in the sums' own memory.
    """

    def __init__(self, c_in: int, c_out: int, size: int, bias: bool = True, relu: bool = False):
        super().__init__(c_in, c_out, size, padding=size // 2, bias=bias)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        near = x.permute(0, 2, 3, 1)
        if self.kernel_size == (1, 1):
            b, h, w, _ = near.shape
            z = F.linear(near.flatten(0, 2), self.weight[:, :, 0, 0], self.bias)
            return self.ended(z).unflatten(0, (b, h, w)).permute(0, 3, 1, 2)
        cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()  # others choose the layout themselves
        return self.ended(super().forward(near.contiguous().permute(0, 3, 1, 2) if cpu else x))

    def ended(self, a: Tensor) -> Tensor:
        return a.relu_() if self.relu else a


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

    def runs(self, near: Tensor) -> bool:
        """Whether ``run`` is the faster way: on a CPU, between few channels.

        Of many rows, when they are wide enough for their memory traffic to count; of few in training, when the number
        of operations counts. Elsewhere a library's convolutions are as fast or faster (measured, docs/performance.md).
        """
        if near.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled(near.device.type):
            return False
        if torch._C._are_functorch_transforms_active():  # those differentiate operations, not our ``pull``
            return False
        made = [(getattr(m, "relu", None), getattr(m, "kernel_size", None)) for m in self]
        if made != [(True, (3, 3)), (True, (1, 1)), (False, (3, 3))] or not all(map(untouched, (self, *self))):
            return False
        (b, h, w, _), (first, _, last) = near.shape, self.layers
        times, values = first.out_channels / max(first.in_channels, last.out_channels), b * h * w * first.out_channels
        if values >= 4 * BLOCK:
            return times >= 20
        return times >= 8 and values < 2 * BLOCK and torch.is_grad_enabled()

    def run(self, near: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and what ``pull`` needs."""
        (b, h, w, _), (first, middle, last) = near.shape, self.layers
        assert first.bias is not None and middle.bias is not None and last.bias is not None
        u = unfold(near).flatten(0, 2)
        a_matrix = first.weight.permute(2, 3, 1, 0).flatten(0, 2)
        b_matrix = middle.weight[:, :, 0, 0].T
        c_matrix = last.weight.flip(2, 3).permute(1, 2, 3, 0).flatten(1)
        h1, h2, p = three_products(u, a_matrix, first.bias, b_matrix, middle.bias, c_matrix)
        return fold(p.unflatten(0, (b, h, w))) + last.bias, [u, h1, h2, a_matrix, b_matrix, c_matrix]

    def pull(self, dout: Tensor, saved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The gradients of the input and of each parameter, from that of the output and what ``run`` saved."""
        (b, h, w, c_out), c_in = dout.shape, self.layers[0].in_channels
        du, dfirst, da, dmiddle, db, dlast = three_products_backward(unfold(dout).flatten(0, 2), *saved)
        dfirst = dfirst.view(3, 3, c_in, -1).permute(3, 2, 0, 1)
        dlast = dlast.view(-1, 3, 3, c_out).permute(3, 0, 1, 2).flip(2, 3)
        gradients = [dfirst, da, dmiddle.T[:, :, None, None], db, dlast, dout.sum((0, 1, 2))]
        return fold(du.unflatten(0, (b, h, w))), gradients


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
