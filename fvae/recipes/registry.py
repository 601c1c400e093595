"""The table of recipes by name, and the types of the arguments that they have in common."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, create_model

from fvae.model import LatentModel
from fvae.schema import CONFIG, Count, Part, checked

RECIPES: dict[str, Any] = {}


def dimensions(*allowed: int, expected: str) -> BeforeValidator:
    """Refuse a shape of another number of dimensions."""

    def check(shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) not in allowed:
            raise ValueError(f"expected {expected}, found {shape}")
        return shape

    return BeforeValidator(check)


Shape = Annotated[tuple[Count, ...], dimensions(1, 3, expected="images (channels, height, width) or rows (columns,)")]
TextShape = Annotated[
    tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=5)]],
    dimensions(2, expected="text (max_length + 1, vocabulary size)"),
]
Bits = Annotated[int, Field(ge=1, le=8, description="bits a channel of a pixel, 1 to 8; vectors have none")]
Classes = Annotated[int, Field(ge=0, description="labels that the prior knows, each with its mean; 0 for none")]

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
    fields: dict[str, Any] = {}
    for name, p in inspect.signature(make, eval_str=True).parameters.items():
        annotation = p.annotation
        if isinstance(p.default, Part):
            annotation = Annotated[annotation, BeforeValidator(p.default.completed)]
        fields[name] = (annotation, p.default)
    shape_type = fields.pop("shape")[0]
    shape_schema = create_model(make.__name__, __config__=CONFIG, shape=(shape_type, ...))
    schema = create_model(make.__name__, __config__=CONFIG, **fields)

    @functools.wraps(make)
    def build(shape: tuple[int, ...], **settings: Any) -> LatentModel:
        shape = dict(checked(shape_schema, {"shape": tuple(shape)}))["shape"]
        values = checked(schema, settings)
        model = make(shape, **dict(values))
        model.config = {"recipe": make.__name__, "shape": list(shape), "settings": values.model_dump()}
        return model

    build.__doc__ = f"{(make.__doc__ or '').rstrip()}\n{COMMON}"
    build.settings, build.takes_text = schema, shape_type is TextShape  # type: ignore[attr-defined]
    RECIPES[make.__name__] = build
    return build
