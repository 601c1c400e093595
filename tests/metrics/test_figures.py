"""Bounds on -log p(x), sample by sample, and their averages."""

import math
from dataclasses import replace

import numpy as np
import pytest
from text_models import FLOW, LSTM, SHAPE, as_samples, make_text_vae, sentences

from fvae.metrics import bounds, check_labels, summary
from fvae.model import importance_bound
from fvae.recipes import language_model


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


def test_labels_that_do_not_fit_a_model_are_refused():
    model, data = make_text_vae(classes=3), as_samples(sentences(2))
    for labels, found in ((None, "none"), (np.array([0, 3]), "0 to 3")):
        with pytest.raises(
            ValueError, match=f"^data: expected labels from 0 to 2, for a .* of 3 classes, found {found}$"
        ):
            check_labels(model, replace(data, labels=labels), "data")
    check_labels(make_text_vae(), data)
