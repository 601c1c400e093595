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


def add_model_flags(parser: Parser, fields: dict[str, Any], settings: dict[str, Any]) -> None:
    """A group of flags for each part, of the kind that ``settings`` choose, and one of the recipe's own."""
    of_recipe = parser.add_argument_group("model") if fields else parser
    for name, field in fields.items():
        if not is_part(field.annotation):
            add_setting(of_recipe, f"model.{name}", field, field.default)
            continue
        choices, default = field.annotation.choices(), field.default
        value = settings.get(name)
        kind = value.get("kind", default.kind) if isinstance(value, dict) else value or default.kind
        kind = kind if kind in choices else default.kind
        choice = choices[kind]
        start = default if default.kind == kind else choice()
        group = parser.add_argument_group(f"model.{name}", (choice.__doc__ or "").splitlines()[0])
        text = f"one of {', '.join(choices)}; its settings follow (default: {default.kind})"
        group.add_argument(f"--model.{name}", dest=f"model.{name}.kind", metavar="KIND", help=text)
        group.add_argument(f"--model.{name}.kind", dest=f"model.{name}.kind", help=argparse.SUPPRESS)
        for setting, of_part in choice.model_fields.items():
            add_setting(group, f"model.{name}.{setting}", of_part, getattr(start, setting))


def merged(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model with more of them, which have precedence; a part of another kind begins anew."""
    found = dict(settings)
    for name, value in more.items():
        before = found.get(name)
        before = {"kind": before} if isinstance(before, str) else before
        value = {"kind": value} if isinstance(value, str) and isinstance(before, dict) else value
        if isinstance(before, dict) and isinstance(value, dict):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            value = before | value if same or "kind" not in before else value
        found[name] = value
    return found
