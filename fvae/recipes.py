"""Every model as one expression over the three rooms. A recipe's arguments are its settings.

The only place where networks and probability meet. A model made here knows the recipe and the settings that made it
(``model.config``), which is all that is needed to build it again.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from fvae.bound import LatentModel
from fvae.errors import UserError
from fvae.flows import (
    ActNorm,
    Colour,
    Coupling,
    Dequantise,
    Flatten,
    Flow,
    InvertibleConv,
    Steps,
    multiscale,
    reverse,
    shuffle,
)
from fvae.likelihoods import BinnedGaussian, Certain, Scaled
from fvae.nets.conv import (
    coupling_net,
    squeezing,
    unsqueezing,
    vector_decoder,
    vector_encoder,
    zero_conv,
)
from fvae.params import MeanOnly, SharedStd, Split

Shape = tuple[int, int, int]
Mixing = Literal["conv", "shuffle", "reverse"]
MIXINGS: dict[str, Callable[[int], Flow]] = {"conv": InvertibleConv, "shuffle": shuffle, "reverse": reverse}

RECIPES: dict[str, Callable[..., LatentModel]] = {}


def recipe(make: Callable[..., LatentModel]) -> Callable[..., LatentModel]:
    """Enter a recipe in the table, check its settings by name and type, and note them on the model it makes."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def wrapper(shape: Shape, **settings: Any) -> LatentModel:
        for name in settings:
            if name not in list(signature.parameters)[1:]:
                known = ", ".join(list(signature.parameters)[1:])
                raise UserError(f"{make.__name__} has no setting {name!r}; its settings are {known}")
        bound = signature.bind(tuple(shape), **settings)
        bound.apply_defaults()
        settings = dict(list(bound.arguments.items())[1:])
        check(make.__name__, tuple(shape), settings, signature)
        model = make(tuple(shape), **settings)
        model.config = {"recipe": make.__name__, "shape": list(shape), "settings": settings}
        return model

    RECIPES[make.__name__] = wrapper
    return wrapper


def check(name: str, shape: tuple, settings: dict[str, Any], signature: inspect.Signature) -> None:
    """Refuse values that no recipe can take, in one line that names the setting.

    Raises ``UserError``.
    """
    for key, value in settings.items():
        kind = signature.parameters[key].annotation
        allowed = getattr(kind, "__args__", None)  # of a Literal
        if allowed is not None:
            if value not in allowed:
                raise UserError(f"{name}: {key} must be one of {', '.join(allowed)}; found {value!r}")
        elif kind is bool:
            if not isinstance(value, bool):
                raise UserError(f"{name}: {key} must be true or false; found {value!r}")
        elif isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
            raise UserError(
                f"{name}: {key} must be {'a number' if kind is float else 'a whole number'}; found {value!r}"
            )
        elif key == "bits" and not 1 <= value <= 8:
            raise UserError(f"{name}: bits must be from 1 to 8; found {value}")
        elif key in ("blocks", "hidden"):
            if value < 0:
                raise UserError(f"{name}: {key} must be 0 or more; found {value}")
        elif not 0 < value < math.inf:  # NaN too
            raise UserError(f"{name}: {key} must be above 0{' and finite' * (kind is float)}; found {value}")
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(f"{name}: shape must be (channels, height, width); found {shape}")


