"""A model that is trained in stages: from the weights of another, with parts that are not trained; moved images."""

import numpy as np
import pytest
import torch

import fvae
from fvae import fit, recipes
from fvae.recipes import NICE, FlowDecoder, Glow, Grid, Noise, OneSided, Strided
from fvae.runs.config import read_config
from fvae.training import Callback

QUICK = {"steps": 10, "batch_size": 8, "progress": False, "ema": 0.0}


def test_a_training_begins_from_the_weights_of_another():
    """Those of the same names and shapes; what is frozen stays as it was, and can be trained again afterwards."""
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    coder, posterior = Grid(channels=4, levels=1, width=4), Noise(sigma=0.2, std="fixed", normalize=True)
    parts = {"coder": coder, "posterior": posterior, "flow": Glow(levels=1, depth=1, width=8)}
    first = recipes.f_vae_reduced((1, 8, 8), **parts)
    fit(first, x, **QUICK)
    second = recipes.f_vae_reduced((1, 8, 8), **parts, decoder=FlowDecoder(flow=parts["flow"], features=4))
    fit(second, x, init=first, freeze="posterior,prior", **QUICK)
    before, after = first.state_dict(), second.state_dict()
    for name in before.keys() & after.keys():
        same = torch.equal(before[name], after[name])
        assert same == name.startswith(("posterior", "prior")), name
    assert all(p.requires_grad for p in second.parameters())
    with pytest.raises(ValueError, match=r"^init: expected a model with weights in common with this one, found none$"):
        fit(recipes.nice((1, 8, 8), flow=NICE(depth=1, width=8)), x, init=first, **QUICK)
    with pytest.raises(ValueError, match=r"^freeze: expected a part that is trained, found all of them frozen$"):
        fit(second, x, freeze="posterior, prior, decoder", **QUICK)
    with pytest.raises(ValueError, match=r"^freeze: expected a trained model, or `init`"):
        fit(recipes.f_vae_reduced((1, 8, 8), **parts), x, freeze="prior", **QUICK)
    wider = recipes.f_vae_reduced((1, 8, 8), **parts | {"coder": Grid(channels=4, levels=1, width=6)})
    with pytest.raises(ValueError, match=r"^init: expected all weights of the frozen posterior, found none that fit"):
        fit(wider, x, init=first, freeze="posterior", **QUICK)
    with pytest.raises(ValueError, match=r"^freeze: expected parts of posterior, decoder, prior, found encoder$"):
        fit(second, x, freeze="encoder", **QUICK)


def test_what_a_setting_fixes_is_not_taken_from_the_weights_of_another():
    """gamma, a fixed sigma: those of the new model, unless their part is frozen; then they must be the same."""
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    made = {"coder": Strided(size=2, width=8), "flow": Glow(depth=1, width=8)}

    def model(**parts):
        return recipes.vae((4,), **made | parts)

    for name, posterior, other in (
        ("posterior.conditioner.gamma", OneSided(gamma=0.5), OneSided(gamma=0.7)),
        ("posterior.conditioner.log_std", Noise(sigma=0.2, std="fixed"), Noise(sigma=0.3, std="fixed")),
    ):
        first, second = model(posterior=posterior), model(posterior=other)
        fit(first, x, **QUICK)
        given = second.state_dict()[name].clone()
        fit(second, x, init=first, **QUICK)
        assert torch.equal(second.state_dict()[name], given), name
        with pytest.raises(ValueError, match=rf"^init: expected frozen parts .* {name}\S* differs$"):
            fit(model(posterior=other), x, init=first, freeze="posterior", **QUICK)
        fit(model(posterior=posterior), x, init=first, freeze="posterior", **QUICK)


