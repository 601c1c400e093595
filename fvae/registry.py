"""The table of recipes, and what they have in common: the meaning of a setting's name, and what is refused."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, get_args

from fvae.bound import LatentModel
from fvae.errors import UserError

Shape = tuple[int, ...]  # of images or vectors
TextShape = tuple[int, int]  # the longest sentence, with its end, and the vocabulary

RECIPES: dict[str, Callable[..., LatentModel]] = {}

SETTINGS = {
    "shape": "channels, height and width of an image; columns of vectors; longest sentence and vocabulary of text",
    "latent": "dimensions of z",
    "levels": "scales of the flow; half of the channels leave after each; of images alone",
    "depth": "flow steps a level",
    "width": "hidden channels, or units, of the networks",
    "mixing": "channels between couplings: learned 1x1 convolution, fixed random shuffle, or reversal",
    "coupling": "affine (scale and shift) or additive (shift alone, for large models)",
    "blocks": "residual steps at each scale of encoder and decoder",
    "hidden": "hidden channels of the residual steps, at least (published: 0, as many as the step has channels)",
    "block": "residual steps of E and G: 3x3 convolutions (published), or depthwise 7x7 and 1x1 ones; of images alone",
    "sigma_2": "the decoder's standard deviation at the start, on [-1, 1] images or standardised columns",
    "sigma_2_kind": "how sigma_2 is found: one by gradient, one a channel by gradient, in closed form, or fixed",
    "sigma_2_least": "the least that sigma_2 can become",
    "bins": "of 8-bit values: a density, in the mean over dequantisation, or the bin's probability; of images alone",
    "pace": "learning rate of sigma_1 and sigma_2, in units of the networks'",
    "classes": "labels that the prior knows, each with its mean; 0 for none",
    "decoder": "of sentences: an LSTM, or a causal transformer",
    "embedding": "values of a token's embedding; the transformer's are as many as it has hidden",
    "layers": "of the transformer",
    "heads": "of the transformer's attention",
    "softmax": "over all tokens alike, or adaptive: less work for rare ones (Grave et al., 2017)",
    "dropout": "share of the decoder's units that a training step leaves out",
    "bits": "bits a channel of a pixel, 1 to 8; vectors have none",
}
AT_LEAST_0 = ("blocks", "hidden", "classes", "sigma_2_least")
SHARES = ("dropout", "word_dropout")


def recipe(make: Callable[..., LatentModel]) -> Callable[..., LatentModel]:
    """Enter a recipe in the table, check its settings by name and type, and note them on the model it makes.

    A setting that its text doesn't explain has the meaning of ``SETTINGS``.
    """
    signature = inspect.signature(make)
    text, _, args = inspect.cleandoc(make.__doc__ or "").partition("\n\nArgs:\n")
    own = dict(line.strip().split(": ", 1) for line in args.splitlines())
    lines = [f"    {name}: {own.get(name) or SETTINGS[name]}" for name in signature.parameters]
    make.__doc__ = "\n".join([text, "", "Args:", *lines, "", "Raises ``UserError`` for settings that don't fit."])

    @functools.wraps(make)
    def wrapper(shape: Shape, **settings: Any) -> LatentModel:
        known = list(signature.parameters)[1:]
        for name in settings:
            if name not in known:
                raise UserError(f"{make.__name__} has no setting {name!r}; its settings are {', '.join(known)}")
        bound = signature.bind(tuple(shape), **settings)
        bound.apply_defaults()
        settings = dict(list(bound.arguments.items())[1:])
        check(make.__name__, tuple(shape), settings, signature)
        try:
            model = make(tuple(shape), **settings)
        except UserError as error:
            raise UserError(f"{make.__name__}: {error}") from None
        model.config = {"recipe": make.__name__, "shape": list(shape), "settings": settings}
        return model

    RECIPES[make.__name__] = wrapper
    return wrapper


def check(name: str, shape: tuple, settings: dict[str, Any], signature: inspect.Signature) -> None:
    """Refuse values that no recipe can take, in one line that names the setting; raises ``UserError``."""
    for key, value in settings.items():
        kind = signature.parameters[key].annotation
        choices = get_args(kind)
        if choices:
            if value not in choices:
                raise UserError(f"{name}: {key} must be one of {', '.join(choices)}; found {value!r}")
        elif kind is bool:
            if not isinstance(value, bool):
                raise UserError(f"{name}: {key} must be true or false; found {value!r}")
        elif isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
            number = "a number" if kind is float else "a whole number"
            raise UserError(f"{name}: {key} must be {number}; found {value!r}")
        elif key == "bits" and not 1 <= value <= 8:
            raise UserError(f"{name}: bits must be from 1 to 8; found {value}")
        elif key == "tau" and not 0 < value < 1:
            raise UserError(f"{name}: tau must be between 0 and 1, both excluded; found {value:g}")
        elif key in SHARES:
            if not 0 <= value < 1:
                raise UserError(f"{name}: {key} must be 0 or more and below 1; found {value:g}")
        elif key in AT_LEAST_0:
            if not 0 <= value < math.inf:
                raise UserError(f"{name}: {key} must be 0 or more; found {value}")
        elif not 0 < value < math.inf:  # NaN too
            raise UserError(f"{name}: {key} must be above 0{' and finite' * (kind is float)}; found {value}")
    if settings.get("sigma_2_least", 0) >= settings.get("sigma_2", math.inf):
        raise UserError(
            f"{name}: sigma_2_least must be below sigma_2, {settings['sigma_2']:g}; found {settings['sigma_2_least']:g}"
        )
    if takes_text(RECIPES[name]):
        if len(shape) != 2 or not all(isinstance(n, int) for n in shape) or shape[0] < 2 or shape[1] < 5:
            expected = "shape (longest, of 2 tokens or more, vocabulary of 5 or more)"
            raise UserError(f"{name}: is for text, {expected}; found shape {shape}")
    elif len(shape) == 2:
        raise UserError(f"{name}: is for images and rows of numbers; found text: take text_vae")
    elif len(shape) not in (1, 3) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(f"{name}: shape must be (channels, height, width) or (columns,); found {shape}")


def takes_text(make: Callable[..., LatentModel]) -> bool:
    """Whether a recipe is for sentences."""
    return inspect.signature(make).parameters["shape"].annotation is TextShape


def divisible(shape: Shape, halvings: int, settings: str) -> None:
    """Refuse an image whose sides can't be halved as often as the model does; raises ``UserError``."""
    if len(shape) == 1:
        return  # vectors have no sides
    _, h, w = shape
    n = 2 ** min(halvings, 20)  # no image is larger, and the message stays short
    if h % n or w % n:
        up = max(n, -(-max(h, w) // n) * n)
        raise UserError(
            f"{settings} needs height and width that {n} divides; found {h}x{w}: "
            f"give smaller numbers there, or --data.size {up}"
        )


def several(shape: Shape) -> None:
    """Refuse vectors of one column, of which no half can set the other; raises ``UserError``."""
    if shape == (1,):
        raise UserError("vectors need 2 columns or more; found 1")
