"""Flows of published architectures: (B, *shape) -> (B, D), standard normal, of images (C, H, W) and vectors (D,).

They raise ``InputError`` for data of one value, which has no halves to couple.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from fvae.conditioners import Constant
from fvae.errors import InputError
from fvae.flows.base import Chain, Flow
from fvae.flows.coupling import Checkerboard, Coupling
from fvae.flows.elementwise import ActNorm, scaling
from fvae.flows.fused import CouplingNet, fuse
from fvae.flows.linear import InvertibleConv
from fvae.flows.multiscale import Shape, multiscale
from fvae.flows.reshape import Flatten, Permute, reverse, shuffle
from fvae.networks.by_shape import is_image
from fvae.networks.conv import zero_conv
from fvae.networks.mlp import coupling_mlp
from fvae.transforms import Additive, Affine, Transform

Mixing = Literal["conv", "shuffle", "reverse"]
MIXINGS = {"conv": InvertibleConv, "shuffle": shuffle, "reverse": reverse}
TRANSFORMS: dict[str, Transform] = {"affine": Affine(bound=2.0), "additive": Additive()}


def glow(
    shape: Shape,
    levels: int,
    depth: int,
    width: int,
    mixing: Mixing = "conv",
    coupling: Literal["affine", "additive"] = "affine",
    actnorm: bool = True,
    squeeze_first: bool = True,
) -> Flow:
    """``depth`` steps of actnorm, mixing and coupling at each of ``levels`` scales (Kingma & Dhariwal, 2018)."""
    mixings, transform = depth * [MIXINGS[mixing]], TRANSFORMS[coupling]
    step = partial(glow_steps, mixings=mixings, width=width, transform=transform, actnorm=actnorm)
    return multiscale(shape, levels, step, zero_density, squeeze_first)


def realnvp(shape: Shape, levels: int, depth: int, width: int, squeeze_first: bool = True) -> Flow:
    """``depth`` couplings by checkerboard and as many by channel at each of ``levels`` scales (Dinh et al., 2017).

    Shuffles alternate with reversals, so that two couplings by channel transform every channel. Actnorm takes the place
    of their batch normalization, and data keep their scale: no logit.
    """
    mixings = (depth * [shuffle, reverse])[:depth]
    by_channel = partial(glow_steps, mixings=mixings, width=width, transform=TRANSFORMS["affine"])
    before = partial(checkerboards, depth=depth, width=width)
    return multiscale(shape, levels, by_channel, constant_density, squeeze_first, before)


def nice(shape: Shape, depth: int, width: int, hidden: int) -> Flow:
    """``depth`` additive couplings of even and odd dimensions, and a scaling at the end (Dinh et al., 2015).

    The code is Gaussian, where theirs is logistic for most data, and the last layer has a shift too.
    """
    check_halves(shape)
    d = math.prod(shape)
    flows: list[Flow] = [Flatten(shape), Permute(torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)]))]
    for i in range(depth):
        keep = d // 2 if i % 2 else d - d // 2
        net = coupling_mlp(keep, d - keep, width, hidden)
        flows += [Coupling(net, keep, Additive()), Permute(torch.arange(d).roll(-keep))]
    return Chain(*flows, scaling((d,)))


def couplings(shape: Shape, depth: int, width: int, coupling: str) -> Flow:
    """``depth`` couplings or one more, and as many reversals, (B, *shape) to itself: the identity at the start."""
    pairs = 2 * math.ceil(depth / 2)  # an even number of reversals
    steps = (channel_coupling(shape, width, TRANSFORMS[coupling]) for _ in range(pairs))
    return Chain(*(f for step in steps for f in (step, reverse(shape[0]))))


# What they consist of


def check_halves(shape: Shape) -> None:
    """Refuse data of one value; raises ``InputError``."""
    if math.prod(shape) == 1:
        raise InputError("expected data or latents of 2 values or more, which couplings halve, found 1", "flow")


def coupling_network(shape: Shape, c_in: int, c_out: int, width: int) -> nn.Module:
    """(B, c_in, *) -> (B, c_out, *), zero at the start."""
    return CouplingNet(c_in, c_out, width) if is_image(shape) else coupling_mlp(c_in, c_out, width)


def channel_coupling(shape: Shape, width: int, transform: Transform) -> Coupling:
    """The first half of the channels sets the transform of the second."""
    check_halves(shape)
    keep = shape[0] // 2
    net = coupling_network(shape, keep, transform.parameters * (shape[0] - keep), width)
    return Coupling(net, keep, transform)


def glow_steps(shape: Shape, mixings: Sequence, width: int, transform: Transform, actnorm: bool = True) -> list[Flow]:
    """Actnorm, mixing and coupling, for each of the mixings."""
    flows: list[Flow] = []
    for mixing in mixings:
        coupling = channel_coupling(shape, width, transform)
        flows += [ActNorm(shape, actnorm), mixing(shape[0]), coupling]
    return fuse(flows)


def checkerboards(shape: Shape, depth: int, width: int) -> list[Flow]:
    """Actnorm and affine coupling by alternate colors of a checkerboard, ``depth`` times."""
    c, transform = shape[0], TRANSFORMS["affine"]
    flows: list[Flow] = []
    for i in range(depth):
        net = coupling_network(shape, c, transform.parameters * c, width)
        flows += [ActNorm(shape), Checkerboard(net, i % 2, transform)]
    return flows


def zero_density(stay: int, leave: int) -> nn.Module:
    """The density of the channels that leave given those that stay: a convolution, zero at the start."""
    return zero_conv(stay, Affine.parameters * leave, 3)


def constant_density(stay: int, leave: int) -> nn.Module:
    """The density of the channels that leave, whatever those that stay are."""
    return Constant((leave, 1, 1))
