"""A model on disk: what is saved is what is loaded, and what is damaged or hostile is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, cut, perturb

from fvae.data import Modality
from fvae.errors import InputError
from fvae.files import RUN_FILES, need_file, write_text
from fvae.model import LatentModel
from fvae.recipes import RECIPES, f_vae, glow, vae
from fvae.runs import load, save
from fvae.runs.folder import CHECKPOINT, read_checkpoint, save_checkpoint

FLOW = {"levels": 1, "depth": 1, "width": 8}
SMALL = {
    "glow": {"flow": FLOW},
    "vae": {"coder": {"levels": 1, "width": 8, "size": 4}},
    "f_vae": {"flow": FLOW},
    "f_vae_general": {"flow": FLOW},
}


class Payload:
    """Unpickled, it would leave a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def folder(tmp_path) -> Path:
    save(glow((1, 8, 8), **SMALL["glow"]), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_saved_is_loaded(recipe, tmp_path):
    shape = (9, 20) if recipe in TEXT else (1, 8, 8)
    model = perturb(RECIPES[recipe](shape, **SMALL.get(recipe, {})))
    save(model, tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.config == model.config and not again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "model.safetensors"}


CHANGES = [
    ("", "{broken", "config.json: not valid JSON"),
    ("", "[]", "config.json: expected a table with format, recipe, shape and settings"),
    ("", '{"recipe": "glow"}', "config.json: expected a table with format"),
    ("format", 99, "config.json: format 99, written by fvae .*; this is fvae .*, which reads format 3"),
    ("recipe", "nope", "config.json: unknown recipe 'nope'; known are nice, realnvp, glow"),
    ("recipe", ["glow"], "config.json: unknown recipe"),
    ("shape", "8x8", "config.json: expected a list `shape` and a table `settings`"),
    ("shape", [8] * 4, r"config.json: shape: expected images .* or tables \(columns,\), found \[8, 8, 8"),
    ("shape", [0], r"config.json: shape.0: input should be greater than or equal to 1, found 0"),
    ("shape", [8, 8], r"config.json: shape: expected images .* or tables \(columns,\), found \[8, 8\]$"),
    ("settings", {"flow": {"width": "8"}}, "config.json: flow.width: input should be a valid integer, found '8'"),
    ("settings", {"flow": {"widht": 8}}, "config.json: flow.widht: no such setting"),
    ("settings", {"flow": {**FLOW, "depth": 2}}, "model.safetensors: lacks prior.* not of the model of .*config.json"),
    ("settings", {"flow": {**FLOW, "width": 4}}, r"model.safetensors: .* has shape \(8.*\), .* expects \(4"),
]


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_a_config_that_does_not_fit_is_refused(folder, key, value, message):
    """A config.json whose ``key`` has another value; or another text."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}) if key else value)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such run folder"):
        load(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file; a run has it from its first checkpoint on"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"run: expected a run folder with a config.json"):
        load(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="damaged, or not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("write", [0, 2, 4, "torch"])
def test_pickle_in_place_of_the_weights_is_not_run(folder, tmp_path, write):
    path, payload = folder / "model.safetensors", Payload(tmp_path / "marker")
    if write == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload, write))
    with pytest.raises(InputError, match=r"model.safetensors: (refused|damaged)"):
        load(folder)
    assert not payload.marker.exists()


@pytest.mark.parametrize("name", [*RUN_FILES, CHECKPOINT])
def test_no_file_of_a_run_is_written_over(name, tmp_path):
    write_text(tmp_path / name, "")
    with pytest.raises(InputError, match=f"{name}: belongs to a run; use another name"):
        need_file(tmp_path / name)


# Checkpoints


def checkpoint(run: Path, model: LatentModel) -> Path:
    """A checkpoint of what is looked at before training resumes."""
    save_checkpoint(run, {"step": 7, "digest": "0", "model": model.state_dict()})
    return run / CHECKPOINT


def read(run: Path, model: LatentModel, digest: str = "0") -> dict[str, Any] | None:
    return read_checkpoint(run, model, digest, torch.device("cpu"))


def test_a_checkpoint_is_read_for_the_same_model_and_data_only(tmp_path):
    model = vae((1, 8, 8), **SMALL["vae"])
    assert read(tmp_path, model) is None
    checkpoint(tmp_path, model)
    assert read(tmp_path, model)["step"] == 7
    wider = {**SMALL["vae"]["coder"], "size": 5}
    for other, digest, message in (
        (f_vae((1, 8, 8), **SMALL["f_vae"]), "0", "last.ckpt: .* not of the model of the run's config.yaml"),
        (vae((1, 8, 8), coder=wider), "0", "last.ckpt: .* has shape .*, the model of the run's config.yaml expects"),
        (model, "1", "resume: .*last.ckpt was trained on other data than these"),
    ):
        with pytest.raises(InputError, match=message):
            read(tmp_path, other, digest)


def test_a_model_that_no_recipe_made_is_not_saved(tmp_path):
    model = vae((1, 8, 8), **SMALL["vae"])
    model.config = {}
    with pytest.raises(InputError, match="model: expected a model made by a recipe"):
        save(model, tmp_path)
    assert not list(tmp_path.iterdir())


DAMAGES: dict[str, Callable[[Path, Payload], Any]] = {
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_bytes(b"hello world"),
    "cut": lambda path, _: cut(path),
    "pickle": lambda path, payload: path.write_bytes(pickle.dumps(payload)),
    "torch": lambda path, payload: torch.save(payload, path),
    "inside": lambda path, payload: torch.save({**torch.load(path), "more": payload}, path),
    "other": lambda path, _: torch.save({"model": 3}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_or_hostile_checkpoint_is_refused_and_not_run(tmp_path, damage):
    model, payload = vae((1, 8, 8), **SMALL["vae"]), Payload(tmp_path / "marker")
    damage(checkpoint(tmp_path, model), payload)
    with pytest.raises(InputError, match=r"last.ckpt: damaged, or not a checkpoint of fvae"):
        read(tmp_path, model)
    assert not payload.marker.exists()


class Series(Modality):
    """A modality that the library doesn't know."""

    noun = "series"


def test_the_modality_is_saved_by_its_name(tmp_path):
    """A model that was given another modality than its recipe's has it again, as long as its class is there."""
    model = vae((4,), coder={"size": 2, "width": 8})
    model.modality = Series((4,), ("a", "b"))
    save(model, tmp_path)
    assert load(tmp_path).modality == Series((4,), ["a", "b"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "modality": "Movie"}))
    with pytest.raises(InputError, match=r"config.json: expected data of a known modality \(.*\), found Movie"):
        load(tmp_path)
