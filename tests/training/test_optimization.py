"""What an optimizer step depends on: groups of parameters, and the weight of the rate."""

import pytest
from text_models import LSTM, TRANSFORMER, make_text_vae

from fvae.recipes import GaussianDecoder, Glow, Strided, glow, vae
from fvae.settings import TrainSettings
from fvae.training.optimization import learning_rate, parameter_groups, rate_weight


def test_weight_decay_and_lr_scale_reach_the_right_parameters():
    """Every parameter is in one group; only networks' weights decay; sigma_2 learns at its own rate."""
    model = glow((3, 8, 8), flow=Glow(levels=1, depth=2, width=8))
    groups = parameter_groups(model, 1e-3, 0.1)
    ours = [id(p) for g in groups for p in g["params"]]
    assert sorted(ours) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in decayed) == ("weight" in name.rpartition(".")[2]), name
    variational = vae((1, 8, 8), coder=Strided(size=2, width=8, levels=1), decoder=GaussianDecoder(lr_scale=30.0))
    fast = [g for g in parameter_groups(variational, 1e-3, 0.0) if g["lr_scale"] == 30]
    assert [id(p) for g in fast for p in g["params"]] == [id(variational.decoder.conditioner.log_std)]


@pytest.mark.parametrize(
    ("decoder", "weight"),
    [(LSTM, "lstm.weight_hh_l0"), (TRANSFORMER, "blocks.0.qkv.weight")],
    ids=["LSTM", "transformer"],
)
def test_weights_of_language_models_decay(decoder, weight):
    """Those of LSTMs, attention and linear maps; no embedding, bias or statistic."""
    model = make_text_vae(decoder=decoder)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 1e-3, 0.1)
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    assert {f"decoder.net.{weight}", "decoder.net.out.dense.weight"} < decayed
    assert not any("embed" in name or "bias" in name or "norm" in name for name in decayed)


def test_the_weight_of_the_rate_rises():
    """Once, or in cycles of twice the steps, of which half are at 1."""
    line = TrainSettings(anneal="linear", anneal_steps=10)
    assert [rate_weight(line, t) for t in (0, 5, 10, 25)] == [0, 0.5, 1, 1]
    cycles = TrainSettings(anneal="cyclical", anneal_steps=10)
    assert [rate_weight(cycles, t) for t in (0, 5, 10, 19, 20, 25, 30)] == [0, 0.5, 1, 1, 0, 0.5, 1]
    assert rate_weight(TrainSettings(), 0) == 1


def test_the_learning_rate_rises_over_the_warmup():
    settings = TrainSettings(lr=1.0, warmup=4)
    assert [learning_rate(settings, t, 0.5) for t in (0, 1, 3, 4, 100)] == [0.25, 0.5, 1, 1, 1]
    assert learning_rate(TrainSettings(lr=1.0, warmup=0), 0, 0.5) == 1


def test_the_learning_rate_falls_by_a_cosine():
    settings = TrainSettings(lr=2.0, warmup=2, lr_decay="cosine")
    found = [learning_rate(settings, t, t / 8) for t in (0, 2, 4, 6, 8)]
    assert found == pytest.approx([1.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0])
