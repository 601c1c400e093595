"""The run folder: its settings in ``config.yaml``, and the data that it was made from."""

import csv
import io
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from fvae.data import Modality, Samples, Text, load_data
from fvae.data.text import VOCABULARY
from fvae.errors import UserError
from fvae.files import write_text
from fvae.settings import DataSettings, TrainSettings

KEPT = ("config.yaml", "config.json", "model.safetensors", "checkpoints/last.ckpt")  # any of them makes it a run
# What may change when a run goes on: how far and where, not what is computed. (Images that moved are known by digest.)
FREE = {
    f"train.{k}" for k in ("steps", "minutes", "every", "test_images", "accelerator", "devices", "nodes", "strategy")
}
FREE |= {"data.source", "data.labels"}
WATCHED = {"train.every", "train.test_images"}  # of these aggressive training's end is a function
BOUNDS = {"held-out": "", "rate": "rate_", "distortion": "distortion_"}  # of each evaluation, on held-out data


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a settings file; raises ``UserError``."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: expected a YAML file, found one that is no text") from None
    except OSError as error:
        raise UserError(f"{path}: expected a YAML file: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings by name (recipe, data, model, train), found {content!r:.60}")
    for name in ("data", "model", "train"):
        if not isinstance(content.get(name, {}), dict):
            raise UserError(f"{path}: {name}: expected settings by name, found {content[name]!r:.60}")
    if not isinstance(content.get("recipe", ""), str):
        raise UserError(f"{path}: recipe: expected a name, found {content['recipe']!r:.60}")
    return content


def complaint(text: str) -> tuple[str, str]:
    """Of a setting that jsonargparse refuses: its name, "" where none is to blame, and what is wrong with it."""
    text = " ".join(text.split())
    wrong = re.fullmatch(r'Parser key "([^"]*)":(.*?)(?: Given value type: .*?)?\.? (?:Got|Given) value: (.*)', text)
    if not wrong:
        return "", text
    name, expected, found = wrong.groups()
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
    choices = re.search(r"Literal\[(.*?)\]", expected)
    types = list(dict.fromkeys(re.findall(r"<class '(\w+)'>", expected)))
    wanted = "one of " + choices[1].replace("'", "") if choices else " or ".join(kinds.get(t, t) for t in types)
    return name, f"expected {wanted}, found {found}"


def data_settings(path: Path, values: dict[str, Any]) -> DataSettings:
    """The ``data`` of a settings file, checked; raises ``UserError``."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DataSettings, "data")
    try:
        return DataSettings(**vars(parser.parse_object({"data": values}).data))
    except ArgumentError as error:
        name, text = complaint(str(error))
        raise UserError(f"{path}: {name or 'data'}: {text}") from None


def write_config(run: Path, recipe: str, model: dict[str, Any], data: DataSettings, train: TrainSettings) -> None:
    """Write all that is needed to run it again; paths are made absolute."""
    content = {"recipe": recipe, "data": asdict(whole_paths(data)), "model": model, "train": asdict(train)}
    write_text(run / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def whole_paths(data: DataSettings) -> DataSettings:
    def whole(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.resolve()) if name not in ("", "digits") and path.exists() else name

    return replace(data, source=whole(data.source), labels=data.labels and whole(data.labels))


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= {f"{name}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {name: value}
    return found


def check_same(run: Path, recipe: str, model: dict[str, Any], data: DataSettings, train: TrainSettings) -> None:
    """Refuse to go on with a run under other settings; raises ``UserError`` that names the first that differs."""
    old = read_yaml(run / "config.yaml")
    new = {"recipe": recipe, "data": asdict(whole_paths(data)), "model": model, "train": asdict(train)}
    defaults = {"data": asdict(DataSettings()), "train": asdict(TrainSettings())}  # of settings that are younger
    free = FREE - (WATCHED if train.aggressive else set())
    for part, values in new.items():
        pairs = {part: (old.get(part), values)}
        if isinstance(values, dict):
            kept = flat(defaults.get(part, {}) | (old.get(part) or {}))
            pairs = {f"--{part}.{k}": (kept.get(k), v) for k, v in flat(values).items() if f"{part}.{k}" not in free}
        for flag, (before, now) in pairs.items():
            if before != now:
                raise UserError(f"{flag}: {run} was begun with {before} and can't go on with {now}: take another --out")


def run_data(
    run: Path,
    given: DataSettings,
    split: str | None,
    modality: Modality,
    whole: bool = False,
) -> tuple[Samples, str]:
    """The data to use a run on, as the model wants them, and what they are in words.

    Without a source: the run's, held out unless ``split`` says otherwise. Another source is treated as the run's was
    (size, colour) and, where it has no test split, taken whole. With ``whole`` any source that is named is taken whole.
    Raises ``UserError``.
    """
    data, own = given, None
    if (run / "config.yaml").is_file():
        own = data_settings(run / "config.yaml", read_yaml(run / "config.yaml").get("data") or {})
        default = DataSettings()
        changed = {k: v for k, v in asdict(whole_paths(given)).items() if v != getattr(default, k)}
        for flag in ("tokens", "vocabulary", "longest"):
            if isinstance(modality, Text) and changed.get(flag, getattr(own, flag)) != getattr(own, flag):
                raise UserError(f"--data.{flag} {changed[flag]}: {run} has a tokenizer of its own ({VOCABULARY})")
        data = replace(own, **changed)
    if not data.source:
        raise UserError(f"--data: {run} has no config.yaml to say what it was trained on; name a source")
    foreign = own is None or data.source != own.source
    data = replace(data, split=given.split, labels=given.labels) if foreign else data
    part = split or ("all" if whole and given.source else "unseen" if foreign else "test")
    names = {
        "test": "held out",
        "train": "training part",
        "all": "whole",
        "unseen": "the test split if it has one, else whole" if modality.splits else "whole",
    }
    path = Path(data.source)
    if not given.source and path.is_absolute() and not path.exists():
        raise UserError(f"--data {path}: no such file, of which {run} was made; --data names another source")
    return load_data(data, part, modality), f"{data.source} ({names[part]})"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.csv``; raises ``UserError``."""
    path = run / "metrics.csv"
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    if not path.is_file():
        raise UserError(f"{run}: has no metrics.csv; a run has it from its first evaluation on")
    try:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(path.read_text()))]
        if {"step", "seconds"} < rows[0].keys() and told_in(rows):
            return rows
    except (ValueError, TypeError, IndexError):
        pass
    names = ", ".join(f"test_{part}bits_per_dim" for part in BOUNDS.values())
    raise UserError(f"{path}: expected numbers under step, seconds, {names} (or nats), as fvae train writes it")


def told_in(rows: list[dict[str, float]]) -> str:
    """What the bounds of metrics are told in, bits_per_dim or nats; "" where there are none."""
    keys = ("bits_per_dim", "nats")
    return next((key for key in keys if all(f"test_{part}{key}" in rows[0] for part in BOUNDS.values())), "")


def data_name(run: Path) -> str:
    """The last part of the name of a run's images, "" where it is not known."""
    path = run / "config.yaml"
    source = (read_yaml(path).get("data") or {}).get("source") if path.is_file() else None
    return Path(str(source or "")).name
