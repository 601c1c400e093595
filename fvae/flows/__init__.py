"""Invertible maps: ``forward(x, cond) -> (z, log |det dz/dx|)`` and ``inverse(z, cond) -> x``."""

from fvae.flows.base import Chain, Flow, Inverse
from fvae.flows.coupling import Checkerboard, Coupling
from fvae.flows.dequantize import Dequantize, PointMass
from fvae.flows.elementwise import ActNorm, Elementwise, Standardize, scaling, standard_normal, with_classes
from fvae.flows.linear import InvertibleConv
from fvae.flows.multiscale import FactorOut, multiscale
from fvae.flows.reshape import Flatten, Permute, Squeeze, reverse, shuffle

__all__ = [
    "ActNorm",
    "Chain",
    "Checkerboard",
    "Coupling",
    "Dequantize",
    "Elementwise",
    "FactorOut",
    "Flatten",
    "Flow",
    "Inverse",
    "InvertibleConv",
    "Permute",
    "PointMass",
    "Squeeze",
    "Standardize",
    "multiscale",
    "reverse",
    "scaling",
    "shuffle",
    "standard_normal",
    "with_classes",
]
