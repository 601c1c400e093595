"""The parser of a command's flags: those of settings by their schema, and the flag that an argument has."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fvae.errors import InputError, did_you_mean
from fvae.schema import Settings
from fvae.settings import OLD_DATA, OLD_TRAIN, DataSettings

OLD_FLAGS = {  # accepted, with a line that says so, until 1.0
    f"--{prefix}.{old}": f"--{prefix}.{new}"
    for prefix, names in (("data", OLD_DATA), ("train", OLD_TRAIN))
    for old, new in names.items()
}
DATA_FLAGS = {"source": "--data", "data": "--data", "data.source": "--data"}
METAVARS = {"data.source": "SRC", "data.labels": "FILE", "data.split": "NAME", "data.size": "HxW"}


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose complaints are raised as ``InputError``, for the arguments of the library too."""

    def __init__(self, command: str, text: str = ""):
        super().__init__(
            prog=f"fvae {command}",
            description=text[:1].upper() + text[1:] + ".",
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
        )
        self.flags: dict[str, str] = {}  # of arguments whose flag has another name

    def error(self, message: str) -> Any:
        raise InputError(f"{message.removeprefix('argument ')} ({self.prog} --help lists the arguments)")

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """The arguments that were given, by name; raises ``InputError``."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            word = unknown[0].partition("=")[0]
            flags = list(self._option_string_actions) if word.startswith("-") else []
            same = [flag for flag in flags if flag.endswith(f".{word.lstrip('-')}")]  # --lr of --train.lr
            near = f"did you mean {same[0]}?" if same else did_you_mean(word, flags).strip()
            self.error(f"unrecognized argument {word}{near and '; ' + near}")
        found = vars(args)
        for name in {"out", "json"} & found.keys():
            need_another_file(found, name)
        return found

    def flag_of(self, argument: str) -> str:
        """The flag of an argument of the library, "" where there is none."""
        flag = self.flags.get(argument, "")
        names = [f"--{prefix}{argument}" for prefix in ("", "data.", "train.", "model.")]
        return flag or next((name for name in names if argument and name in self._option_string_actions), "")

    def add_run(self, text: str = "a run folder, or one with its two model files") -> None:
        self.add_argument("run", type=path, metavar="RUN", help=text)

    def add_out(self, text: str, required: bool = True) -> None:
        self.add_argument("--out", type=path, required=required, metavar="PATH", help=text)

    def add_seed(self) -> None:
        self.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the noise (default: 0)")

    def add_samples(self) -> None:
        text = "draws of u for each sample, for averages and the importance-weighted bound (default: 1; for text 500)"
        self.add_argument("--samples", type=at_least(1), metavar="K", help=text)

    def add_data(self, default: str) -> None:
        """Flags of the data to use a run on."""
        group = self.add_argument_group("data", "What is not given is as the run was trained.")
        fields = DataSettings.model_fields
        for name in ("source", "size", "fit", "color", "labels"):
            text = (fields[name].description or "").partition(" (default")[0]
            add_field(group, f"data.{name}", fields[name].annotation, text)
        for name in ("tokenizer", "vocabulary_size", "max_length"):  # accepted where they are those of the run
            add_field(group, f"data.{name}", fields[name].annotation, argparse.SUPPRESS)
        self.add_argument("--split", choices=["train", "test", "all"], help=f"part of the data (default: {default})")
        self.flags |= DATA_FLAGS

    def add_settings(self, schema: type[Settings], prefix: str, given: dict[str, Any]) -> None:
        """A group of flags, one for each of a table of settings, whose help shows what is ``given`` as the default."""
        group = self.add_argument_group(prefix)
        for name, field in schema.model_fields.items():
            add_setting(group, f"{prefix}.{name}", field, given.get(name, field.default))
        self.flags |= DATA_FLAGS if prefix == "data" else {}


def need_another_file(args: dict[str, Any], name: str) -> None:
    """Refuse an output that is one of the files that the other arguments name; raises ``InputError``."""
    out = args[name]
    others = [value for other, value in args.items() if other != name]
    for value in [v for other in others for v in (other if isinstance(other, list) else [other])]:
        is_path = isinstance(value, str | Path) and os.path.exists(value)
        if out and is_path and out.is_file() and os.path.samefile(out, value):
            raise InputError(f"{out}: is read by this command; use another name", name)


def add_setting(group: Any, name: str, field: FieldInfo, default: Any) -> None:
    """The flag of a setting, whose help says the default."""
    text = field.description or ""
    text += "" if "(default" in text or default in (None, "") else f" (default: {shown(default)})"
    add_field(group, name, field.annotation, text)


def add_field(group: Any, name: str, annotation: Any, text: str) -> None:
    """A flag that may be left out, and whose value is checked by its schema."""
    flags = [f"--{name}"] if name != "data.source" else ["--data", "--data.source"]
    options: dict[str, Any] = {"nargs": "?", "const": "true"} if annotation is bool else {}
    options |= {"dest": name, "default": argparse.SUPPRESS, "metavar": METAVARS.get(name) or metavar(annotation)}
    group.add_argument(*flags, help=" ".join(text.split()).replace("%", "%%"), **options)


def metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "{" + ",".join(map(str, get_args(annotation))) + "}"
    parts = get_args(annotation) or (annotation,)  # of int | None; each may have constraints
    kinds = [get_args(part)[0] if get_origin(part) is Annotated else part for part in parts]
    return next((word for kind, word in ((bool, "BOOL"), (int, "N"), (float, "X")) if kind in kinds), "TEXT")


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def table(args: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The settings under a prefix that were given, nested by their dotted names; the text null is None."""
    found: dict[str, Any] = {}
    for name, value in args.items():
        first, *parts = name.split(".")
        if first == prefix and parts:
            within = found
            for part in parts[:-1]:
                within = within.setdefault(part, {})
            within[parts[-1]] = None if value == "null" else value
    return found