def divisible(name: str, shape: Shape, halvings: int, settings: str) -> None:
    """Refuse an image whose sides can't be halved as often as the model does; raises ``UserError``."""
    _, h, w = shape
    n = 2 ** min(halvings, 20)  # no image is larger, and the message stays short
    if h % n or w % n:
        up = max(n, -(-max(h, w) // n) * n)
        raise UserError(
            f"{name} with {settings} needs height and width that {n} divides; found {h}x{w}: "
            f"give smaller numbers there, or --data.size {up}"
        )


def steps(depth: int, width: int, mixing: Mixing, additive: bool) -> Callable[[Shape], list[Flow]]:
    """Glow's step, ``depth`` times: actnorm, mixing, coupling."""

    def level(shape: Shape) -> list[Flow]:
        c = shape[0]
        keep, moved = c // 2, c - c // 2
        flows: list[Flow] = []
        for _ in range(depth):
            params = (
                MeanOnly(coupling_net(keep, moved, width))
                if additive
                else Split(coupling_net(keep, 2 * moved, width), bound=2.0)
            )
            flows += [ActNorm(shape), MIXINGS[mixing](c), Coupling(params, keep)]
        return [Steps(*flows)]

    return level


def leaving(c_in: int, c_out: int) -> nn.Module:
    """The conditional prior of the channels that leave: a zero-initialised 3x3 convolution of those that stay."""
    return Split(zero_conv(c_in, 2 * c_out, 3))


@recipe
def glow(
    shape: Shape,
    levels: int = 3,
    depth: int = 8,
    width: int = 256,
    mixing: Mixing = "conv",
    coupling: Literal["affine", "additive"] = "affine",
    bits: int = 8,
) -> LatentModel:
    """A multi-scale flow with exact inverse and exact likelihood of dequantised images (Kingma & Dhariwal, 2018).

    Args:
        shape: channels, height and width of an image; 2^levels divides both sides
        levels: scales; half of the channels leave after each
        depth: flow steps a level
        width: hidden channels of the coupling networks
        mixing: channels between couplings: learned 1x1 convolution, fixed random shuffle, or reversal
        coupling: affine (scale and shift) or additive (shift alone, for large models)
        bits: bits a channel of a pixel, 1 to 8

    Raises ``UserError`` for settings or a shape that don't fit.
    """
    divisible("glow", shape, levels, f"levels {levels}")
    step = steps(depth, width, mixing, coupling == "additive")
    return LatentModel(Dequantise(bits), Certain(bits), multiscale(shape, levels, step, leaving), shape, shape)


@recipe
def vae(
    shape: Shape,
    latent: int = 128,
    width: int = 64,
    levels: int = 3,
    blocks: int = 1,
    sigma_2: float = 0.3,
    pace: float = 30.0,
    bits: int = 8,
) -> LatentModel:
    """A convolutional VAE with a Gaussian decoder and one learned sigma_2 (Kingma & Welling, 2014).

    Args:
        shape: channels, height and width of an image; 2^levels divides both sides
        latent: dimensions of z
        width: channels of the first level, doubled at each of the next
        levels: times that height and width are halved
        blocks: residual steps a level, in encoder and decoder
        sigma_2: the decoder's standard deviation on [-1, 1] at the start; it is trained
        pace: learning rate of sigma_2, in units of the networks'
        bits: bits a channel of a pixel, 1 to 8

    Raises ``UserError`` for settings or a shape that don't fit.
    """
    divisible("vae", shape, levels, f"levels {levels}")
    encoder = Scaled(vector_encoder(shape, 2 * latent, width, levels, blocks), bits)
    decoder = vector_decoder(shape, latent, width, levels, blocks)
    return LatentModel(
        posterior=Colour(Split(encoder, bound=6.0)),
        decoder=BinnedGaussian(SharedStd(decoder, sigma_2, pace=pace), bits),
        prior=Flatten((latent,)),
        shape=shape,
        latent=(latent,),
    )


@recipe
def f_vae(
    shape: Shape,
    squeezes: int = 2,
    blocks: int = 4,
    hidden: int = 64,
    levels: int = 3,
    depth: int = 8,
    width: int = 128,
    mixing: Mixing = "conv",
    coupling: Literal["affine", "additive"] = "affine",
    sigma_1: float = 0.02,
    learn_sigma_1: bool = True,
    sigma_2: float = 0.05,
    pace: float = 30.0,
    tanh: bool = False,
    bits: int = 8,
) -> LatentModel:
    """A VAE whose posterior is a conditional flow, or whose prior is one: the same (Su & Wu, 2018).

    z = F(sigma_1 u + E(x)), x ~ N(G(F^-1(z)), sigma_2^2). Built in its equal form, posterior sigma_1 u + E(x) under the
    density of F as the prior, so that training never needs F^-1.

    Args:
        shape: channels, height and width of an image; 2^(squeezes + levels - 1) divides both sides
        squeezes: squeezes in E, and unsqueezes in G
        blocks: residual steps after each squeeze of E, and before each of G
        hidden: hidden channels of those steps, at least (published: 0, as many as the step has channels)
        levels: scales of the flow F
        depth: flow steps a level of F
        width: hidden channels of F's coupling networks
        mixing: channels between F's couplings: learned 1x1 convolution, fixed random shuffle, or reversal
        coupling: F's couplings: affine (scale and shift) or additive (shift alone, as published)
        sigma_1: the posterior's standard deviation at the start, in the units of [-1, 1] images
        learn_sigma_1: train sigma_1; false keeps it, as later latent flows do for their samples
        sigma_2: the decoder's standard deviation on [-1, 1] at the start; it is trained
        pace: learning rate of sigma_1 and sigma_2, in units of the networks'
        tanh: end G with tanh
        bits: bits a channel of a pixel, 1 to 8

    Raises ``UserError`` for settings or a shape that don't fit.
    """
    divisible("f_vae", shape, squeezes + levels - 1, f"squeezes {squeezes} and levels {levels}")
    c, h, w = shape
    latent = (c * 4**squeezes, h >> squeezes, w >> squeezes)
    encoder = Scaled(squeezing(c, squeezes, blocks, hidden), bits)
    decoder = unsqueezing(c, squeezes, blocks, hidden)
    if tanh:
        decoder.append(nn.Tanh())
    step = steps(depth, width, mixing, coupling == "additive")
    return LatentModel(
        posterior=Colour(SharedStd(encoder, sigma_1, learn_sigma_1, pace)),
        decoder=BinnedGaussian(SharedStd(decoder, sigma_2, pace=pace), bits),
        prior=multiscale(latent, levels, step, leaving, squeeze_first=False),
        shape=shape,
        latent=latent,
    )
