"""The run folder: its settings in ``config.yaml``, and the images that it was made from."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from fvae.data.images import Images, Shape, load_images
from fvae.errors import UserError
from fvae.files import write_text
from fvae.settings import DataSettings, TrainSettings

# What may change when a run goes on: how far and where, not what is computed.
FREE = {"steps", "minutes", "every", "test_images", "accelerator", "devices", "nodes", "strategy"}


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a settings file; raises ``UserError``."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected settings by name (recipe, data, model, train), found {type(content).__name__}"
        )
    return content


def write_config(run: Path, recipe: str, model: dict[str, Any], data: DataSettings, train: TrainSettings) -> None:
    """Write all that is needed to run it again; a source that is a path is made absolute."""
    content = {"recipe": recipe, "data": asdict(whole_path(data)), "model": model, "train": asdict(train)}
    write_text(run / "config.yaml", yaml.safe_dump(content, sort_keys=False))


def whole_path(data: DataSettings) -> DataSettings:
    path = Path(data.source).expanduser()
    is_path = data.source not in ("", "digits") and path.exists()
    return replace(data, source=str(path.resolve())) if is_path else data


def check_same(run: Path, recipe: str, model: dict[str, Any], data: DataSettings, train: TrainSettings) -> None:
    """Refuse to go on with a run under other settings; raises ``UserError`` that names the first that differs."""
    old = read_yaml(run / "config.yaml")
    new = {"recipe": recipe, "data": asdict(whole_path(data)), "model": model, "train": asdict(train)}
    for part, values in new.items():
        pairs = {part: (old.get(part), values)}
        if isinstance(values, dict):
            kept = old.get(part) or {}
            pairs = {f"--{part}.{k}": (kept.get(k), v) for k, v in values.items() if part != "train" or k not in FREE}
        for flag, (before, now) in pairs.items():
            if before != now:
                raise UserError(f"{flag}: {run} was begun with {before} and can't go on with {now}: take another --out")


def run_images(run: Path, given: DataSettings, split: str | None, shape: Shape) -> tuple[Images, str]:
    """The images to use a run on, as the model wants them, and their source's name.

    Without a source: those of the run, held out unless ``split`` says otherwise. Another source is treated as the
    run's was (size, colour), and taken whole where it has no test split. Raises ``UserError``.
    """
    data = given
    if (run / "config.yaml").is_file():
        kept = read_yaml(run / "config.yaml").get("data") or {}
        known = {f.name for f in fields(DataSettings)}
        if not isinstance(kept, dict) or kept.keys() - known:
            raise UserError(f"{run}/config.yaml: expected `data` to hold {', '.join(sorted(known))}; found {kept}")
        own = DataSettings(**kept)
        default = DataSettings()
        changed = {k: v for k, v in asdict(whole_path(given)).items() if v != getattr(default, k)}
        data = replace(own, **changed)
        if data.source != own.source:
            data.split = given.split
            return load_images(data, split or "unseen", shape), data.source
        return load_images(data, split or "test", shape), data.source
    if not given.source:
        raise UserError(f"--data: {run} has no config.yaml to say what it was trained on; name a source")
    return load_images(data, split or "unseen", shape), data.source
