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


def test_the_stages_of_the_faces_differ_in_the_decoder_alone():
    first, second = (read_config(config_path(name)) for name in ("f_vae_faces", "f_vae_faces_decoder"))
    assert first["recipe"] == second["recipe"]
    assert {name for name in first["model"] if first["model"][name] != second["model"][name]} == {"decoder"}


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("f_vae_faces").parent == CONFIGS
    (tmp_path / "f_vae_faces").write_text("recipe: vae\n")
    assert read_config(config_path("f_vae_faces"))["recipe"] == "vae"
