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


@pytest.mark.parametrize("end", ["_fine", "_decoder"])
def test_each_second_stage_of_the_faces_begins_where_the_first_one_ends(end):
    """They differ in the decoder alone, and what is frozen is in the first one's weights, and more than that."""
    stages = [read_config(config_path(f"f_vae_faces{name}")) for name in ("", end)]
    assert stages[0]["recipe"] == stages[1]["recipe"] == "f_vae_reduced"
    assert stages[0]["model"] | {"decoder": None} == stages[1]["model"] | {"decoder": None}
    before, after = (
        {name: w.shape for name, w in RECIPES["f_vae_reduced"]((3, 64, 64), **stage["model"]).state_dict().items()}
        for stage in stages
    )
    for part in checked(TrainSettings, stages[1]["train"]).frozen:
        frozen = [name for name in after if name.startswith(f"{part}.")]
        assert frozen and all(before.get(name) == after[name] for name in frozen)
    assert all(before[name] == after[name] for name in before if "log_std" not in name and not name.startswith("d"))


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_path("f_vae_faces").parent == CONFIGS
    (tmp_path / "f_vae_faces").write_text("recipe: vae\n")
    assert read_config(config_path("f_vae_faces"))["recipe"] == "vae"
