"""Invertible maps: ``forward(x, cond) -> (z, log |det dz/dx|)`` and ``inverse(z, cond) -> x``."""

from fvae.flows.autoregressive import Autoregressive
from fvae.flows.base import Chain, Flow, Inverse
from fvae.flows.conditional import ConditionalPosterior
from fvae.flows.coupling import Checkerboard, Coupling
from fvae.flows.dequantize import Augment, Dequantize, PointMass
from fvae.flows.elementwise import ActNorm, Elementwise, Standardize, scaling, with_classes
from fvae.flows.linear import InvertibleConv
from fvae.flows.multiscale import FactorOut, multiscale
from fvae.flows.reshape import Flatten, Permute, Squeeze, reverse, shuffle
