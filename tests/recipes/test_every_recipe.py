"""Every recipe trains, samples, is rebuilt and compiles, at a small size, of images and of vectors."""

import copy
import inspect
import json
import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SEEN
from recipe_table import EXACT, GAUSSIAN, SMALL, TABLE, Row, batch, both, data, every, every_recipe, has_statistics

from fvae import recipes
from fvae.data import Samples
from fvae.decoders import ConditionalLatent
from fvae.metrics import bounds
from fvae.recipes import RECIPES
from fvae.statistics import fit_statistics, initialize
from fvae.training.optimization import parameter_groups


def test_the_table_has_every_recipe():
    """Each recipe is exported, and has rows of images and of vectors, and with classes where it takes them."""
    assert RECIPES.items() <= vars(recipes).items() and set(SMALL) == set(SEEN)
    for recipe in SEEN:
        rows = [row for row in TABLE if row.recipe == recipe]
        takes_classes = recipe != "cvae" and "classes" in RECIPES[recipe].settings.model_fields
        assert {len(row.shape) for row in rows} == {1, 3}, recipe
        assert any("classes" in row.extra for row in rows) == takes_classes, recipe


# Training


@every_recipe
def test_thirty_steps_lower_the_loss(row):
    """After initialize and 30 steps of Adam with a warm-up a batch's loss is lower by 0.1 nats a dimension or more.

    In training; and in evaluation, with the batch's statistics, the same.
    """
    model = row.make()
    x, y, u = batch(model, 16)
    initialize(model, x, y)
    before = model(x, y, u).loss().item()
    optimizer = torch.optim.Adam(parameter_groups(model, 5e-3, 0.0))
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 20))
    for _ in range(30):
        optimizer.zero_grad()
        model(x, y).loss().backward()
        optimizer.step()
        warmup.step()
    after = model(x, y, u).loss().item()
    assert math.isfinite(after) and after < before - 0.1 * math.prod(row.shape)
    fit_statistics(model, [(x, y)])
    assert model.eval()(x, y, u).loss().item() == pytest.approx(after, abs=0.05 * math.prod(row.shape))


@every_recipe
def test_every_parameter_gets_a_gradient(row):
    """One step back reaches every parameter, with a finite gradient; in evaluation it is not all zero.

    In training a constant that batch normalization takes away again has none.
    """
    model, *given = row.ready()
    for training in (True, False):
        model.train(training).zero_grad()
        model(*given).loss().backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            assert parameter.grad.any() or (training and has_statistics(model)), parameter_name


# The terms


@every_recipe
@torch.no_grad()
def test_terms_in_training_and_in_evaluation(row):
    """Four terms of shape (B,) in float32, finite, whose mean is the loss, and which uint8 images leave as they are.

    In evaluation they are those in training, but of models with statistics; those change in training alone. The first
    batch's are kept whole, so that after it evaluation gives what training gave.
    """
    model, x, y, u = row.ready()
    state = copy.deepcopy(model.state_dict())
    unseen = model.eval()(x, y, u)
    model.decode(model.encode(x, y), y)
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    training, evaluation = both(model, x, y, u)
    changed = [key for key, a in model.state_dict().items() if not torch.equal(a, state[key])]
    assert bool(changed) == has_statistics(model) and all("running" in key for key in changed)
    assert torch.equal(unseen.loss(), training.loss()) != has_statistics(model)
    torch.testing.assert_close(evaluation, training, rtol=1e-4, atol=1e-3)
    for terms in (training, evaluation):
        assert all(t.shape == (6,) and t.dtype == torch.float32 and t.isfinite().all() for t in terms[:4])
        torch.testing.assert_close(terms.loss(), (terms.rate + terms.distortion).mean())
    if len(row.shape) == 3:
        torch.testing.assert_close(both(model, x.byte(), y, u), [training, evaluation], rtol=0, atol=0)
        assert torch.equal(model.encode(x.byte(), y), model.encode(x, y))


