"""The table of recipes by name, and the types of the arguments that they have in common."""

import functools
import inspect
from collections.abc import Callable
from numbers import Integral
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

from pydantic import BeforeValidator, Field, create_model

from fvae.columns import Schema
from fvae.model import LatentModel
from fvae.recipes.weights import within_memory
from fvae.schema import CONFIG, Part, checked

RECIPES: dict[str, Any] = {}


def dimensions(*allowed: int, expected: str) -> BeforeValidator:
    """Refuse a shape of another number of dimensions."""

    def check(shape: Any) -> tuple[int, ...]:
        if not isinstance(shape, tuple | list) or len(shape) not in allowed:
            raise ValueError(f"expected {expected}, found {shape}")
        return tuple(int(n) if isinstance(n, Integral) else n for n in shape)

    return BeforeValidator(check)


Side = Annotated[int, Field(ge=1, le=2**20)]
Shape = Annotated[tuple[Side, ...], dimensions(1, 3, expected="images (channels, height, width) or tables (columns,)")]
TextShape = Annotated[
    tuple[Annotated[int, Field(ge=2, le=2**20)], Annotated[int, Field(ge=5, le=2**24)]],
    dimensions(2, expected="text (max_length + 1, vocabulary size)"),
]
Bits = Annotated[int, Field(ge=1, le=8, description="bits a channel of a pixel, 1 to 8; vectors have none")]
Classes = Annotated[
    int, Field(ge=0, le=2**16, description="labels that the prior knows, each with its mean; 0 for none")
]

COMMON = """
    ``shape`` is that of a sample: (C, H, W) of images in bins 0 .. 2^bits - 1, (D,) of a table, (max_length + 1,
    vocabulary size) of text. Parts are given as objects, by kind ("glow") or as settings ({"depth": 8}). Densities are
    in nats. Returns a ``LatentModel``; raises ``ValueError`` for settings that don't fit each other or the shape.
    """


def recipe(make: Callable[..., LatentModel]) -> Callable[..., LatentModel]:
    """Enter a recipe in the table; check its settings by their types, and note them on the model that it makes.

    The recipe's ``settings`` are a pydantic model of its arguments but ``shape``: what Python, YAML and flags may say.
    A part of the recipe's default kind begins from the recipe's own settings of it.
    """
    signature = inspect.signature(make, eval_str=True)
    fields: dict[str, Any] = {}
    for name, p in signature.parameters.items():
        annotation = p.annotation
        if isinstance(p.default, Part):
            annotation = Annotated[annotation, BeforeValidator(p.default.completed)]
        fields[name] = (annotation, ... if p.default is p.empty else p.default)
    shape_field = fields.pop("shape")
    shape_schema = create_model(make.__name__, __config__=CONFIG, shape=shape_field)
    schema, takes_text = create_model(make.__name__, __config__=CONFIG, **fields), shape_field[0] is TextShape

    @functools.wraps(make)
    def build(*args: Any, **settings: Any) -> LatentModel:
        named = {name: value for name, value in settings.items() if name in signature.parameters}
        settings |= signature.bind(*args, **named).arguments
        shape = settings.pop("shape")
        typed = isinstance(shape, Schema) and not takes_text
        if not typed:
            shape = dict(checked(shape_schema, {"shape": shape}))["shape"]
        elif "decoder" in fields:
            settings.setdefault("decoder", "columns")
        values = checked(schema, settings)
        model = within_memory(lambda: make(shape, **dict(values)))
        model.config = {
            "recipe": make.__name__,
            "shape": list(model.shape) if typed else list(shape),
            "settings": values.model_dump(),
        }
        return model

    build.__doc__ = f"{(make.__doc__ or '').rstrip()}\n{COMMON}"
    build.__signature__ = readable(signature)  # type: ignore[attr-defined]
    build.settings, build.takes_text = schema, takes_text  # type: ignore[attr-defined]
    build.takes_schema = "decoder" in fields and not takes_text  # type: ignore[attr-defined]
    RECIPES[make.__name__] = build
    return build


def readable(signature: inspect.Signature) -> inspect.Signature:
    """A signature for ``help``, whose types say nothing of bounds and descriptions."""
    annotations = {name: p.annotation for name, p in signature.parameters.items()}
    types = get_type_hints(SimpleNamespace(__annotations__=annotations))
    return signature.replace(parameters=[p.replace(annotation=types[name]) for name, p in signature.parameters.items()])


def variant(base: Callable[..., LatentModel], **defaults: Any) -> Callable[..., Callable[..., LatentModel]]:
    """A recipe of the same arguments as ``base`` with other defaults, named and described by the decorated function."""
    original = base.__wrapped__  # type: ignore[attr-defined]
    signature = inspect.signature(original, eval_str=True)
    parameters = [p.replace(default=defaults.get(name, p.default)) for name, p in signature.parameters.items()]

    def decorate(described: Callable[[], None]) -> Callable[..., LatentModel]:
        make: Any = functools.wraps(described)(lambda shape, **settings: original(shape, **settings))
        make.__signature__ = signature.replace(parameters=parameters)
        return recipe(make)

    return decorate
