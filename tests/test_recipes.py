"""Every recipe: it trains, samples, saves, rebuilds and compiles, at a small size; and refuses what it can't make."""

import inspect
import json
import math
import re
import shutil

import pytest
import torch
from conftest import SEEN, flat, perturb

from fvae.conditioners import RunningStatistic, SharedStd
from fvae.conditioners.constant import by_channel
from fvae.density import total
from fvae.errors import UserError
from fvae.flows import Checkerboard, Coupling, InvertibleConv, Permute
from fvae.model import LatentModel, Terms
from fvae.model_flags import is_part
from fvae.networks.conv import ConvNeXt, Residual
from fvae.recipes import RECIPES, Glow, Noise, Squeezing
from fvae.renamed import renamed
from fvae.statistics import fit_statistics, initialize
from fvae.train import parameter_groups
from fvae.transforms import Additive

STEPS = {"levels": 2, "depth": 2, "width": 8}
CODERS = {"latent": 6, "width": 8, "levels": 2}
SQUEEZES = {"squeezes": 1, "blocks": 1, "hidden": 8}
SMALL = {
    "nice": {"depth": 2, "width": 8, "hidden": 2},
    "realnvp": STEPS,
    "glow": STEPS,
    "noisy_flow": STEPS | {"sigma": 0.1},
    "vae": CODERS,
    "cvae": CODERS | {"classes": 3},
    "bn_vae": CODERS,
    "f_vae": SQUEEZES | STEPS,
    "f_vae_general": SQUEEZES | STEPS,
    "f_vae_reduced": CODERS | {"flow_depth": 2, "flow_width": 8},
}
EXACT = ("nice", "realnvp", "glow", "noisy_flow")  # flows, whose codes give the data back
GAUSSIAN = ("vae", "cvae", "bn_vae")  # whose rate's mean over u is known
GREY, COLOUR, VECTOR = (1, 8, 12), (3, 12, 8), (5,)
TABLE = {
    "nice": ("nice", GREY, {}),
    "nice, classes": ("nice", GREY, {"classes": 3, "bits": 3}),
    "nice, vectors": ("nice", VECTOR, {"depth": 3}),
    "realnvp": ("realnvp", GREY, {}),
    "realnvp, colour, classes, odd depth": ("realnvp", COLOUR, {"classes": 2, "depth": 1}),
    "realnvp, vectors": ("realnvp", VECTOR, {}),
    "glow": ("glow", GREY, {}),
    "glow, colour, shuffled, additive, 5 bits": (
        "glow",
        COLOUR,
        {"mixing": "shuffle", "coupling": "additive", "bits": 5},
    ),
    "glow, without actnorm": ("glow", GREY, {"actnorm": False}),
    "glow, vectors, classes": ("glow", VECTOR, {"classes": 3}),
    "noisy_flow": ("noisy_flow", GREY, {}),
    "noisy_flow, realnvp, 4 bits": ("noisy_flow", GREY, {"flow": "realnvp", "depth": 1, "bits": 4}),
    "noisy_flow, nice, classes": ("noisy_flow", COLOUR, {"flow": "nice", "classes": 2}),
    "noisy_flow, vectors": ("noisy_flow", VECTOR, {}),
    "vae": ("vae", GREY, {"bits": 3}),
    "vae, colour, channels": ("vae", COLOUR, {"blocks": 2, "sigma_2_kind": "channel"}),
    "vae, classes, closed": ("vae", GREY, {"classes": 3, "sigma_2_kind": "closed", "bins": "dequantised"}),
    "vae, dequantised": ("vae", GREY, {"bins": "dequantised"}),
    "vae, vectors, fixed": ("vae", VECTOR, {"sigma_2_kind": "fixed"}),
    "cvae": ("cvae", GREY, {}),
    "cvae, vectors": ("cvae", VECTOR, {"blocks": 0}),
    "bn_vae, one-sided": ("bn_vae", GREY, {"form": "one-sided"}),
    "bn_vae, one-sided, vectors, classes": ("bn_vae", VECTOR, {"form": "one-sided", "classes": 3}),
    "bn_vae, two-sided, classes": ("bn_vae", COLOUR, {"form": "two-sided", "classes": 2}),
    "bn_vae, two-sided, vectors": ("bn_vae", VECTOR, {"tau": 0.2}),
    "f_vae": ("f_vae", GREY, {}),
    "f_vae, colour, additive, reversed, tanh": (
        "f_vae",
        COLOUR,
        {"coupling": "additive", "mixing": "reverse", "tanh": True, "hidden": 0},
    ),
    "f_vae, fixed sigma_1, 1 bit": ("f_vae", GREY, {"sigma_1": 0.3, "sigma_1_kind": "fixed", "bits": 1}),
    "f_vae, channels, classes": (
        "f_vae",
        COLOUR,
        {"sigma_1_kind": "channel", "sigma_2_kind": "channel", "sigma_2": 0.03, "sigma_2_least": 0.02, "classes": 3},
    ),
    "f_vae, network, normalised, convnext, closed": (
        "f_vae",
        GREY,
        {
            "sigma_1_kind": "network",
            "normalised": True,
            "block": "convnext",
            "sigma_2_kind": "closed",
            "bins": "dequantised",
        },
    ),
    "f_vae, vectors, channels": ("f_vae", VECTOR, {"sigma_1_kind": "channel", "sigma_2_kind": "channel"}),
    "f_vae, vectors, network, normalised, classes": (
        "f_vae",
        VECTOR,
        {"sigma_1_kind": "network", "normalised": True, "classes": 3, "sigma_2": 0.3},
    ),
    "f_vae_general": ("f_vae_general", GREY, {"depth": 1}),
    "f_vae_general, three rounds, additive, classes": (
        "f_vae_general",
        GREY,
        {"rounds": 3, "depth": 1, "coupling": "additive", "classes": 3},
    ),
    "f_vae_general, dequantised, channels, 4 bits": (
        "f_vae_general",
        COLOUR,
        {"bins": "dequantised", "sigma_2_kind": "channel", "bits": 4, "depth": 1},
    ),
    "f_vae_general, vectors": ("f_vae_general", VECTOR, {}),
    "f_vae_reduced": ("f_vae_reduced", GREY, {}),
    "f_vae_reduced, normalised, fixed, classes": (
        "f_vae_reduced",
        COLOUR,
        {"normalised": True, "sigma_1": 0.4, "sigma_1_kind": "fixed", "classes": 3},
    ),
    "f_vae_reduced, vectors, network, closed": (
        "f_vae_reduced",
        VECTOR,
        {"latent": 3, "sigma_1_kind": "network", "sigma_2_kind": "closed"},
    ),
}


