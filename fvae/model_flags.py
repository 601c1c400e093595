"""The flags of a recipe's settings: one group a part, of the kind that is chosen, and the names of before 0.2."""

import sys
from collections.abc import Sequence
from typing import Any

from fvae.recipes.registry import Part
from fvae.renamed import MODEL, VALUES, renamed
from fvae.runs import flat

Choices = dict[str, type[Part]]


def is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Part)


def with_new_names(recipe: str, argv: Sequence[str], fields: dict[str, Any]) -> list[str]:
    """Flags of model settings with the names of today: ``--model.flow X`` is short for ``--model.flow.kind X``.

    Names of before 0.2 are accepted, with a line that says so.
    """
    old: dict[str, str] = {}
    kinds: dict[str, str] = {}
    found: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        setting = name.removeprefix("--model.")
        if not name.startswith("--model.") or "." in setting:
            found.append(word)
            continue
        value = value if equals else next(words, "")
        before = MODEL[recipe].get(setting, "")
        if (setting not in fields and before) or value in VALUES.get(before, {}):
            print(f"fvae: {name} is now --model.{before}", file=sys.stderr)
            old[setting] = value
        elif setting in fields and is_part(fields[setting].annotation):
            kinds[setting] = value
            found.append(f"--model.{setting}.kind={value}")
        else:
            found += [word] if equals else [word, *[value] * bool(value)]
    context = {name: kind for name, kind in kinds.items() if name in MODEL[recipe]} if old else {}
    new = flat(renamed(recipe, context | old))
    return [f"--model.{path}={value}" for path, value in new.items() if path.removesuffix(".kind") not in kinds] + found


def chosen(fields: dict[str, Any], config: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """The kind of each part: the last that the flags give, else the settings file, else the recipe's own."""
    kinds: dict[str, str] = {}
    for name, field in fields.items():
        if is_part(field.annotation):
            value = config.get(name)
            named = value.get("kind") if isinstance(value, dict) else value
            kind = given.get(name) or str(named)
            kinds[name] = kind if kind in field.annotation.choices() else field.default.kind
    return kinds


def add_model_flags(parser: Any, fields: dict[str, Any], kinds: dict[str, str]) -> None:
    """A group of flags a part, with the settings of its kind, and one of the recipe's own."""
    own = parser.add_argument_group("model")
    for name, field in fields.items():
        if not is_part(field.annotation):
            own.add_argument(f"--model.{name}", type=field.annotation, default=field.default, help=field.description)
            continue
        choices, default = field.annotation.choices(), field.default
        kind, choice = kinds[name], choices[kinds[name]]
        start = default if default.kind == kind else choice()
        group = parser.add_argument_group(f"model.{name}: {(choice.__doc__ or '').splitlines()[0].rstrip('.')}")
        names = ", ".join(choices)
        group.add_argument(
            f"--model.{name}.kind", choices=list(choices), default=kind, help=f"{names}; or --model.{name}"
        )
        for setting, of_part in choice.model_fields.items():
            flag = f"--model.{name}.{setting}"
            group.add_argument(flag, type=of_part.annotation, default=getattr(start, setting), help=of_part.description)
