"""What recipes refuse: the argument, what was expected and what was found, in one line."""

import math
import re

import pytest
import torch
from conftest import SEEN, TEXT

from fvae.errors import InputError
from fvae.recipes import RECIPES, GaussianDecoder, Glow, glow, vae

GREY = (1, 8, 8)
SHAPES = dict.fromkeys(SEEN, GREY) | dict.fromkeys(TEXT, (9, 12))
INTEGER, NUMBER, BOOLEAN = (f"input should be a valid {kind}" for kind in ("integer", "number", "boolean"))
POSITIVE, AT_LEAST = "input should be greater than 0", "input should be greater than or equal to"
WRONG = [  # argument, value that is refused, message: tried in each recipe that has the setting of its own kind of part
    ("flow.levels", "two", INTEGER),
    ("flow.levels", 1.5, INTEGER),
    ("flow.levels", True, INTEGER),
    ("flow.levels", None, INTEGER),
    ("flow.levels", 0, f"{AT_LEAST} 1"),
    ("flow.width", -8, f"{AT_LEAST} 1"),
    ("flow.depth", -1, f"{AT_LEAST} 1"),
    ("flow.mixing", "stir", "input should be 'conv', 'shuffle' or 'reverse'"),
    ("flow.coupling", 3, "input should be 'affine', 'additive', 'spline' or 'logistics'"),
    ("flow", "planar", "expected one of none, glow, realnvp, nice, maf"),
    ("coder.levels", 0, f"{AT_LEAST} 1"),
    ("coder.width", -8, f"{AT_LEAST} 1"),
    ("coder.size", 0, f"{AT_LEAST} 1"),
    ("coder.blocks", -1, f"{AT_LEAST} 0"),
    ("coder.tanh", 1, BOOLEAN),
    ("coder.block", "dense", "input should be 'residual' or 'convnext'"),
    ("bits", 0, f"{AT_LEAST} 1"),
    ("bits", 9, "input should be less than or equal to 8"),
    ("classes", -1, f"{AT_LEAST} [01]"),
    ("classes", 2.0, INTEGER),
    ("rounds", 0, f"{AT_LEAST} 1"),
    ("sigma", 0.0, POSITIVE),
    ("posterior", "three-sided", "expected one of gaussian, one-sided, two-sided, layer-norm, flow, noise"),
    ("posterior.sigma", "small", NUMBER),
    ("posterior.sigma", 0.0, POSITIVE),
    ("posterior.sigma", math.nan, "input should be a finite number"),
    ("posterior.sigma", math.inf, "input should be a finite number"),
    ("posterior.std", "trained", "input should be 'scalar', 'channel', 'network' or 'fixed'"),
    ("posterior.normalize", 1, BOOLEAN),
    ("posterior.tau", 0.0, POSITIVE),
    ("posterior.tau", 1.0, "input should be less than 1"),
    ("decoder.sigma", -0.1, POSITIVE),
    ("decoder.std", "network", "input should be 'scalar', 'channel', 'optimal' or 'fixed'"),
    ("decoder.least", -0.1, f"{AT_LEAST} 0"),
    ("decoder.least", 2, "expected less than sigma, [0-9.]+"),
    ("decoder.dropout", 1.0, "input should be less than 1"),
    ("decoder.word_dropout", -0.1, f"{AT_LEAST} 0"),
    ("decoder.hidden", 0, f"{AT_LEAST} 1"),
    ("encoder.hidden", 0, f"{AT_LEAST} 1"),
    ("decoder.likelihood", "counted", "input should be 'discretized' or 'density'"),
]


def has(recipe: str, argument: str) -> bool:
    part, _, setting = argument.rpartition(".")
    settings = RECIPES[recipe].settings.model_fields
    return setting in (type(settings[part].default).model_fields if part in settings else () if part else settings)


def nested(argument: str, value: object) -> dict:
    part, _, setting = argument.rpartition(".")
    return {part: {setting: value}} if part else {setting: value}


NO_DATA, NO_TEXT = (
    f"expected {re.escape(expected)}, found "
    for expected in ("images (channels, height, width) or tables (columns,)", "text (max_length + 1, vocabulary size)")
)
HALVINGS = "expected at most {} halvings of height and width {}, found {}"
LEVELS = [
    (r, part)
    for r in SEEN
    for part in ("flow", "coder")
    if has(r, f"{part}.levels") and (r, part) != ("f_vae_reduced", "flow")
]


def flow_of(recipe: str) -> str:
    return RECIPES[recipe].settings.model_fields["flow"].default.kind