def every(kept=lambda name, shape, extra: True) -> pytest.MarkDecorator:
    rows = {key: row for key, row in TABLE.items() if kept(*row)}
    return pytest.mark.parametrize(("name", "shape", "extra"), rows.values(), ids=rows.keys())


every_recipe = every()
every_image = every(lambda name, shape, extra: len(shape) == 3)
every_flow = every(lambda name, shape, extra: name in EXACT)
every_class = every(lambda name, shape, extra: name == "cvae" or extra.get("classes", 0) > 0)


def make(name: str, shape: tuple, extra: dict) -> LatentModel:
    return flat(name)(shape, **(SMALL[name] | extra))


def moved(name: str, shape: tuple, extra: dict, amount: float = 0.05) -> LatentModel:
    """Made, fitted to the scale of some data, and perturbed."""
    model = make(name, shape, extra)
    if len(shape) == 1:
        model.preprocess.fit(data(model, 200))
    return perturb(model, amount)


def data(model: LatentModel, n: int = 6) -> torch.Tensor:
    """Images: smooth waves with a little noise, in the model's bins. Vectors: a bent line, in several units."""
    if len(model.shape) == 1:
        t = torch.randn(n, 1)
        i = torch.arange(model.shape[0])
        return 7 - 3 * i + 2.0 ** (i - 2) * (torch.sin(t * (i + 1) / 2) + 0.1 * torch.randn(n, len(i)))
    top = 2 ** model.config["settings"]["bits"] - 1
    c, h, w = model.shape
    rows, columns = torch.arange(h) / h, torch.arange(w) / w
    a, b, phase = torch.rand(3, n, 1, 1, 1)
    wave = torch.sin(2 * math.pi * (a * rows[:, None] + b * columns + phase)) + 0.1 * torch.randn(n, c, h, w)
    return ((wave + 1.3) / 2.6 * (top + 1)).floor().clamp(0, top)


def batch(model: LatentModel, n: int = 6) -> dict[str, torch.Tensor | None]:
    """Data, labels where the model takes them, and noise."""
    return {"x": data(model, n), "y": model.draw_labels(n), "u": model.noise(n)}


def both(model: LatentModel, x, y, u) -> list[Terms]:
    """The terms in training and in evaluation, which is how the model is left."""
    return [model.train()(x, y, u), model.eval()(x, y, u)]


def has_statistics(model: LatentModel) -> bool:
    return any(isinstance(m, RunningStatistic) for m in model.modules())


def test_the_table_has_every_recipe():
    """Each recipe has rows here, of images and of vectors, and with classes where it takes them."""
    assert {name for name, _, _ in TABLE.values()} == set(SEEN) == set(SMALL)
    for recipe in SEEN:
        rows = [(len(shape), extra) for name, shape, extra in TABLE.values() if name == recipe]
        assert {sides for sides, _ in rows} == {1, 3}, recipe
        takes_classes = "classes" in inspect.signature(RECIPES[recipe]).parameters
        assert recipe == "cvae" or takes_classes == any("classes" in extra for _, extra in rows), recipe


@every_recipe
def test_thirty_steps_lower_the_loss(name, shape, extra):
    """After initialize and 30 steps of Adam with a warm-up a batch's loss is lower by 0.1 nats a dimension or more.

    In training; and in evaluation, with the batch's statistics, the same.
    """
    model = make(name, shape, extra)
    x, y, u = batch(model, 16).values()
    initialize(model, x, y)
    before = model(x, y, u).loss().item()
    optimiser = torch.optim.Adam(parameter_groups(model, 5e-3, 0.0))
    warmup = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: min(1.0, (t + 1) / 20))
    for _ in range(30):
        loss = model(x, y).loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        warmup.step()
    after = model(x, y, u).loss().item()
    assert math.isfinite(after) and after < before - 0.1 * math.prod(shape)
    fit_statistics(model, [(x, y)])
    assert model.eval()(x, y, u).loss().item() == pytest.approx(after, abs=0.05 * math.prod(shape))