def test_half_of_the_images_are_mirrored():
    """In training alone, by the step's seed; other data can't be."""
    seen = []

    class Look(Callback):
        def on_start(self, trainer):
            trainer.model.register_forward_pre_hook(lambda model, args: seen.append(args[0].clone()))

    x = np.zeros((40, 1, 8, 8), dtype=np.uint8)
    x[..., :4] = np.random.default_rng(0).integers(1, 256, (40, 1, 8, 4))
    fit(recipes.glow((1, 8, 8), flow=Glow(levels=1, depth=1, width=8)), x, **QUICK, flip=True, callbacks=[Look()])
    left = torch.cat(seen)[..., 0].flatten(1).any(1)
    assert 0.3 < left.float().mean() < 0.7
    with pytest.raises(ValueError, match=r"^flip: expected images, found rows$"):
        fit(recipes.realnvp((4,)), np.random.default_rng(0).normal(size=(60, 4)), **QUICK, flip=True)


def test_images_are_shifted_and_their_borders_repeated():
    """As numpy pads and cuts, and mirrored before that; a training shifts by up to the setting."""
    x = torch.arange(3 * 2 * 5 * 6).reshape(3, 2, 5, 6)
    mirrored, shifts = torch.tensor([False, True, False]), torch.tensor([[0, 0], [2, -1], [-3, 2]])
    found = fvae.data.Images((2, 5, 6)).augment(x, mirrored, shifts)
    for image, flip, (dy, dx), got in zip(x, mirrored, shifts.tolist(), found, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (3, 3), (3, 3)), mode="edge")
        cut = padded[:, 3 + dy : 8 + dy, 3 + dx : 9 + dx]
        assert np.array_equal(got, cut[..., ::-1] if flip else cut)
    seen = []

    class Look(Callback):
        def on_start(self, trainer):
            trainer.model.register_forward_pre_hook(lambda model, args: seen.append(args[0].clone()))

    x = np.zeros((40, 1, 8, 8), dtype=np.uint8)
    x[..., 4, 4] = np.arange(100, 140)[:, None]
    fit(recipes.glow((1, 8, 8), flow=Glow(levels=1, depth=1, width=8)), x, **QUICK, shift=2, callbacks=[Look()])
    places = {tuple(place) for place in torch.cat(seen)[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(i, j) for i in range(2, 7) for j in range(2, 7)}
    with pytest.raises(ValueError, match=r"^shift: expected images, found rows$"):
        fit(recipes.realnvp((4,)), np.random.default_rng(0).normal(size=(60, 4)), **QUICK, shift=1)


def test_the_posterior_s_deviation_is_reported():
    """Of a fixed sigma_1 it is that; a flow on the data has no Gaussian posterior."""
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    coder, flow = Grid(channels=4, levels=1, width=4), Glow(levels=1, depth=1, width=8)
    model = recipes.f_vae_reduced((1, 8, 8), coder=coder, flow=flow, posterior=Noise(sigma=0.25, std="fixed"))
    assert fit(model, x, **QUICK)[-1]["posterior_std"] == pytest.approx(0.25)
    assert "posterior_std" not in fit(recipes.glow((1, 8, 8), flow=flow), x, **QUICK)[-1]


def test_a_second_stage_is_a_run_that_can_be_resumed(tmp_path):
    """Its config.yaml says where it began; what is frozen stays so, and it ends as one that was never stopped."""
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    parts = {"coder": Grid(channels=4, levels=1, width=4), "flow": Glow(levels=1, depth=1, width=8)}
    first = recipes.f_vae_reduced((1, 8, 8), **parts)
    fit(first, x, run=tmp_path / "first", **QUICK)
    quick = QUICK | {"freeze": "posterior,prior", "flip": True, "eval_interval": 5}

    def second():
        torch.manual_seed(1)
        return recipes.f_vae_reduced((1, 8, 8), **parts, decoder=FlowDecoder(flow=parts["flow"], features=4))

    whole, stopped, resumed = second(), second(), second()
    fit(whole, x, run=tmp_path / "whole", init=tmp_path / "first", **quick)
    fit(stopped, x, run=tmp_path / "run", init=tmp_path / "first", **quick | {"steps": 5})
    fit(resumed, x, run=tmp_path / "run", resume=True, **quick)
    assert all(torch.equal(w, resumed.state_dict()[name]) for name, w in whole.state_dict().items())
    assert read_config(tmp_path / "run/config.yaml")["train"]["init"] == str(tmp_path / "first")
    with pytest.raises(ValueError, match=r"^init: .*no such run folder"):
        fit(second(), x, init=tmp_path / "none", **quick)
