"""The flags of a recipe's settings: a group for each part, with the settings of the kind that is chosen."""

import argparse
import sys
from typing import Any

from fvae.cli.parser import Parser, add_setting
from fvae.runs.renamed import MODEL, VALUES, renamed
from fvae.schema import Part


def is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def old_settings(recipe: str, argv: list[str], fields: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Arguments without the model's flags of before 0.2, and the settings of today that these mean."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in MODEL[recipe]:
        first.add_argument(f"--model.{name}", dest=name, nargs="?", const="", default=argparse.SUPPRESS)
    values, rest = first.parse_known_args(argv)
    old: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for name, value in vars(values).items():
        today = MODEL[recipe][name]
        if name in fields and value not in VALUES.get(today, {}):  # a flag of today, too
            kinds[name] = value
            rest.append(f"--model.{name}={value}")
        else:
            print(f"note: --model.{name} is now --model.{today}", file=sys.stderr)
            old[name] = value
    return rest, renamed(recipe, kinds | old) if old else {}


def chosen(fields: dict[str, Any], settings: dict[str, Any], argv: list[str], prefix: str = "model") -> dict[str, Any]:
    """The settings with the kinds of parts that the arguments choose, before the flags of these can be parsed."""
    kinds: dict[str, Any] = {}
    for name, field in fields.items():
        if is_part(field.annotation):
            flag = f"--{prefix}.{name}"
            values = values_of(argv, flag, f"{flag}.kind")
            kinds |= {name: {"kind": values[-1]}} if values else {}
            known = merged(settings, kinds).get(name)
            choice, start = choice_of(field, known)
            inner = chosen(choice.model_fields, known if isinstance(known, dict) else {}, argv, f"{prefix}.{name}")
            kinds |= {name: kinds.get(name, {"kind": start.kind}) | inner} if inner else {}
    return merged(settings, kinds)


def choice_of(field: Any, value: Any) -> tuple[type[Part], Part]:
    """The kind of a part that its settings choose, the default where they choose none, and its settings to begin from.

    A kind that isn't known is left to the schema to refuse.
    """
    choices, default = field.annotation.choices(), field.default
    kind = value.get("kind", default.kind) if isinstance(value, dict) else value or default.kind
    kind = kind if isinstance(kind, str) and kind in choices else default.kind
    return choices[kind], default if default.kind == kind else choices[kind]()


def add_model_flags(parser: Parser, fields: dict[str, Any], settings: dict[str, Any]) -> None:
    """A group of flags for each part, of the kind that ``settings`` choose, and one of the recipe's own."""
    of_recipe = parser.add_argument_group("model") if fields else parser
    for name, field in fields.items():
        if is_part(field.annotation):
            add_part(parser, f"model.{name}", field, settings.get(name))
        else:
            add_setting(of_recipe, f"model.{name}", field, settings.get(name, field.default))


def add_part(parser: Parser, prefix: str, field: Any, value: Any) -> None:
    """A group of flags of a part, and one for each of its own parts."""
    choice, start = choice_of(field, value)
    group = parser.add_argument_group(prefix, (choice.__doc__ or "").splitlines()[0])
    text = f"one of {', '.join(field.annotation.choices())}; its settings follow (default: {start.kind})"
    group.add_argument(f"--{prefix}", dest=f"{prefix}.kind", metavar="KIND", help=text)
    group.add_argument(f"--{prefix}.kind", dest=f"{prefix}.kind", help=argparse.SUPPRESS)
    for name, own in choice.model_fields.items():
        if is_part(own.annotation):
            add_part(parser, f"{prefix}.{name}", own, value.get(name) if isinstance(value, dict) else None)
        else:
            known = value if isinstance(value, dict) else {}
            add_setting(group, f"{prefix}.{name}", own, known.get(name, getattr(start, name)))


def values_of(argv: list[str], *flags: str) -> list[str]:
    """The values of an argument, by the names of its flag, before the others can be parsed."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(*flags, dest="values", action="append", nargs="?", default=[])
    return [value for value in first.parse_known_args(argv)[0].values if value is not None]


def merged(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model with more of them, which have precedence; a part of another kind begins anew."""
    found = dict(settings)
    for name, value in more.items():
        before = found.get(name)
        before = {"kind": before} if isinstance(before, str) and isinstance(value, dict) else before
        value = {"kind": value} if isinstance(value, str) and isinstance(before, dict) else value
        if isinstance(before, dict) and isinstance(value, dict):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            value = merged(before, value) if same or "kind" not in before else value
        found[name] = value
    return found
