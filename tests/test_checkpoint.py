"""A model on disk: what is saved is what is loaded, and what is damaged or hostile is refused."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from conftest import TEXT, perturb

from fvae.checkpoint import check_checkpoint, load, save
from fvae.errors import UserError
from fvae.recipes import RECIPES, f_vae, glow, vae

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


CONFIGS = {
    "{broken": "config.json: not valid JSON",
    "[]": "config.json: expected a table with format, recipe, shape and settings",
    '{"recipe": "glow"}': "config.json: expected a table with format",
}
CHANGES = [
    ("format", 99, "config.json: format 99, written by fvae .*; this is fvae .*, which reads format 3"),
    ("recipe", "nope", "config.json: unknown recipe 'nope'; known are nice, realnvp, glow"),
    ("recipe", ["glow"], "config.json: unknown recipe"),
    ("shape", "8x8", "config.json: expected a list `shape` and a table `settings`"),
    ("shape", [8] * 4, r"config.json: glow: shape: expected \(channels, height, width\) or \(columns,\), found \(8, 8"),
    ("shape", [0], r"config.json: glow: shape.0: input should be greater than or equal to 1, found 0"),
    ("shape", [8, 8], "config.json: glow: shape: expected .*: text needs a text recipe, as text_vae"),
    ("settings", {"flow": {"width": "8"}}, "config.json: glow: flow.width: input should be a valid integer, found '8'"),
    ("settings", {"flow": {"widht": 8}}, "config.json: glow: flow.widht: no such setting"),
    ("settings", {"flow": {**FLOW, "depth": 2}}, "model.safetensors: lacks prior.* not of the model of .*config.json"),
    ("settings", {"flow": {**FLOW, "width": 4}}, r"model.safetensors: .* has shape \(8.*\), .* expects \(4"),
]


@pytest.mark.parametrize(("key", "value", "message"), CHANGES)
def test_config_of_another_model_or_version(folder, key, value, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=message):
        load(folder)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        load(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors: no such file; a run has it from its first evaluation on"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"not a run folder, .*: it has no config.json"):
        load(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="damaged, or not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("write", [0, 2, 4, "torch"])
def test_pickle_in_place_of_the_weights_is_not_run(folder, tmp_path, write):
    path, payload = folder / "model.safetensors", Payload(tmp_path / "marker")
    if write == "torch":
        torch.save(payload, path)
    else:
        path.write_bytes(pickle.dumps(payload, write))
    with pytest.raises(UserError, match=r"model.safetensors: (refused|damaged)"):
        load(folder)
    assert not payload.marker.exists()


def checkpoint(model) -> dict:
    """What of a checkpoint is looked at."""
    return {
        "global_step": 7,
        "fvae": {"digest": "0"},
        "state_dict": {f"model.{name}": w for name, w in model.state_dict().items()},
    }


def test_checkpoint_of_the_same_model_is_taken(tmp_path):
    model = vae((1, 8, 8), **SMALL["vae"])
    torch.save(checkpoint(model), tmp_path / "last.ckpt")
    assert check_checkpoint(tmp_path / "last.ckpt", model, "0") == 7


def test_checkpoint_of_another_model_is_refused(tmp_path):
    torch.save(checkpoint(vae((1, 8, 8), **SMALL["vae"])), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt: .* not of the model of the run's config.yaml"):
        check_checkpoint(tmp_path / "last.ckpt", f_vae((1, 8, 8), **SMALL["f_vae"]), "0")
    with pytest.raises(UserError, match=r"last.ckpt: .* has shape .*, the model of the run's config.yaml expects"):
        check_checkpoint(tmp_path / "last.ckpt", vae((1, 8, 8), coder={**SMALL["vae"]["coder"], "size": 5}), "0")


def test_checkpoint_of_other_data_is_refused(tmp_path):
    model = vae((1, 8, 8), **SMALL["vae"])
    torch.save(checkpoint(model), tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last.ckpt was begun with other data than --data has now"):
        check_checkpoint(tmp_path / "last.ckpt", model, "1")


def test_a_model_that_no_recipe_made_is_not_saved(tmp_path):
    model = vae((1, 8, 8), **SMALL["vae"])
    model.config = {}
    with pytest.raises(UserError, match="expected a model made by a recipe"):
        save(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "pickle", "torch", "inside", "other"])
def test_damaged_or_hostile_checkpoint_is_refused_and_not_run(tmp_path, kind):
    model, path, payload = vae((1, 8, 8), **SMALL["vae"]), tmp_path / "last.ckpt", Payload(tmp_path / "marker")
    torch.save(checkpoint(model), path)
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_bytes(b"hello world")
        case "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "pickle":
            path.write_bytes(pickle.dumps(payload))
        case "torch":
            torch.save(payload, path)
        case "inside":
            torch.save({**checkpoint(model), "more": payload}, path)
        case "other":
            torch.save({"state_dict": 3}, path)
    with pytest.raises(UserError, match=r"last.ckpt: damaged, or not a checkpoint of fvae"):
        check_checkpoint(path, model, "0")
    assert not payload.marker.exists()
