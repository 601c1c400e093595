"""Bounds on -log p(x), sample by sample, and their averages."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import perturb
from text_models import FLOW, LSTM, SHAPE, as_samples, make_text_vae, sentences

from fvae.errors import InputError
from fvae.metrics import bounds, check_labels, summary
from fvae.model import importance_bound
from fvae.recipes import language_model, realnvp, vae


def test_the_importance_weighted_bound_is_tighter_with_more_draws():
    """In the mean over sentences: 1 draw, 4, 64."""
    model = make_text_vae(0.3, posterior="gaussian").eval()
    data = as_samples(sentences(400))
    one, few, many = (bounds(model, data, samples=k) for k in (1, 4, 64))
    assert many.tighter.mean() < few.tighter.mean() < one.loss.mean()
    assert many.loss.mean() > many.tighter.mean()


@pytest.mark.parametrize(
    "make", [make_text_vae, lambda: make_text_vae(flow=FLOW), lambda: language_model(SHAPE, decoder=LSTM)]
)
def test_the_importance_weighted_bound_needs_drawn_rates(make):
    """A rate in closed form is no weight of a draw; of a model without a latent there is nothing to draw."""
    model, x = make().eval(), sentences(5)
    importance_bound(model(x, sampled=True) for _ in range(3))
    if model(x).kl is None or not math.prod(model.latent):
        importance_bound(model(x) for _ in range(3))
    else:
        with pytest.raises(ValueError, match=r"terms: expected those of model\(x, sampled=True\), found a rate"):
            importance_bound(model(x) for _ in range(3))


def test_bounds_depend_on_the_seed_and_not_on_the_batches():
    model, data = make_text_vae(0.3).eval(), as_samples(sentences(10))
    one, other = bounds(model, data, 2, seed=1), bounds(model, data, 2, seed=2)
    np.testing.assert_allclose(one.loss, one.rate + one.distortion)
    assert np.array_equal(one.tighter, bounds(model, data, 2, seed=1).tighter) and (one.tighter != other.tighter).any()
    parts = []
    assert bounds(model, data, batch_size=4, progress=lambda batches, n: parts.append(n) or batches).loss.shape == (10,)
    assert parts == [3]


def test_a_summary_has_averages_with_their_errors():
    model, data = make_text_vae(0.3).eval(), as_samples(sentences(10))
    found = bounds(model, data, 2)
    figures = summary(model, found, 2)
    assert figures["nats"] == pytest.approx(found.loss.mean())
    assert figures["nats_error"] == pytest.approx(found.loss.std(ddof=1) / math.sqrt(10))
    assert figures["tighter_nats"] == pytest.approx(found.tighter.mean()) and "upper bound" in figures["bound"]
    assert math.isnan(summary(model, bounds(model, data.take(np.arange(1))), 1)["nats_error"])


@pytest.mark.parametrize("make", [make_text_vae, lambda amount: perturb(language_model(SHAPE, decoder=LSTM), amount)])
def test_the_score_of_a_sentence_depends_on_it_alone(make):
    """And not on its position, nor on the padding that longer sentences beside it ask for."""
    model, data = make(0.3).eval(), as_samples(sentences(30))
    whole, order = bounds(model, data, 3, batch_size=8), np.random.default_rng(0).permutation(30)
    for which, size in ((order, 8), (order[:11], 8), (order[:1], 8), (order, 30)):
        part = bounds(model, data.take(which), 3, batch_size=size)
        np.testing.assert_allclose(part[:4], np.array(whole[:4])[:, which], rtol=0, atol=1e-5)


def test_the_error_of_a_score_is_its_deviation_over_seeds():
    """Of the K-sample bound, on average over sentences; one draw has none, and without noise it is 0."""
    model, data = make_text_vae(0.3).eval(), as_samples(sentences(50))
    found = [bounds(model, data, 40, seed) for seed in range(20)]
    deviation = np.std([each.tighter for each in found], axis=0, ddof=1).mean()
    assert np.mean([each.error for each in found]) == pytest.approx(deviation, rel=0.2) and deviation > 1e-4
    assert np.isinf(bounds(model, data).error).all()
    assert bounds(language_model(SHAPE, decoder=LSTM).eval(), data, 3).error.max() < 1e-6


@pytest.mark.parametrize("make", [realnvp, vae])
def test_rows_far_from_the_data_have_finite_scores_in_their_order(make):
    """A row at 10^k scores worse than one at 10^(k - 1), up to the largest float32."""
    model = perturb(make((3,))).eval()
    x = np.array([[10.0**k, 0.1, 0.2] for k in range(1, 39)], np.float32)
    scores = bounds(model, replace(as_samples(sentences(38)), values=x), samples=2)
    assert np.isfinite(scores).all() and (np.diff(scores.tighter) > 0).all()
    assert model.like.dtype == torch.float32


def test_nan_is_an_error_and_infinity_is_counted():
    """NaN names the first sample; averages are over the samples whose score is finite, unless none is."""
    model, data = make_text_vae(0.3).eval(), replace(as_samples(sentences(10)), names=[f"a[{i}]" for i in range(10)])
    found = bounds(model, data)
    for part in (slice(3, 5), slice(0, 10)):
        loss = found.loss.copy()
        loss[part] = np.inf
        figures = summary(model, found._replace(loss=loss), 1)
        assert figures["infinite"] == len(loss[part]) and figures["sentences"] == 10
        kept = np.isfinite(loss)
        assert figures["nats"] == (pytest.approx(found.loss[kept].mean()) if kept.any() else np.inf)
    with torch.no_grad():
        model.decoder.net.out.dense.bias.fill_(np.nan)
    with pytest.raises(InputError, match=r"found NaN for 10 of 10 samples, the first a\[0\]$"):
        bounds(model, data)
    assert np.isnan(bounds(model, data, allow_nan=True).loss).all()


def test_labels_that_do_not_fit_a_model_are_refused():
    model, data = make_text_vae(classes=3), as_samples(sentences(2))
    for labels, found in ((None, "none"), (np.array([0, 3]), "0 to 3")):
        with pytest.raises(
            ValueError, match=f"^data: expected labels from 0 to 2, for a .* of 3 classes, found {found}$"
        ):
            check_labels(model, replace(data, labels=labels), "data")
    check_labels(make_text_vae(), data)
