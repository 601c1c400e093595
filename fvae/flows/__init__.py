"""Invertible maps: ``forward(x, cond) -> (z, log |det dz/dx|)`` and ``inverse(z, cond) -> x``."""

from fvae.flows.affine import ActNorm, Colour, Standardise, Whiten
from fvae.flows.base import Chain, Flow, Inverse, Unconditional
from fvae.flows.coupling import Checkerboard, Coupling
from fvae.flows.dequantise import Dequantise
from fvae.flows.linear import InvertibleConv
from fvae.flows.multiscale import FactorOut, multiscale
from fvae.flows.reshape import Exact, Flatten, Permute, Squeeze, reverse, shuffle
from fvae.flows.steps import Steps, one_by_one, set_reversible

__all__ = [
    "ActNorm",
    "Chain",
    "Checkerboard",
    "Colour",
    "Coupling",
    "Dequantise",
    "Exact",
    "FactorOut",
    "Flatten",
    "Flow",
    "Inverse",
    "InvertibleConv",
    "Permute",
    "Squeeze",
    "Standardise",
    "Steps",
    "Unconditional",
    "Whiten",
    "multiscale",
    "one_by_one",
    "reverse",
    "set_reversible",
    "shuffle",
]
