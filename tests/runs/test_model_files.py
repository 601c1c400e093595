"""A model on disk: what is saved is what is loaded, and what is damaged or hostile is refused."""

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, cut, perturb
from safetensors.torch import load_file, save_file

from fvae.data import Modality
from fvae.errors import InputError
from fvae.files import RUN_FILES, need_file, write_text
from fvae.model import LatentModel
from fvae.recipes import RECIPES, cvae, f_vae, glow, vae
from fvae.runs import load, save
from fvae.runs.folder import CHECKPOINT, Checkpoint, read_checkpoint, save_checkpoint
from fvae.training.aggressive import AggressiveSchedule

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
    (
        "",
        "[]",
        r"config.json: expected settings by name \(format, fvae, recipe, shape, settings, modality\), found list",
    ),
    ("", '{"recipe": "glow"}', "config.json: format: expected a value, found none"),
    ("format", 99, "config.json: format: this is fvae .*, which reads format 3; found 99"),
    ("recipe", "nope", "config.json: recipe: expected one of nice, realnvp, .*, found 'nope'$"),
    ("recipe", ["glow"], "config.json: recipe: input should be a valid string, found"),
    ("shape", "8x8", "config.json: shape: input should be a valid list, found '8x8'"),
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
    with pytest.raises(InputError, match=r"run/config.json: no such file"):
        load(folder)


WEIGHTS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = [
    ("weight", lambda w: w * math.nan, "weight.*: expected finite numbers, found .* that are not"),
    ("weight", lambda w: (w + 1).double() * 1e300, "weight.*: expected finite numbers"),
    ("weight", torch.Tensor.long, "weight.*: expected torch.float32, found torch.int64"),
    ("order", lambda w: w + 1, "order: expected a permutation or a count, found other numbers"),
    ("order", torch.Tensor.float, "order: expected torch.int64, found torch.float32"),
]


@pytest.mark.parametrize(("name", "change", "message"), WEIGHTS)
def test_weights_of_other_kinds_or_that_are_not_finite_are_refused(tmp_path, name, change, message):
    save(glow((1, 8, 8), flow={**FLOW, "mixing": "shuffle"}), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    first = next(key for key in weights if name in key)
    save_file(weights | {first: change(weights[first])}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_weights_of_another_precision_are_cast(folder):
    weights = load_file(folder / "model.safetensors")
    cast = {name: w.bfloat16().double() if w.is_floating_point() else w for name, w in weights.items()}
    save_file(cast, folder / "model.safetensors")
    assert all(torch.equal(w, cast[name].to(w.dtype)) for name, w in load(folder).state_dict().items())


def test_a_run_is_not_written_through_links(folder, tmp_path):
    (folder / "config.json").rename(tmp_path / "victim")
    (folder / "config.json").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match=r"config\.json: expected a file or folder of the run, found a symbolic link"):
        save(load(folder), folder)
    (tmp_path / "link").symlink_to(folder / "model.safetensors")
    with pytest.raises(InputError, match="link: belongs to a run"):
        need_file(tmp_path / "link")


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
    """A checkpoint of a training whose optimizer has not made a step."""
    weights, schedule = model.state_dict(), AggressiveSchedule(model, False).state
    content = {"digest": "0", "step": 7, "seconds": 1.0, "model": weights, "average": weights, "schedule": schedule}
    content |= {"skipped": [0.0, 0.0], "losses": torch.empty(0), "rows": [{"step": 7, "seconds": 1.0}]}
    save_checkpoint(run, content | {"optimizer": {"state": {}, "param_groups": []}})
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
    with pytest.raises(InputError, match=r"last.ckpt: (not valid checkpoint|[a-z]+: expected)|last.ckpt: model: input"):
        read(tmp_path, model)
    assert not payload.marker.exists()


@pytest.mark.parametrize("key", Checkpoint.model_fields)
@pytest.mark.parametrize("value", [None, b"text", {"a": 1}, [{}], math.nan])
def test_each_piece_of_a_checkpoint_is_checked(tmp_path, key, value):
    """One that is missing (None) or of another type is named."""
    model = vae((1, 8, 8), **SMALL["vae"])
    state = torch.load(checkpoint(tmp_path, model), weights_only=True)
    del state[key]
    save_checkpoint(tmp_path, state | ({} if value is None else {key: value}))
    with pytest.raises(InputError, match=f"last.ckpt: {key}[.a-z0-9]*: "):
        read(tmp_path, model)


class Series(Modality):
    """A modality that the library doesn't know."""

    noun = "series"


def test_the_modality_is_saved_by_its_name(tmp_path):
    """A model that was given another modality than its recipe's has it again, as long as its class is there."""
    model = cvae((4,), classes=2, coder={"size": 2, "width": 8})
    model.modality = Series((4,), ("a", "b"))
    save(model, tmp_path)
    assert load(tmp_path).modality == Series((4,), ["a", "b"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "modality": "Movie"}))
    with pytest.raises(InputError, match=r"config.json: modality: expected data of a known modality .*, found Movie"):
        load(tmp_path)
