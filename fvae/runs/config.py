"""``config.yaml``: everything that is needed to run a training again, and the settings files that users write."""

from pathlib import Path
from typing import Any

import yaml

from fvae.errors import InputError
from fvae.files import write_text
from fvae.schema import checked
from fvae.settings import OLD_DATA, OLD_TRAIN, DataSettings, TrainSettings, with_new_names

# What can't change when a run is resumed, and why. (Data may have moved: they are known by their digest.)
FIXED = {
    "recipe": "its weights are of that recipe",
    "model": "its weights are of that model",
    "data": "these would be other data",
    "train.seed": "the order of its samples follows from it",
    "train.aggressive": "its schedule follows from it",
}
FREE = ("data.source", "data.labels", "data.allow_degenerate")
WATCHED = ("train.eval_interval", "train.eval_samples")  # the end of aggressive training depends on these


def read_config(path: Path) -> dict[str, Any]:
    """The tables ``data``, ``model`` and ``train`` and the name ``recipe`` of a settings file, as far as it has them.

    Raises ``InputError`` for a file that is missing or is not of this form.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected a YAML file, found one that is not text") from None
    except OSError as error:
        raise InputError(f"{path}: expected a YAML file: {error.strerror}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected settings by name (recipe, data, model, train), found {content!r:.60}")
    for name in ("data", "model", "train"):
        if not isinstance(content.get(name) or {}, dict):
            raise InputError(f"{path}: {name}: expected settings by name, found {content[name]!r:.60}")
        content[name] = content.get(name) or {}
    if not isinstance(content.get("recipe", ""), str):
        raise InputError(f"{path}: recipe: expected a name, found {content['recipe']!r:.60}")
    if unknown := content.keys() - {"recipe", "data", "model", "train"}:
        raise InputError(f"{path}: {min(map(str, unknown))}: expected recipe, data, model or train")
    return content | {
        "data": with_new_names(content["data"], OLD_DATA),
        "train": with_new_names(content["train"], OLD_TRAIN),
    }


def run_config(run: Path) -> dict[str, Any]:
    """The content of a run's ``config.yaml``, {} where there is none; raises ``InputError``."""
    path = run / "config.yaml"
    return read_config(path) if path.is_file() else {}


def data_settings(path: Path, values: dict[str, Any]) -> DataSettings:
    """The ``data`` of a settings file, checked; raises ``InputError``."""
    try:
        return checked(DataSettings, values)
    except InputError as error:
        raise InputError(f"{path}: data.{error}") from None


def description(model: Any, data: DataSettings, train: TrainSettings) -> dict[str, Any]:
    """What ``config.yaml`` says of a training; paths are made absolute."""
    tables = {"data": whole_paths(data).model_dump(), "model": model.config["settings"], "train": train.model_dump()}
    return {"recipe": model.config["recipe"], **tables}


def write_config(run: Path, content: dict[str, Any]) -> None:
    """Write ``config.yaml``."""
    write_text(run / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def whole_paths(data: DataSettings) -> DataSettings:
    def whole(name: str) -> str:
        path = Path(name).expanduser()
        return str(path.resolve()) if name not in ("", "digits") and path.exists() else name

    return data.model_copy(update={"source": whole(data.source), "labels": data.labels and whole(data.labels)})


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= {f"{name}.{k}": v for k, v in flat(value).items()} if isinstance(value, dict) else {name: value}
    return found


def changed_settings(run: Path, content: dict[str, Any]) -> list[str]:
    """What a run is resumed with and what it had before, setting by setting.

    Raises ``InputError`` that names the first that can't change.
    """
    defaults = {"data": DataSettings().model_dump(), "train": TrainSettings().model_dump()}
    before = read_config(run / "config.yaml")
    old = flat(
        {name: defaults.get(name, {}) | value if isinstance(value, dict) else value for name, value in before.items()}
    )
    fixed = FIXED | dict.fromkeys(WATCHED if content["train"]["aggressive"] else (), "its schedule follows from it")
    changed = {name: now for name, now in flat(content).items() if old.get(name) != now}
    for name, now in changed.items():
        why = fixed.get(name) or fixed.get(name.partition(".")[0])
        if why and name not in FREE:
            text = f"{run} was trained with {old.get(name)} and cannot be resumed with {now}, since {why}"
            raise InputError(f"{text}; use another folder", name.partition(".")[2] or name)
    return [f"{name} {now} (was {old.get(name)})" for name, now in changed.items()]