@every_recipe
def test_terms_have_a_value_a_sample(name, shape, extra):
    """Four terms of shape (B,) in float32, finite, and a scalar loss that is their mean."""
    model = moved(name, shape, extra)
    for terms in both(model, **batch(model)):
        for term in terms[:4]:
            assert term.shape == (6,) and term.dtype == torch.float32 and term.isfinite().all()
        torch.testing.assert_close(terms.loss(), (terms.rate + terms.distortion).mean())
        assert terms.loss().shape == ()


@every_recipe
@torch.no_grad()
def test_training_is_evaluation_where_there_are_no_statistics(name, shape, extra):
    """Terms in evaluation are those in training, but of models with statistics; those change in training alone.

    The first batch's are kept whole, so that after it evaluation gives what training gave.
    """
    model = moved(name, shape, extra)
    state = {key: a.clone() for key, a in model.state_dict().items()}
    x, y, u = batch(model).values()
    unseen = model.eval()(x, y, u)
    model.decode(model.encode(x, y), y)
    assert all(torch.equal(a, state[key]) for key, a in model.state_dict().items())
    training, evaluation = both(model, x, y, u)
    changed = [key for key, a in model.state_dict().items() if not torch.equal(a, state[key])]
    assert bool(changed) == has_statistics(model) and all("running" in key for key in changed)
    assert torch.equal(unseen.loss(), training.loss()) != has_statistics(model)
    torch.testing.assert_close(evaluation, training, rtol=1e-4, atol=1e-3)


@every_recipe
@torch.no_grad()
def test_shapes_of_codes_and_samples(name, shape, extra):
    """Codes are flat and as many as the latent's values; what is decoded and sampled has the data's shape."""
    model = moved(name, shape, extra).eval()
    x, y, _ = batch(model).values()
    e = model.encode(x, y)
    assert e.shape == (6, math.prod(model.latent))
    assert model.decode(e, y).shape == x.shape
    assert torch.equal(model.encode(x, y), e)
    samples = model.sample(5, model.draw_labels(5), temperature=0.7)
    assert samples.shape == (5, *shape) and samples.isfinite().all()
    assert model.sample(1, model.draw_labels(1)).shape == (1, *shape)


@every_recipe
@torch.no_grad()
def test_codes_are_recovered_through_the_prior(name, shape, extra):
    """The prior's inverse undoes it, so that a code means one z, under the label where there is one."""
    model = moved(name, shape, extra).double().eval()
    x, y, _ = batch(model).values()
    e = model.encode(x.double(), y)
    torch.testing.assert_close(model.prior(model.prior.inverse(e, y), y)[0], e, rtol=1e-8, atol=1e-8)


@every_flow
@torch.no_grad()
def test_flows_are_exact_in_both_directions(name, shape, extra):
    """A flow's code gives the data back, and what is decoded gives its code."""
    model = moved(name, shape, extra, 0.1).double()
    x, y, _ = batch(model).values()
    torch.testing.assert_close(model.decode(model.encode(x.double(), y), y), x.double(), rtol=0, atol=1e-7)
    e = torch.randn(6, math.prod(shape), dtype=torch.float64)
    torch.testing.assert_close(model.encode(model.decode(e, y), y), e, rtol=1e-8, atol=1e-7)


@every_image
@torch.no_grad()
def test_bytes_and_floats_are_the_same_images(name, shape, extra):
    """uint8 in gives what float in gives."""
    model = moved(name, shape, extra)
    x, y, u = batch(model).values()
    for some, same in zip(both(model, x.byte(), y, u), both(model, x, y, u), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(some[:4], same[:4], strict=True))
    assert torch.equal(model.encode(x.byte(), y), model.encode(x, y))


@every_recipe
def test_every_parameter_gets_a_gradient(name, shape, extra):
    """One step back reaches every parameter, with a finite gradient; in evaluation it is not all zero.

    In training a constant that batch normalization takes away again has none.
    """
    model = moved(name, shape, extra)
    given = batch(model)
    for training in (True, False):
        model.train(training).zero_grad()
        model(**given).loss().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any() or (training and has_statistics(model)), parameter_name


