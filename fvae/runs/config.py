"""``config.yaml``: everything that is needed to run a training again, and the settings files that users write."""

from pathlib import Path
from typing import Any

import yaml

from fvae.documents import YAML, Document, read_document
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


class SettingsFile(Document):
    """A settings file: any of the tables, and the recipe."""

    recipe: str | None = None
    data: dict[str, Any] = {}
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}


CONFIGS = Path(__file__).parent.parent / "configs"  # settings files that come with the package, by name


def config_path(name: str) -> Path:
    """A settings file: one that is there, or else the one of the package that has this name."""
    path = Path(name)
    return CONFIGS / f"{name}.yaml" if not path.exists() and name in config_names() else path


def config_names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def read_config(path: Path) -> dict[str, Any]:
    """The tables ``data``, ``model`` and ``train`` and the name ``recipe`` of a settings file, as far as it has them.

    Raises ``InputError`` for a file that is missing or is not of this form.
    """
    tables = read_document(path, SettingsFile, YAML).model_dump()
    data, train = with_new_names(tables["data"], OLD_DATA), with_new_names(tables["train"], OLD_TRAIN)
    return tables | {"data": data, "train": train}


def run_config(run: Path) -> dict[str, Any]:
    """The content of a run's ``config.yaml``, {} where there is none; raises ``InputError``."""
    path = run / "config.yaml"
    return read_config(path) if path.exists() else {}


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