@every_recipe
@torch.no_grad()
def test_double_precision_and_autocast(row):
    """In double precision all terms are double, under bfloat16 autocast single; both near those of single precision."""
    model, x, y, u = row.ready(0.02)
    single, double = both(model, x, y, u), copy.deepcopy(model).double()
    for a, b in zip(single, both(double, x.double(), y, u.double()), strict=True):
        assert all(term.dtype == torch.float64 for term in b[:4])
        torch.testing.assert_close([term.double() for term in a[:4]], list(b[:4]), rtol=1e-4, atol=1e-2)
    assert double.sample(2, model.draw_labels(2)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        cast = both(model, x, y, u)
    for a, b in zip(single, cast, strict=True):
        assert all(term.dtype == torch.float32 and term.isfinite().all() for term in b[:4])
        torch.testing.assert_close(b.loss(), a.loss(), rtol=0.05, atol=0.02 * math.prod(row.shape))


@every_recipe
@torch.no_grad()
def test_closed_form_and_sampled_terms_agree_in_mean(row):
    """Over many u the rate with ``sampled`` and without have the same mean; only a VAE's is known without u."""
    model = row.moved(0.02).eval()
    x, y, u = data(model, 1).expand(1000, *row.shape), model.draw_labels(1), model.noise(1000)
    y = None if y is None else y.expand(1000)
    plain, sampled = model(x, y, u), model(x, y, u, sampled=True)
    assert torch.equal(plain.log_x, sampled.log_x) and torch.equal(plain.log_det, sampled.log_det)
    gaussian = model.gaussian_of(model.preprocess(x)[0], y) is not None
    closed = gaussian and row.recipe in GAUSSIAN
    two = isinstance(model.decoder, ConditionalLatent)  # whose rate is known in part, and has no parts by dimension
    assert (plain.kl is not None) == (closed and not two)
    if closed and not two:
        error = sampled.rate.std() / math.sqrt(len(x))
        assert (sampled.rate.mean() - plain.rate.mean()).abs() < 5 * error
        assert plain.rate.std() < 1e-4 * sampled.rate.std()
    elif not closed:
        assert torch.equal(plain.rate, sampled.rate)
        assert (plain.rate.std() > 1e-4) == (model.noise_shape != (0,))  # a flow of vectors takes no noise


# Codes and samples


@every_recipe
@torch.no_grad()
def test_codes(row):
    """Codes are flat, as many as the latent's values, and mean one z each; a flow's give the data back exactly.

    Without padding, of which the data say nothing, data give a flow's code back, too.
    """
    model, x, y, _ = row.ready(0.1)
    model.double().eval()
    x, e = x.double(), torch.randn(6, model.code_values, dtype=torch.float64)
    code = model.encode(x, y)
    assert code.shape == e.shape and torch.equal(model.encode(x, y), code) and model.decode(code, y).shape == x.shape
    own = code[:, : math.prod(model.latent)]  # without those of a decoder with a latent
    torch.testing.assert_close(model.prior(model.prior.inverse(own, y), y)[0], own, rtol=1e-8, atol=1e-8)
    if row.recipe in EXACT:
        torch.testing.assert_close(model.decode(code, y), x, rtol=0, atol=1e-7)
    if row.recipe in EXACT and model.latent == row.shape:
        torch.testing.assert_close(model.encode(model.decode(e, y), y), e, rtol=1e-8, atol=1e-7)


@every_recipe
@torch.no_grad()
def test_samples(row):
    """They have the data's shape; the same generator gives the same, another seed others."""
    model = row.moved(0.02).eval()
    samples = model.sample(5, model.draw_labels(5), temperature=0.7)
    assert samples.shape == (5, *row.shape) and samples.isfinite().all()
    assert model.sample(1, model.draw_labels(1)).shape == (1, *row.shape)
    y = torch.tensor([0, 1]) if model.classes else None
    first, again, other = (model.sample(2, y, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Scores


@every_recipe
def test_a_score_depends_on_the_sample_alone(row):
    """In another order and in a part of the data it is the same, and in other batches but for float32's rounding."""
    model = row.moved(0.02).eval()
    x, y = (a if a is None else a.numpy() for a in batch(model, 40)[:2])
    samples = Samples(x.astype(np.uint8) if len(row.shape) == 3 else x, list(map(str, range(40))), y)
    whole = bounds(model, samples, 3, batch_size=16)
    order = np.random.default_rng(0).permutation(40)
    for which, size, relative in ((order, 16, 0), (order[:19], 16, 0), (order[:1], 16, 0), (order, 7, 1e-6)):
        part = bounds(model, samples.take(which), 3, batch_size=size)
        for found, expected in zip(part[:4], whole[:4], strict=True):
            np.testing.assert_allclose(found, expected[which], rtol=relative, atol=1e-5)
    other = bounds(model, samples, 3, seed=1).tighter
    assert (other != whole.tighter).any() == bool(math.prod(model.noise_shape)) or row.recipe in EXACT


# Labels


def labeled(row: Row) -> bool:
    return row.recipe == "cvae" or "classes" in row.extra


def is_within(given: Any, setting: Any) -> bool:
    """Whether all that was given of settings is in them, parts inside parts too."""
    if not isinstance(given, dict):
        return given == (setting["kind"] if isinstance(given, str) and isinstance(setting, dict) else setting)
    return all(is_within(value, setting[name]) for name, value in given.items())


@every(labeled)
@torch.no_grad()
def test_labels_matter_where_the_prior_has_classes(row):
    """Another label is another prior, to which what bn_vae normalizes is relative; a missing one is an error."""
    model = row.moved(0.2).double().eval()
    assert model.classes == model.config["settings"]["classes"]
    drawn = model.draw_labels(50, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(model.classes))
    x, u, e = data(model).double(), model.noise(6), model.codes(6)
    zero, one = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    a, b = model(x, zero, u), model(x, one, u)
    relative = row.recipe == "bn_vae"
    assert torch.allclose(a.rate, b.rate, rtol=1e-9, atol=1e-4) == relative
    assert torch.equal(a.log_x, b.log_x) != relative
    assert torch.allclose(model.encode(x, zero), model.encode(x, one), atol=1e-5) == relative
    assert not torch.allclose(model.decode(e, zero), model.decode(e, one))
    for call in (lambda: model(x, u=u), lambda: model.encode(x), lambda: model.decode(e), lambda: model.sample(2)):
        with pytest.raises(ValueError, match=rf"y: expected labels 0 \.\. {model.classes - 1}, found none"):
            call()


@every(lambda row: not labeled(row))
def test_labels_are_refused_where_the_prior_has_no_classes(row):
    """No recipe without classes takes labels in silence, or draws any."""
    model = row.make()
    assert not model.classes and model.draw_labels(50) is None
    y = torch.zeros(6, dtype=torch.long)
    for call, given in (
        (model, data(model)),
        (model.encode, data(model)),
        (model.decode, model.codes(6)),
        (model.sample, 6),
    ):
        with pytest.raises(ValueError, match="y: expected no labels: this model was made without classes"):
            call(given, y)


# Config


@every_recipe
@torch.no_grad()
def test_config_and_weights_are_all_of_a_model(row):
    """model.config names each setting, holds only what JSON holds, and rebuilds the model, whatever the seed."""
    model, x, y, u = row.ready()
    model(x, y, u)  # some statistics
    config = json.loads(json.dumps(model.config))
    assert config["recipe"] == row.recipe and config["shape"] == list(row.shape)
    fields = RECIPES[row.recipe].settings.model_fields
    assert list(config["settings"]) == list(fields) == list(inspect.signature(RECIPES[row.recipe]).parameters)[1:]
    for key, setting in config["settings"].items():
        given = (SMALL[row.recipe] | row.extra).get(key, setting)
        if isinstance(setting, dict):
            assert list(setting) == ["kind", *fields[key].annotation.choices()[setting["kind"]].model_fields]
            assert setting["kind"] == given or is_within(given, setting)
        else:
            assert setting == given
    torch.manual_seed(99)
    again = RECIPES[row.recipe](config["shape"], **config["settings"])
    assert again.config == model.config == config
    again.load_state_dict(model.state_dict())
    for a, b in zip(both(model, x, y, u), both(again, x, y, u), strict=True):
        torch.testing.assert_close(a[:4], b[:4], rtol=0, atol=0)
    e = torch.randn(6, model.code_values)
    assert torch.equal(model.decode(e, y), again.decode(e, y))


# Compilation


def shallow(row: Row) -> Row:
    """With as few layers as there can be, since graphs take long."""
    settings = row.make().config["settings"]
    for part in (value for value in settings.values() if isinstance(value, dict)):
        part |= {name: 1 for name in ("depth", "levels", "blocks") if name in part}
    return Row(row.recipe, row.shape, settings | ({"rounds": 2} if "rounds" in settings else {}))


@every_recipe
def test_the_objective_is_one_graph(row):
    """torch.compile takes the whole model, terms, statistics and drawn noise, as one graph."""
    model, x, y, _ = shallow(row).ready()
    model.train(row.recipe != "f_vae_reduced")  # which shows evaluation for all
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    found = compiled(x, y)
    torch.manual_seed(1)
    torch.testing.assert_close(found, model(x, y))
    found.loss().backward()


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
    model = Row(name, (1, 8, 8), {"flow": {"depth": 1}} if "flow" in SMALL[name] else {}).moved()
    given, found = batch(model, 4), []
    for call in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        terms = call(*given)
        terms.loss().backward()
        found.append((terms, [p.grad for p in model.parameters()]))
    (plain, gradients), (compiled, others) = found
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    for (key, _), a, b in zip(model.named_parameters(), others, gradients, strict=True):
        assert (a - b).norm() < 1e-3 * b.norm() + 1e-4, key  # measured: 1e-4, as far as float32 is from float64