@every_recipe
@torch.no_grad()
def test_config_and_weights_are_all_of_a_model(name, shape, extra):
    """model.config rebuilds the model, whatever the seed, once its weights are loaded."""
    model = moved(name, shape, extra)
    x, y, u = batch(model).values()
    model(x, y, u)  # some statistics
    torch.manual_seed(99)
    config = model.config
    again = RECIPES[config["recipe"]](config["shape"], **config["settings"])
    assert again.config == config
    again.load_state_dict(model.state_dict())
    for one, other in zip(both(model, x, y, u), both(again, x, y, u), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
    e = torch.randn(6, math.prod(model.latent))
    assert torch.equal(model.decode(e, y), again.decode(e, y))


@every_recipe
def test_config_is_plain(name, shape, extra):
    """The config names each setting of the recipe and holds only what JSON holds."""
    config = make(name, shape, extra).config
    assert json.loads(json.dumps(config)) == config
    assert config["recipe"] == name and config["shape"] == list(shape)
    assert list(config["settings"]) == list(inspect.signature(RECIPES[name]).parameters)[1:]
    for key, part in config["settings"].items():
        given = renamed(name, SMALL[name] | extra).get(key, {})
        if isinstance(part, dict):
            choice = RECIPES[name].settings.model_fields[key].annotation.choices()[part["kind"]]
            assert list(part) == ["kind", *choice.model_fields] and given.items() <= part.items()
        else:
            assert given in ({}, part)


@every_recipe
@torch.no_grad()
def test_float64(name, shape, extra):
    """In double precision all terms are double, near those of single precision."""
    model = moved(name, shape, extra)
    x, y, u = batch(model).values()
    single = both(model, x, y, u)
    for few, many in zip(single, both(model.double(), x.double(), y, u.double()), strict=True):
        for a, b in zip(few[:4], many[:4], strict=True):
            assert b.dtype == torch.float64
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-2)
    assert model.sample(2, model.draw_labels(2)).dtype == torch.float64


@every_recipe
def test_the_objective_is_one_graph(name, shape, extra):
    """torch.compile takes the whole model, terms, statistics and drawn noise, as one graph."""
    shallow = {"depth": 1, "levels": 1, "flow_depth": 1, "rounds": 2, "blocks": int("block" in extra)}
    shallow = {key: value for key, value in shallow.items() if key in SMALL[name] | extra}
    model = moved(name, shape, extra | shallow)
    x, y, _ = batch(model).values()
    model.train(name != "f_vae_reduced")  # which shows evaluation for all
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    found = compiled(x, y)
    torch.manual_seed(1)
    torch.testing.assert_close(found, model(x, y))
    found.loss().backward()


@every_recipe
@torch.no_grad()
def test_autocast_keeps_terms_in_float32(name, shape, extra):
    """Under bfloat16 autocast the terms are float32, finite and near the plain ones."""
    model = moved(name, shape, extra, 0.02)
    given = batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        cast = both(model, **given)
    for terms, plain in zip(cast, both(model, **given), strict=True):
        assert all(term.dtype == torch.float32 and term.isfinite().all() for term in terms[:4])
        torch.testing.assert_close(terms.loss(), plain.loss(), rtol=0.05, atol=0.02 * math.prod(shape))


@every_recipe
@torch.no_grad()
def test_closed_form_and_sampled_terms_agree_in_mean(name, shape, extra):
    """Over many u the rate with ``sampled`` and without have the same mean; only a VAE's is known without u."""
    model = moved(name, shape, extra, 0.02).eval()
    x, y, u = data(model, 1).expand(1000, *shape), model.draw_labels(1), model.noise(1000)
    y = None if y is None else y.expand(1000)
    plain, sampled = model(x, y, u), model(x, y, u, sampled=True)
    assert torch.equal(plain.log_x, sampled.log_x) and torch.equal(plain.log_det, sampled.log_det)
    assert (plain.kl is not None) == (name in GAUSSIAN)
    if plain.kl is not None:
        error = sampled.rate.std() / math.sqrt(len(x))
        assert (sampled.rate.mean() - plain.rate.mean()).abs() < 5 * error
        assert plain.rate.std() < 1e-4 * sampled.rate.std()
    else:
        assert torch.equal(plain.rate, sampled.rate)
        assert (plain.rate.std() > 1e-4) == (model.noise_shape != (0,))  # a flow of vectors takes no noise


