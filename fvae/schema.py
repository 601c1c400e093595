"""Typed settings: the schema that Python, YAML files and flags are checked with, and what it says of mistakes."""

import reprlib
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_serializer, model_validator

from fvae.errors import InputError, did_you_mean

Count = Annotated[int, Field(ge=1, le=10**9)]
Natural = Annotated[int, Field(ge=0, le=10**9)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # of layers one after the other
Width = Annotated[int, Field(ge=1, le=2**16)]  # of layers, and dimensions of a latent
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True)


class Settings(BaseModel):
    """A table of settings; the texts under its fields are the help of their flags."""

    model_config = CONFIG | ConfigDict(use_attribute_docstrings=True)

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise refusal(error, type(self)) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # validation itself need not call it

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Describe the settings in the docstring, which ``help`` shows."""
        described = [
            f"        {name}: {' '.join((field.description or '').split())}"
            + ("" if field.default is None else f" (default: {field.default!r})")
            for name, field in cls.model_fields.items()
        ]
        if described and cls.__doc__:
            cls.__doc__ = "\n".join([cls.__doc__.rstrip(), "", "    Args:", *described, "    "])


class Part(Settings):
    """An argument of a recipe that is a choice with settings of its own, as the flow F or the decoder.

    To add a choice, subclass the part (``FlowPart``, ``Coder``, ...), as ``class Spline(FlowPart, kind="spline")``, and
    define what the part asks for. It is then known to Python, YAML (``flow: {kind: spline, depth: 8}``, or ``flow:
    spline``) and the command line.
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind

    @classmethod
    def choices(cls) -> dict[str, type["Part"]]:
        """The choices of a part, by kind."""
        found = {cls.kind: cls} if cls.kind else {}
        for below in cls.__subclasses__():
            found |= below.choices()
        return found

    @model_validator(mode="wrap")
    @classmethod
    def choose(cls, value: Any, handler: Any, info: ValidationInfo) -> Any:
        value = {"kind": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or ("kind" not in value and cls.kind):
            return handler(cls.with_parts(value))
        known, kind = cls.choices(), value.get("kind")
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"expected one of {', '.join(known)}, found {kind}")
        settings = {k: v for k, v in value.items() if k != "kind"}
        if known[kind] is cls:
            return handler(cls.with_parts(settings))
        return known[kind].model_validate(settings, strict=False if info.context else None, context=info.context)

    @classmethod
    def with_parts(cls, value: Any) -> Any:
        """Settings of this part, whose own parts begin from the defaults that this one has for them."""
        if not isinstance(value, dict):
            return value
        parts = {name: field.default for name, field in cls.model_fields.items() if isinstance(field.default, Part)}
        return value | {name: default.completed(value[name]) for name, default in parts.items() if name in value}

    def completed(self, value: Any) -> Any:
        """Settings of a part of this kind, as some of them change these; those of another kind as they are."""
        value = {"kind": value} if isinstance(value, str) else value
        if not isinstance(value, dict) or value.get("kind", self.kind) != self.kind:
            return value
        parts = {name: getattr(self, name) for name in type(self).model_fields if name in value}
        return self.model_dump() | {
            name: parts[name].completed(given) if isinstance(parts.get(name), Part) else given
            for name, given in value.items()
        }

    @model_serializer(mode="wrap")
    def with_kind(self, handler: Any) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name) for name in type(self).model_fields}}


Schema = TypeVar("Schema", bound=BaseModel)


def checked(schema: type[Schema], values: dict[str, Any], lax: bool = False) -> Schema:
    """The values as the schema has them; with ``lax`` numbers may be text, as those of flags are.

    Raises ``InputError`` with the first value that the schema refuses, by its name.
    """
    try:
        if lax:
            return schema.model_validate(without_bools(values), strict=False, context={"lax": True})
        return schema.model_validate(values)
    except ValidationError as error:
        raise refusal(error, schema, lax) from None


def without_bools(values: Any) -> Any:
    """Nested settings with true and false as text, which unlike these is no number."""
    if isinstance(values, dict):
        return {name: without_bools(value) for name, value in values.items()}
    return str(values).lower() if isinstance(values, bool) else values


def refusal(error: ValidationError, schema: type[BaseModel], lax: bool = False) -> InputError:
    """The first thing that the schema refuses, in one line."""
    first = error.errors(include_url=False)[0]
    path, text = list(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    head, _, rest = text.partition(": ")
    if first["type"] == "value_error" and head.isidentifier():  # of a check of several settings: it names one
        path, text = [*path, head], rest
    if first["type"] == "extra_forbidden":
        known = list(schema.model_fields) if len(path) == 1 else []
        near = did_you_mean(path[0], known).strip()
        text = "no such setting" + (f"; {near}" if near else f"; the settings are {', '.join(known)}" if known else "")
    elif first["type"] == "missing":
        text = "expected a value, found none"
    elif lax and first["input"] in ("true", "false") and "parsing" in first["type"]:
        text = f"expected a number, found {first['input']}"
    elif "found" not in text:
        found = first["input"]
        text += f", found {found:.60}" if lax and found and isinstance(found, str) else f", found {shown(found)}"
    return InputError(text[:1].lower() + text[1:], ".".join(path))


def shown(value: Any) -> str:
    """A value of any size and depth in a few words."""
    try:
        return f"{reprlib.repr(value):.60}"
    except ValueError:  # of an integer of thousands of digits
        return type(value).__name__
