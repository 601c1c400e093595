"""Recipes and their parts: typed settings, and the table of recipes by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)

from fvae.errors import UserError
from fvae.model import LatentModel

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=1, le=8, description="bits a channel of a pixel, 1 to 8; vectors have none")]
Classes = Annotated[int, Field(ge=0, description="labels that the prior knows, each with its mean; 0 for none")]


def of_data(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a shape that is neither an image's nor a row's; raises ``ValueError``."""
    if len(shape) not in (1, 3):
        text = ": text needs a text recipe, as text_vae" if len(shape) == 2 else ""
        raise ValueError(f"expected (channels, height, width) or (columns,), found {shape}{text}")
    return shape


Shape = Annotated[tuple[Count, ...], AfterValidator(of_data)]


def of_text(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a shape that is not a text's; raises ``ValueError``."""
    if len(shape) != 2:
        raise ValueError(f"expected text, (max_length + 1, vocabulary size), found {shape}")
    return shape


TextShape = Annotated[tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=5)]], BeforeValidator(of_text)]

CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Part(BaseModel):
    """An argument of a recipe that is a choice with settings of its own, as the flow F or the decoder.

    To add a choice, subclass the part (``FlowPart``, ``Coder``, ...) with a ``kind`` of its own and define what the
    part asks for. It is then known to Python, YAML (``flow: {kind: glow, depth: 8}``, or ``flow: glow``) and the
    command line (``--model.flow glow --model.flow.depth 8``).
    """

    model_config = CONFIG
    kind: ClassVar[str] = ""

    @classmethod
    def choices(cls) -> dict[str, type["Part"]]:
        """The choices of a part, by kind."""
        found = {cls.kind: cls} if cls.kind else {}
        for below in cls.__subclasses__():
            found |= below.choices()
        return found

    @model_validator(mode="wrap")
    @classmethod
    def choose(cls, value: Any, handler: Any) -> Any:
        value = {"kind": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or ("kind" not in value and cls.kind):
            return handler(value)
        known, kind = cls.choices(), value.get("kind")
        if kind not in known:
            raise ValueError(f"expected one of {', '.join(known)}, found {kind}")
        settings = {k: v for k, v in value.items() if k != "kind"}
        return known[kind].model_validate(settings) if known[kind] is not cls else handler(settings)

    @model_serializer(mode="wrap")
    def with_kind(self, handler: Any) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name) for name in type(self).model_fields}}


RECIPES: dict[str, Any] = {}


def recipe(make: Callable[..., LatentModel]) -> Callable[..., LatentModel]:
    """Enter a recipe in the table; check its settings by their types, and note them on the model that it makes.

    The recipe's ``settings`` are a pydantic model of its arguments but ``shape``: what Python, YAML and flags may say.
    """
    parameters = inspect.signature(make, eval_str=True).parameters
    fields: Any = {name: (p.annotation, p.default) for name, p in parameters.items() if name != "shape"}
    schema = create_model(make.__name__, __config__=CONFIG, **fields)
    data: Any = {"shape": (parameters["shape"].annotation, ...)}
    shapes = create_model(make.__name__, __config__=CONFIG, **data)

    @functools.wraps(make)
    def build(shape: Shape, **settings: Any) -> LatentModel:
        shape = checked(shapes, {"shape": tuple(shape)}).shape
        values = checked(schema, completed(schema, settings))
        try:
            model = make(shape, **{name: getattr(values, name) for name in fields})
        except UserError as error:
            raise UserError(f"{make.__name__}: {error}") from None
        model.config = {"recipe": make.__name__, "shape": list(shape), "settings": values.model_dump()}
        return model

    build.settings = schema  # type: ignore[attr-defined]
    build.takes_text = parameters["shape"].annotation is TextShape  # type: ignore[attr-defined]
    RECIPES[make.__name__] = build
    return build


def completed(schema: type[BaseModel], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which a part that is of the recipe's default kind begins from the recipe's own settings of it."""
    found = dict(settings)
    for name, value in settings.items():
        default = schema.model_fields[name].default if name in schema.model_fields else None
        value = {"kind": value} if isinstance(value, str) else value
        if isinstance(default, Part) and isinstance(value, dict) and value.get("kind", default.kind) == default.kind:
            found[name] = default.model_dump() | value
    return found


def checked(schema: type[BaseModel], values: dict[str, Any], lax: bool = False) -> Any:
    """The values as the schema has them; raises ``UserError`` with the first that it refuses, by name."""
    try:
        return schema.model_validate(values, strict=False if lax else None)
    except ValidationError as error:
        raise UserError(f"{schema.__name__}: {first_of(error, list(schema.model_fields))}") from None


def first_of(error: ValidationError, known: list[str]) -> str:
    """The first complaint of a validation as "name: what was expected, found ..."."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{name}: no such setting" + (f"; the settings are {', '.join(known)}" if "." not in name else "")
    text = first["msg"].removeprefix("Value error, ")
    return f"{name}: {text[0].lower()}{text[1:]}" + ("" if "found" in text else f", found {first['input']!r:.60}")