@every_recipe
@torch.no_grad()
def test_generators_repeat_noise(name, shape, extra):
    """The same generator gives the same samples, another seed others."""
    model = moved(name, shape, extra, 0.02).eval()
    y = torch.tensor([0, 1]) if model.classes else None
    first, again, other = (model.sample(2, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@every_class
@torch.no_grad()
def test_labels_matter_where_the_prior_has_classes(name, shape, extra):
    """Another label is another prior, to which what bn_vae normalizes is relative; a missing one is an error."""
    model = moved(name, shape, extra, 0.2).eval()
    x, u, e = data(model), model.noise(6), torch.randn(6, math.prod(model.latent))
    zero, one = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    a, b = model(x, zero, u), model(x, one, u)
    assert model.classes == model.config["settings"]["classes"]
    relative = name == "bn_vae"
    assert torch.allclose(a.rate, b.rate, atol=1e-4) == relative
    assert torch.equal(a.log_x, b.log_x) != relative
    assert torch.allclose(model.encode(x, zero), model.encode(x, one), atol=1e-5) == relative
    assert not torch.allclose(model.decode(e, zero), model.decode(e, one))
    for call in (lambda: model(x, u=u), lambda: model.encode(x), lambda: model.decode(e), lambda: model.sample(2)):
        with pytest.raises(ValueError, match=rf"y: expected labels 0 \.\. {model.classes - 1}, found none"):
            call()


@every(lambda name, shape, extra: name != "cvae" and not extra.get("classes"))
def test_labels_are_refused_where_the_prior_has_no_classes(name, shape, extra):
    """No recipe without classes takes labels in silence."""
    model = make(name, shape, extra)
    x, e, y = data(model), model.codes(6), torch.zeros(6, dtype=torch.long)
    for call in (
        lambda: model(x, y),
        lambda: model.encode(x, y),
        lambda: model.decode(e, y),
        lambda: model.sample(6, y),
    ):
        with pytest.raises(ValueError, match="y: expected no labels: this model was made without classes"):
            call()


@every_recipe
def test_drawn_labels_are_those_of_the_prior(name, shape, extra):
    """draw_labels draws evenly from the labels that the prior knows, and gives None where it knows none."""
    model = make(name, shape, extra)
    y = model.draw_labels(50, torch.Generator().manual_seed(0))
    assert model.classes == model.config["settings"].get("classes", 0)
    assert y is None if not model.classes else set(y.tolist()) == set(range(model.classes))


# What settings do


@pytest.mark.parametrize("bits", range(1, 8))
@torch.no_grad()
def test_fewer_bits_cost_fewer_bits(bits):
    """An untrained glow of uniform bins costs bits log 2 a dimension and what its code costs, whatever the bits."""
    models = {b: make("glow", GREY, {"bits": b}) for b in (bits, 8)}
    u = models[8].noise(4)
    x = torch.randint(2**bits, (4, *GREY)).float()
    models[8].load_state_dict(models[bits].state_dict())
    few, eight = (m(x * 2 ** (8 - b), u=u) for b, m in ((bits, models[bits]), (8, models[8])))
    difference = (eight.log_u - eight.log_det) - (few.log_u - few.log_det)
    torch.testing.assert_close(difference, torch.full((4,), 96 * (8 - bits) * math.log(2)), rtol=1e-4, atol=0)
    assert models[bits].decode(models[bits].encode(x)).round().equal(x)


@pytest.mark.parametrize(("mixing", "kind"), [("conv", InvertibleConv), ("shuffle", Permute), ("reverse", Permute)])
@pytest.mark.parametrize("name", ["glow", "f_vae"])
def test_mixing_and_coupling_are_what_is_asked_for(name, mixing, kind):
    """As many mixing layers of the kind as steps; every coupling is of the transform."""
    for coupling in ("affine", "additive"):
        model = make(name, GREY, {"mixing": mixing, "coupling": coupling})
        modules = list(model.prior.modules())
        assert sum(isinstance(m, kind) for m in modules) == 4
        additive = [isinstance(m.transform, Additive) for m in modules if isinstance(m, Coupling)]
        assert additive == 4 * [coupling == "additive"]
        orders = [m.order for m in modules if isinstance(m, Permute)]
        assert all((order.diff() == -1).all() for order in orders) == (mixing != "shuffle")


@pytest.mark.parametrize("kind", ["scalar", "channel", "network", "fixed"])
@pytest.mark.parametrize("name", ["f_vae", "f_vae_reduced"])
def test_sigma_1_is_of_the_kind_asked_for(name, kind):
    """It starts as given, one or one a channel, in the weights; a fixed one is not trained, a network's is of x."""
    model = make(name, GREY, {"sigma_1": 0.3, "sigma_1_kind": kind})
    (conditioner, x), d = (model.posterior.conditioner, data(model)), math.prod(model.latent)
    torch.testing.assert_close(model(x).log_det, torch.full((6,), d * math.log(0.3)))
    perturb(model)
    if kind == "network":
        assert conditioner(x)[1].shape == (6, *model.latent) and conditioner(x)[1].std(0).min() > 0
    else:
        log_std, trained = conditioner.log_std, kind != "fixed"
        assert log_std.shape == (by_channel(model.latent) if kind == "channel" else ())
        assert ("log_std" in dict(conditioner.named_parameters())) == trained and "log_std" in conditioner.state_dict()
        assert torch.allclose(log_std, torch.tensor(0.3).log(), atol=1e-6) != trained


@pytest.mark.parametrize("kind", ["scalar", "channel", "optimal", "fixed"])
@pytest.mark.parametrize("name", ["vae", "cvae", "bn_vae", "f_vae", "f_vae_general", "f_vae_reduced"])
@pytest.mark.parametrize("shape", [COLOUR, VECTOR], ids=["images", "vectors"])
def test_sigma_2_is_of_the_kind_asked_for(name, kind, shape):
    """It starts as given, one or one a channel, in the weights; a fixed or optimal one is no parameter."""
    likelihood = "density" if kind == "optimal" else "discretized"
    model = make(name, shape, {"sigma_2": 0.3, "sigma_2_kind": kind, "bins": likelihood})
    conditioner = model.decoder.conditioner
    before = conditioner.metrics()["sigma_2"].item()
    assert before == pytest.approx(0.3)
    assert conditioner.log_std.shape == (by_channel(shape) if kind == "channel" else ())
    assert ("log_std" in dict(conditioner.named_parameters())) == (kind in ("scalar", "channel"))
    model(**batch(model))
    assert (conditioner.metrics()["sigma_2"].item() == before) == (kind != "optimal")


def test_the_learning_rates_scale_is_that_of_sigmas_alone():
    """``lr_scale`` of posterior and decoder is on sigma_1 and sigma_2, for the optimizer to find."""
    model = make("f_vae", GREY, {"posterior": {"lr_scale": 7.0}, "decoder": {"lr_scale": 5.0}, "mixing": "shuffle"})
    scales = [(type(m), m.lr_scale) for m in model.modules() if hasattr(m, "lr_scale")]
    assert scales == [(SharedStd, 7.0), (SharedStd, 5.0)]


@torch.no_grad()
def test_normalized_means_have_deviation_one():
    """With ``normalize`` E(x) has mean 0 and deviation 1 by channel in training, in images and in vectors."""
    for name, shape in [("f_vae", COLOUR), ("f_vae", VECTOR), ("f_vae_reduced", GREY), ("f_vae_reduced", VECTOR)]:
        model = moved(name, shape, {"normalised": True})
        x = data(model, 8)
        mean, _ = model.posterior.conditioner(model.preprocess(x)[0])
        a = mean.transpose(0, 1).flatten(1)
        torch.testing.assert_close(a.mean(1), torch.zeros(len(a)), rtol=0, atol=1e-4)
        torch.testing.assert_close(a.std(1, correction=0), torch.ones(len(a)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("block", "kind"), [("residual", Residual), ("convnext", ConvNeXt)])
def test_blocks_are_those_asked_for(block, kind):
    """E and G are made of the blocks named: as many as asked for, after each squeeze and before each unsqueeze."""
    model = make("f_vae", GREY, {"block": block, "blocks": 3, "squeezes": 2, "levels": 1})
    assert sum(isinstance(m, kind) for m in model.modules()) == 12


@torch.no_grad()
def test_realnvp_takes_turns_and_nice_interleaves():
    """realnvp's checkerboards change color; of nice's couplings the first keeps even places, the second odd ones."""
    colors = [m.color for m in make("realnvp", GREY, {"levels": 1, "depth": 4}).modules() if type(m) is Checkerboard]
    assert colors == [0, 1, 0, 1]
    x = torch.randn(4, 5)
    for depth, places, kept in [(1, slice(2, None), slice(0, None, 2)), (2, slice(3, None), slice(1, None, 2))]:
        model = make("nice", VECTOR, {"depth": depth})
        perturb(model.prior.flows[2 * depth])  # the last coupling
        code = model.encode(x)
        assert torch.equal(code[:, places], x[:, kept]) and not torch.isin(code[:, : places.start], x).any()


@pytest.mark.parametrize("shape", [GREY, (4,)])
@pytest.mark.parametrize("seed", range(6))
def test_realnvp_leaves_no_channel_alone(shape, seed):
    """Whatever the shuffles are, two couplings in a row change all channels of a scale: four after the squeeze."""
    torch.manual_seed(seed)
    order, changed = torch.arange(4), set()
    for m in make("realnvp", shape, {"depth": 2}).modules():
        if isinstance(m, Permute) and len(m.order) == 4:
            order = order[m.order]
        elif type(m) is Coupling and len(changed) < 4:
            changed |= set(order[m.keep :].tolist())
    assert changed == {0, 1, 2, 3}


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_each_round_is_a_flow_and_a_condition_more(rounds):
    """n rounds have n conditional maps in the posterior and n - 1 flows between them; the n-th is the prior's."""
    model = make("f_vae_general", GREY, {"rounds": rounds})
    kinds = [type(flow).__name__ for flow in model.posterior.flows]
    assert kinds == ["Elementwise", *["Chain", "Elementwise"] * (rounds - 1)]


@torch.no_grad()
def test_tanh_bounds_the_decoder():
    """With tanh decoded images stay in the range of the bins; without they may leave it."""
    bounded, free = (perturb(make("f_vae", GREY, {"tanh": v, "bins": "dequantised"}), 0.3) for v in (True, False))
    e = 5 * torch.randn(4, 96)
    images = bounded.decode(e)
    assert images.min() >= -0.5 and images.max() <= 255.5
    assert free.decode(e).abs().max() > 300


@pytest.mark.parametrize(
    ("name", "extra"),
    [("f_vae", {}), ("f_vae", {"block": "convnext"}), ("f_vae_general", {"rounds": 3})],
    ids=["", "convnext", "rounds"],
)
@torch.no_grad()
def test_an_untrained_f_vae_is_a_squeeze(name, extra):
    """E, G and the flows' couplings start as the identity: with a small sigma_1 decode(encode(x)) is x."""
    model = make(name, COLOUR, extra)
    x = data(model)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=0.05)
    z, _ = model.posterior(torch.zeros(6, *model.latent), x)
    torch.testing.assert_close(total(z.square()), total(((x + 0.5) / 128 - 1).square()))


def test_the_published_size():
    """The author's configuration for 128 x 128 RGB has the 95.8 million parameters that he gives."""
    with torch.device("meta"):
        model = RECIPES["f_vae"](
            (3, 128, 128),
            coder=Squeezing(squeezes=3, blocks=12, hidden=0),
            posterior=Noise(sigma=0.1),
            flow=Glow(levels=4, depth=12, width=256, mixing="shuffle", coupling="additive"),
        )
    assert model.latent == (192, 16, 16)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.8, abs=0.05)


# What is refused


NUMBER = "input should be a valid integer, found "
SHAPE = r"shape: expected \(channels, height, width\) or \(columns,\), found "
WRONG = [  # the message follows the recipe's name
    (GREY, {"breadth": 3}, "breadth: no such setting; the settings are .*bits$"),
    (GREY, {"flow": {"breadth": 3}}, "flow.breadth: no such setting$"),
    (GREY, {"flow": {"levels": "two"}}, f"flow.levels: {NUMBER}'two'$"),
    (GREY, {"flow": {"levels": 1.5}}, f"flow.levels: {NUMBER}1.5$"),
    (GREY, {"flow": {"levels": True}}, f"flow.levels: {NUMBER}True$"),
    (GREY, {"flow": {"levels": None}}, f"flow.levels: {NUMBER}None$"),
    (GREY, {"flow": {"levels": 0}}, "flow.levels: input should be greater than or equal to 1, found 0$"),
    (GREY, {"coder": {"levels": 0}}, "coder.levels: input should be greater than or equal to 1, found 0$"),
    (GREY, {"flow": {"width": -8}}, "flow.width: input should be greater than or equal to 1, found -8$"),
    (GREY, {"coder": {"width": -8}}, "coder.width: input should be greater than or equal to 1, found -8$"),
    (GREY, {"bits": 0}, "bits: input should be greater than or equal to 1, found 0$"),
    (GREY, {"bits": 9}, "bits: input should be less than or equal to 8, found 9$"),
    (GREY, {"flow": {"depth": -1}}, "flow.depth: input should be greater than or equal to 1, found -1$"),
    (GREY, {"flow": {"mixing": "stir"}}, "flow.mixing: input should be 'conv', 'shuffle' or 'reverse', found 'stir'$"),
    (GREY, {"flow": {"coupling": 3}}, "flow.coupling: input should be 'affine' or 'additive', found 3$"),
    (GREY, {"classes": -1}, "classes: input should be greater than or equal to [01], found -1$"),
    (GREY, {"classes": 2.0}, f"classes: {NUMBER}2.0$"),
    (GREY, {"coder": {"size": 0}}, "coder.size: input should be greater than or equal to 1, found 0$"),
    (GREY, {"coder": {"blocks": -1}}, "coder.blocks: input should be greater than or equal to 0, found -1$"),
    (GREY, {"rounds": 0}, "rounds: input should be greater than or equal to 1, found 0$"),
    (GREY, {"flow": {"kind": "planar"}}, "flow: expected one of none, glow, realnvp, nice, found planar$"),
    (GREY, {"sigma": 0.0}, "sigma: input should be greater than 0, found 0.0$"),
    (GREY, {"posterior": {"sigma": "small"}}, "posterior.sigma: input should be a valid number, found 'small'$"),
    (GREY, {"posterior": {"sigma": 0.0}}, "posterior.sigma: input should be greater than 0, found 0.0$"),
    (GREY, {"posterior": {"sigma": math.nan}}, "posterior.sigma: input should be a finite number, found nan$"),
    (GREY, {"posterior": {"sigma": math.inf}}, "posterior.sigma: input should be a finite number, found inf$"),
    (
        GREY,
        {"posterior": {"std": "trained"}},
        "posterior.std: input should be 'scalar', 'channel', 'network' or 'fixed', found 'trained'$",
    ),
    (GREY, {"posterior": {"normalize": 1}}, "posterior.normalize: input should be a valid boolean, found 1$"),
    (GREY, {"decoder": {"sigma": -0.1}}, "decoder.sigma: input should be greater than 0, found -0.1$"),
    (
        GREY,
        {"decoder": {"std": "network"}},
        "decoder.std: input should be 'scalar', 'channel', 'optimal' or 'fixed', found 'network'$",
    ),
    (GREY, {"decoder": {"least": -0.1}}, "decoder.least: input should be greater than or equal to 0, found -0.1$"),
    (GREY, {"decoder": {"least": 0.1, "sigma": 0.1}}, "decoder: least: expected less than sigma, 0.1, found 0.1$"),
    (
        GREY,
        {"decoder": {"likelihood": "counted"}},
        "decoder.likelihood: input should be 'discretized' or 'density', found 'counted'$",
    ),
    (
        (1, 8, 8),
        {"decoder": {"likelihood": "discretized", "std": "optimal"}},
        "decoder.std optimal: expected decoder.likelihood density, found discretized$",
    ),
    (GREY, {"coder": {"tanh": 1}}, "coder.tanh: input should be a valid boolean, found 1$"),
    (GREY, {"coder": {"block": "dense"}}, "coder.block: input should be 'residual' or 'convnext', found 'dense'$"),
    (
        GREY,
        {"posterior": {"kind": "three-sided"}},
        "posterior: expected one of gaussian, one-sided, two-sided, noise, found three-sided$",
    ),
    (
        GREY,
        {"posterior": {"kind": "one-sided", "gamma": 0.0}},
        "posterior.gamma: input should be greater than 0, found 0.0$",
    ),
    (GREY, {"posterior": {"tau": 0.0}}, "posterior.tau: input should be greater than 0, found 0.0$"),
    (GREY, {"posterior": {"tau": 1.0}}, "posterior.tau: input should be less than 1, found 1.0$"),
    ((1, 8), {}, SHAPE + r"\(1, 8\): text needs a text recipe, as text_vae$"),
    ((1, 8, 8, 8), {}, SHAPE + r"\(1, 8, 8, 8\)$"),
    ((1, 8, 0), {}, "shape.2: input should be greater than or equal to 1, found 0$"),
    ((1, 8, 8.0), {}, f"shape.2: {NUMBER}8.0$"),
    ((0,), {}, "shape.0: input should be greater than or equal to 1, found 0$"),
    ((), {}, SHAPE + r"\(\)$"),
    *(
        (shape, {part: {"levels": levels}}, f".*{part}.levels {levels}: expected height and width that {message}")
        for part in ("flow", "coder")
        for shape, levels, message in [
            ((3, 20, 18), 2, "4 divides, found 20x18: .*size 20$"),
            ((3, 4, 30), 3, "8 divides, found 4x30: .*--data.size 32$"),
        ]
    ),
]


def knows(name: str, settings: dict, shape: tuple) -> bool:
    """Whether a recipe uses these settings, of parts of the kind that is given or of its own; "breadth" is for all."""
    if name == "f_vae_reduced" and "flow" in settings and shape != GREY:
        return False  # its flow is of vectors, which have no sides
    fields = RECIPES[name].settings.model_fields
    for key, values in settings.items():
        if key not in fields:
            return key == "breadth"
        if isinstance(values, dict) and "breadth" not in values:
            choices, kind = fields[key].annotation.choices(), values.get("kind", fields[key].default.kind)
            if kind in choices and not values.keys() <= {"kind", *choices[kind].model_fields}:
                return False
    return True


@pytest.mark.parametrize(
    ("name", "shape", "settings", "message"),
    [(name, *row) for name in SEEN for row in WRONG if knows(name, row[1], row[0])],
)
def test_wrong_settings_are_refused_by_name(name, shape, settings, message):
    """A UserError states what was expected and what was found, in one line."""
    with pytest.raises(UserError, match=f"^{name}: {message}") as error:
        RECIPES[name](shape, **settings)
    assert "\n" not in str(error.value)


def test_every_wrong_setting_is_one_of_some_recipe():
    """No row of the table above is a dead letter."""
    assert all(any(knows(name, settings, shape) for name in SEEN) for shape, settings, _ in WRONG)


@pytest.mark.parametrize("name", ["nice", "realnvp", "glow", "noisy_flow", "f_vae", "f_vae_general"])
def test_vectors_of_one_column_have_no_halves(name):
    """What couples the halves of data refuses one column, by its own name; a latent of one is refused as such."""
    with pytest.raises(UserError, match=f"^{name}: shape: expected 2 columns or more for a flow, found 1$"):
        RECIPES[name]((1,))
    with pytest.raises(UserError, match=r"^f_vae_reduced: coder.size: expected 2 or more for a flow, found 1$"):
        RECIPES["f_vae_reduced"]((4,), coder={"size": 1})
    assert RECIPES["vae"]((1,), coder={"size": 1})(torch.randn(3, 1)).loss().isfinite()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source_and_explains_its_settings(name):
    """The first line ends in authors and year; each setting, of each kind of a part, has its line."""
    assert re.search(r"\([A-Z][\w& .,:;-]*, (19|20)\d\d[^()]*\)\.$", RECIPES[name].__doc__.split("\n")[0])
    for setting in RECIPES[name].settings.model_fields.values():
        parts = setting.annotation.choices().values() if is_part(setting.annotation) else []
        assert setting.description or (all(part.__doc__ for part in parts) and parts)
        assert all(field.description for part in parts for field in part.model_fields.values())


def test_sizes_count_squeezes_and_levels():
    """f_vae halves a side squeezes + levels - 1 times; the message's size is one that works."""
    with pytest.raises(UserError, match=r"that 16 divides, found 24x24.*--data.size 32"):
        flat("f_vae")((1, 24, 24), squeezes=2, levels=3)
    flat("f_vae")((1, 32, 32), squeezes=2, levels=3, blocks=0, depth=1, width=4)


COMPILED = [  # a graph takes half a minute: in CI that of the largest recipe alone
    pytest.param(name, marks=[pytest.mark.slow] if name == "f_vae" else [pytest.mark.slow, pytest.mark.long])
    for name in SEEN
]


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # Inductor's lowering warns of torch's own older names
def test_recipes_compile_for_real(name):
    """Inductor's code gives the terms of the plain model, and the gradient of every parameter."""
    torch._dynamo.reset()  # of the shapes of other tests
    model = moved(name, (1, 8, 8), {key: 1 for key in ("depth", "flow_depth") if key in SMALL[name]})
    given, found = batch(model, 4), []
    for call in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        terms = call(**given)
        terms.loss().backward()
        found.append((terms, [p.grad for p in model.parameters()]))
    (plain, gradients), (compiled, others) = found
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    for (key, _), a, b in zip(model.named_parameters(), others, gradients, strict=True):
        assert (a - b).norm() < 1e-3 * b.norm() + 1e-4, key  # measured: 1e-4, as far as float32 is from float64
