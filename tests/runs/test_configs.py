"""The settings files that come with the package."""

import math

import pytest
import torch

from fvae.recipes import RECIPES
from fvae.runs.config import CONFIGS, config_names, config_path, read_config
from fvae.schema import checked
from fvae.settings import TrainSettings

SHAPES = {"f_vae_128_published": (3, 128, 128)}


@pytest.mark.parametrize("name", config_names())
def test_a_config_is_a_model_and_its_training(name):
    content = read_config(config_path(name))
    checked(TrainSettings, content["train"])
    with torch.device("meta"):
        model = RECIPES[content["recipe"]](SHAPES.get(name, (3, 64, 64)), **content["model"])
    if name == "f_vae_128_published":  # 3 squeezes, D' = D, and as many parameters as the paper says
        assert model.latent == (192, 16, 16) and math.prod(model.latent) == math.prod(model.shape)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(95.8e6, rel=0.05)


def test_each_stage_of_the_faces_begins_where_the_last_one_ends():
    """They differ in the decoder alone, and what a stage freezes, and the finer latent's networks, are in the last."""
    stages = [read_config(config_path(f"f_vae_faces{end}")) for end in ("", "_fine", "_decoder")]
    assert {stage["recipe"] for stage in stages} == {"f_vae_reduced"}
    weights = []
    for stage in stages:
        assert stage["model"] | {"decoder": None} == stages[0]["model"] | {"decoder": None}
        with torch.device("meta"):
            model = RECIPES["f_vae_reduced"]((3, 64, 64), **stage["model"])
        weights.append({name: w.shape for name, w in model.state_dict().items()})
        for part in checked(TrainSettings, stage["train"]).frozen:
            frozen = [name for name in weights[-1] if name.startswith(f"{part}.")]
            assert frozen and all(weights[-2].get(name) == weights[-1][name] for name in frozen)
    new = {name for name in weights[2].keys() - weights[1].keys() if not name.startswith("decoder.decoder.f")}
    assert not new and weights[1].keys() <= weights[2].keys()


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("f_vae_faces").parent == CONFIGS
    (tmp_path / "f_vae_faces").write_text("recipe: vae\n")
    assert read_config(config_path("f_vae_faces"))["recipe"] == "vae"