ONE, NO_HALVES = (1,), "expected data or latents of 2 values or more, .*, found 1"
CASES = [
    *(
        (recipe, SHAPES[recipe], nested(argument, value), argument, f"{message}, found '?{re.escape(str(value))}'?")
        for argument, value, message in WRONG
        for recipe in RECIPES
        if has(recipe, argument)
    ),
    *((r, SHAPES[r], {"breadth": 3}, "breadth", "no such setting; the settings are .*") for r in RECIPES),
    *((r, GREY, {"flow": {"breadth": 3}}, "flow.breadth", "no such setting") for r in SEEN),
    *((r, s, {}, "shape", NO_DATA + re.escape(str(s))) for r in SEEN for s in ((1, 8), (1, 8, 8, 8), (), 4, "4")),
    *((r, shape, {}, "shape", NO_TEXT + re.escape(str(shape))) for r in TEXT for shape in ((1, 8, 8), (8,))),
    *((r, (1, 8, 0), {}, "shape.2", f"{AT_LEAST} 1, found 0") for r in SEEN),
    *((r, (1, 8, 8.0), {}, "shape.2", f"{INTEGER}, found 8.0") for r in SEEN),
    *((r, (1, 12), {}, "shape.0", f"{AT_LEAST} 2, found 1") for r in TEXT),
    *((r, (9, 4), {}, "shape.1", f"{AT_LEAST} 5, found 4") for r in TEXT),
    *(
        (r, (3, 20, 18), {p: {"levels": 16}}, f"{p}.levels", HALVINGS.format("[67]", "(20x18|10x9)", "1[56]"))
        for r, p in LEVELS
    ),
    *(
        (r, ONE, {}, "flow", NO_HALVES)
        for r in SEEN
        if flow_of(r) in ("glow", "realnvp", "nice") and r != "f_vae_reduced"
    ),
    ("f_vae_reduced", (4,), {"coder": {"size": 1}}, "flow", NO_HALVES),
    ("text_vae", (9, 12), {"latent": 1, "flow": "glow"}, "flow", NO_HALVES),
    ("text_vae", (9, 12), {"decoder": "gru"}, "decoder", "expected one of lstm, transformer, found gru"),
    (
        "text_vae",
        (9, 12),
        {"decoder": {"kind": "transformer", "hidden": 10, "heads": 4}},
        "decoder.hidden",
        "expected a multiple of heads, 4, found 10",
    ),
    ("bn_vae", GREY, {"posterior": {"kind": "one-sided", "gamma": 0.0}}, "posterior.gamma", f"{POSITIVE}, found 0.0"),
    ("bn_vae", GREY, {"posterior": {"kind": "one-sided", "tau": 0.5}}, "posterior.tau", "no such setting"),
    ("f_vae_general", GREY, {"flow": "nice"}, "flow", "expected one that can stand .*, as glow, found nice"),
    *(
        (
            r,
            GREY,
            {"decoder": {"std": "optimal", "likelihood": "discretized"}},
            "decoder.likelihood",
            "expected density .*",
        )
        for r in SEEN
        if has(r, "decoder.std")
    ),
]


@pytest.mark.parametrize(("recipe", "shape", "settings", "argument", "message"), CASES)
def test_an_error_names_the_argument(recipe, shape, settings, argument, message):
    with pytest.raises(InputError) as error:
        RECIPES[recipe](shape, **settings)
    assert error.value.argument == argument
    assert re.fullmatch(message, error.value.message), error.value.message


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (Glow, {"levels": 0}, f"levels: {AT_LEAST} 1, found 0"),
        (Glow, {"level": 2}, r"level: no such setting; did you mean levels\?"),
        (GaussianDecoder, {"least": 2.0}, "least: expected less than sigma, 0.3, found 2"),
    ],
)
def test_a_part_names_its_setting(part, settings, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        part(**settings)


def test_arguments_may_be_given_by_position():
    """In the order of the signature, as of any function."""
    model = glow((4,), Glow(depth=1, width=8), 3)
    assert model.classes == 3 and model.config["settings"]["flow"]["width"] == 8
    with pytest.raises(TypeError, match="multiple values for argument 'coder'"):
        vae((4,), {"size": 1}, coder={"size": 2})


def test_every_wrong_setting_is_one_of_some_recipe():
    """No row of the table above is a dead letter."""
    assert all(any(has(recipe, argument) for recipe in RECIPES) for argument, _, _ in WRONG)


def test_images_are_padded_so_that_they_can_be_halved():
    """f_vae halves a side squeezes times, and its latents levels - 1 times: each pads what it halves."""
    coder, flow = {"squeezes": 2, "blocks": 0}, {"levels": 3, "depth": 1, "width": 4}
    for shape, latent in (((1, 32, 32), (16, 8, 8)), ((1, 33, 1), (16, 12, 4)), ((1, 1, 1), (16, 4, 4))):
        assert RECIPES["f_vae"](shape, coder=coder, flow=flow).latent == latent
    for name in SEEN:
        assert RECIPES[name]((2, 3, 1)).sample(1, torch.zeros(1).long() if name == "cvae" else None).shape[1:] == (
            2,
            3,
            1,
        )


def test_one_value_is_enough_without_a_flow():
    assert RECIPES["vae"]((1,), coder={"size": 1})(torch.randn(3, 1)).loss().isfinite()


@pytest.mark.parametrize(
    ("recipe", "shape", "settings"),
    [
        ("nice", (300,), {"flow": {"kind": "nice", "width": 65536, "hidden": 1000}}),  # layer by layer
        ("vae", (3, 32, 32), {"coder": {"kind": "strided", "width": 60000}}),  # in a single weight
    ],
)
def test_a_model_that_would_fill_the_memory_is_refused_with_its_size(recipe, shape, settings):
    with pytest.raises(InputError, match=r"^expected a model of at most .* GiB of weights.*found one of [\d,.]+ GiB"):
        RECIPES[recipe](shape, **settings)


def test_mixing_of_too_many_channels_is_refused():
    with pytest.raises(InputError, match=r"^expected at most 4,096 channels to mix, found 131,072$"):
        RECIPES["glow"]((2**17,))