def path(text: str) -> Path:
    """The type of an argument that takes a file or folder."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a path, found {'a NUL character' if text else 'nothing'}")
    return Path(text)


def at_least(least: int, most: int = 10**9) -> Callable[[str], int]:
    """The type of an argument that takes whole numbers from ``least`` to ``most``."""

    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            limit = f"{least} or more" if value < least else f"at most {most:,}"
            raise argparse.ArgumentTypeError(f"expected {limit}, found {text:.40}")
        return value

    number.__name__ = "int"  # argparse names it for text that is no number
    return number


def seed(text: str) -> int:
    """The type of an argument that takes a generator's seed."""
    if not 0 <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"expected 0 or more and below 2^32, found {text}")
    return int(text)


def temperature(text: str) -> float:
    """The type of an argument that takes a temperature."""
    return number_within(text, 0, 100)


def strength(text: str) -> float:
    """The type of an argument that takes a multiple of a direction."""
    return number_within(text, -1000, 1000)


def number_within(text: str, least: float, most: float) -> float:
    if not least <= float(text) <= most:
        raise argparse.ArgumentTypeError(f"expected {least:g} to {most:g}, found {text:.40}")
    return float(text)


def assignments(text: str) -> dict[str, str]:
    """The type of an argument that takes several values by name, NAME=VALUE,NAME=VALUE."""
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [name for name, sign, _ in pairs if not sign or not name.strip()]:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {wrong[0]!r:.40}")
    names = [name.strip() for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"expected one value of {twice[0]}, found two")
    return {name.strip(): value.strip() for name, _, value in pairs}


def numbers(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    """The type of an argument that takes several numbers."""

    def several(text: str) -> list[float]:
        try:
            return list(map(kind, text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected numbers with commas between them, found {text:.40}") from None

    return several


def with_new_flags(argv: list[str]) -> list[str]:
    """Arguments under the names that their flags have today."""
    found = []
    for word in argv:
        name, equals, value = word.partition("=")
        if name in OLD_FLAGS:
            print(f"note: {name} is now {OLD_FLAGS[name]}", file=sys.stderr)
        found.append(f"{OLD_FLAGS.get(name, name)}{equals}{value}")
    return found
