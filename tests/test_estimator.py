"""``Density``: scikit-learn's conventions, and what it promises of rows, columns, gaps and outliers."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import fvae

SHORT = {"steps": 20}
X = np.random.default_rng(0).normal(size=(60, 3))
BY_HELD_OUT = "predict has its threshold from rows held out, so that it holds on new rows, not on those of training"
EXPECTED = {"check_outliers_train": BY_HELD_OUT, "check_outliers_fit_predict": BY_HELD_OUT}
CHECKS = list(estimator_checks_generator(fvae.Density(training=SHORT, draws=2)))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c[1].func.__name__)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(check):
    estimator, run = check
    if (name := run.func.__name__) in EXPECTED:
        pytest.skip(EXPECTED[name])
    run(estimator)


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    """Three groups, given which the columns are independent; see ``posterior``."""
    r = np.random.default_rng(seed)
    group = r.integers(0, 3, n)
    kind = np.array(["p", "q"])[(r.random(n) < 0.1 + 0.4 * group).astype(int)]
    return pd.DataFrame({"x": r.normal(4.0 * group, 1.0), "kind": kind, "n": r.binomial(4, 0.2 + 0.3 * group)})


def group_given(x: float) -> np.ndarray:
    """p(group | x)."""
    weights = np.exp(-0.5 * (x - 4.0 * np.arange(3)) ** 2)
    return weights / weights.sum()


INDEPENDENT = {"decoder": {"kind": "columns", "autoregressive": False}}


@pytest.fixture(scope="module", params=["autoregressive", "independent given z"])
def fitted(request) -> fvae.Density:
    settings = INDEPENDENT if request.param == "independent given z" else None
    torch.set_num_threads(1)
    return fvae.Density(settings=settings, training={"steps": 800, "patience": 0}).fit(rows(6000))


@pytest.mark.slow
@pytest.mark.parametrize("x", [0.0, 2.2, 8.5])
def test_draws_given_a_column_have_the_true_conditional(fitted, x):
    """Of categories and whole numbers, within the error of 1,000 draws and of a short training."""
    drawn = fitted.sample(1000, given={"x": x}, random_state=1)
    group = group_given(x)
    assert (drawn["x"] == x).all() and list(drawn.columns) == ["x", "kind", "n"]
    assert (drawn["kind"] == "q").mean() == pytest.approx((0.1 + 0.4 * np.arange(3)) @ group, abs=0.1)
    assert drawn["n"].mean() == pytest.approx(4 * (0.2 + 0.3 * np.arange(3)) @ group, abs=0.4)


@pytest.mark.slow
def test_gaps_are_filled_from_the_conditional(fitted):
    """In every column, also where training had no gaps: a number given a category and a count."""
    whole = rows(1000, 3)
    gaps = whole.copy()
    gaps["x"] = np.where(np.arange(1000) % 2 == 0, np.nan, gaps["x"])
    gaps.loc[1::4, "kind"] = None
    filled = fitted.impute(gaps, random_state=2)
    assert not filled.isna().any().any()
    assert (filled["x"][1::2] - whole["x"][1::2]).abs().max() < 1e-6 and (filled["n"] == whole["n"]).all()
    for k in ("p", "q"):
        ours, theirs = filled["x"][::2][whole["kind"][::2] == k], whole["x"][whole["kind"] == k]
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.8)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.25)


@pytest.mark.slow
def test_levels_are_predicted_and_cells_explained(fitted):
    new = rows(400, 4)
    p = fitted.predict_levels(new, "kind")
    truth = np.array([(0.1 + 0.4 * np.arange(3)) @ group_given(x) for x in new["x"]])
    assert p.sum(1) == pytest.approx(1) and np.abs(p[:, 1] - truth).mean() < 0.12
    odd = new.head(3).assign(x=[0.0, 0.0, 40.0], n=[0, 4, 4])
    nats = fitted.explain(odd)
    assert list(nats.columns) == ["x", "kind", "n"]
    assert nats["n"][1] > nats["n"][0] + 2 and nats["x"][2] > nats["x"][:2].max() + 5


@pytest.mark.slow
def test_a_share_of_new_normal_rows_is_called_outliers(fitted):
    """As large as contamination says, within the error of 600 rows held out and 4,000 new ones; p-values are even."""
    new = rows(4000, 5)
    assert (fitted.predict(new) == -1).mean() == pytest.approx(0.05, abs=5 * np.sqrt(0.05 * 0.95 / 600))
    assert np.abs(np.quantile(fitted.p_values(new), [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.1
    far = new.head(50).assign(x=100.0)
    assert (fitted.predict(far) == -1).all() and (fitted.decision_function(far) < 0).all()


@pytest.mark.slow
def test_saved_and_cloned_estimators_are_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded, new = fvae.Density.load(tmp_path), rows(20, 6)
    np.testing.assert_array_equal(loaded.score_samples(new), fitted.score_samples(new))
    np.testing.assert_array_equal(loaded.p_values(new), fitted.p_values(new))
    assert loaded.get_params() == fitted.get_params() == clone(fitted).get_params()
    assert loaded.transform(new).shape == (20, math_prod(fitted.model_.latent))
    with pytest.raises(ValueError, match=r"estimator.json: no such file"):
        fvae.save(fitted.model_, tmp_path / "other")
        fvae.Density.load(tmp_path / "other")


def math_prod(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def test_arrays_pipelines_and_searches():
    x = np.random.default_rng(0).normal(size=(200, 3))
    pipeline = make_pipeline(StandardScaler(), fvae.Density(training=SHORT))
    assert pipeline.fit(x).score_samples(x).shape == (200,)
    assert pipeline[-1].sample(4).shape == (4, 3)
    search = GridSearchCV(fvae.Density(training=SHORT), {"recipe": ["vae", "f_vae"]}, cv=2).fit(x)
    assert np.isfinite(search.best_score_)


def test_flows_take_numbers():
    """Their scores are exact: they do not depend on the draws; a column without spread is no hindrance."""
    x = np.random.default_rng(0).normal(size=(200, 4))
    x[:, 3] = 5
    flow = fvae.Density("realnvp", training=SHORT, draws=1).fit(x)
    several = flow.set_params(draws=3).score_samples(x)
    np.testing.assert_allclose(several, flow.set_params(draws=1).score_samples(x), rtol=1e-9)
    assert flow.sample(3).shape == (3, 4) and flow.transform(x).shape == (200, 4)


def test_columns_that_vary_in_no_way_or_have_only_gaps():
    """A constant costs nothing; a column without a value is left out, and may be missing in new rows."""
    frame = rows(200).assign(same="x", none=None)
    with pytest.warns(UserWarning, match="columns that are left out: none .no value in any row"):
        density = fvae.Density(training=SHORT).fit(frame)
    assert "none" in density.model_.modality.schema.left_out and density.sample(2)["same"].tolist() == ["x", "x"]
    assert np.isfinite(density.score_samples(frame)).all()


def test_arrays_keep_their_columns():
    """One without a value is NaN in draws, and observed cells stay as they are, to the last bit."""
    x = np.random.default_rng(0).normal(size=(300, 3)) * 1e8
    x[:, 1] = np.nan
    with pytest.warns(UserWarning, match="left out: x1"):
        density = fvae.Density(training=SHORT).fit(x)
    gaps = x[:5].copy()
    gaps[0, 2] = np.nan
    filled = density.impute(gaps)
    assert density.sample(4).shape == density.explain(x[:4]).shape == (4, 3)
    assert np.isfinite(filled[0, 2]) and np.array_equal(filled[1:, [0, 2]], gaps[1:, [0, 2]])


def test_frames_keep_what_is_observed():
    """Identifiers, an index, levels that training did not have, types: gaps alone are drawn."""
    frame = rows(300).assign(id=[f"row {i}" for i in range(300)])
    with pytest.warns(UserWarning, match="left out: id"):
        density = fvae.Density(training=SHORT).fit(frame)
    new = frame.head(4).set_index(pd.Index([10, 20, 30, 40]))
    new.loc[10, "kind"], new.loc[20, "x"] = "unseen", np.nan
    filled = density.impute(new)
    assert filled.index.tolist() == [10, 20, 30, 40] and filled["kind"].tolist() == new["kind"].tolist()
    assert filled["id"].tolist() == new["id"].tolist() and filled["n"].tolist() == new["n"].tolist()
    assert np.isfinite(filled["x"][20]) and (filled["x"] == new["x"]).sum() == 3


def test_reasons_keep_the_rows_index_and_given_values_their_digits():
    stamps = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(300) * 1777, "s")
    far, day = 1e9 + np.random.default_rng(0).normal(size=300), pd.Timestamp("2024-05-05")
    frame = rows(300).assign(at=stamps, far=far, day=day)
    density = fvae.Density(training=SHORT).fit(frame)
    assert density.explain(frame[frame["x"] > 6]).index.tolist() == frame[frame["x"] > 6].index.tolist()
    at = pd.Timestamp("2024-03-05 05:05:07")
    drawn = density.sample(3, given={"at": at, "far": 1e9 + 1.5})
    assert (drawn["at"] == at).all() and (drawn["far"] == 1e9 + 1.5).all()
    assert (drawn["day"] == day).all()
    assert density.sample(50)["far"].nunique() == 50


def test_few_different_rows_are_all_in_training():
    """Of two coins all four outcomes are learned, whichever rows are held out."""
    r = np.random.default_rng(0)
    coins = pd.DataFrame({"a": r.choice(["p", "q"], 1000), "b": r.choice(["u", "v"], 1000)})
    density = fvae.Density(training={"steps": 300}).fit(coins)
    p = np.exp(density.score_samples(pd.DataFrame({"a": ["p", "p", "q", "q"], "b": ["u", "v"] * 2})))
    assert p == pytest.approx(0.25, abs=0.06)


def test_too_few_rows_held_out_are_said_by_predict():
    density = fvae.Density(training=SHORT).fit(X)
    with pytest.warns(UserWarning, match="contamination 0.05 needs 19 rows held out, found"):
        assert (density.predict(X + 1e6) == 1).all()


def test_a_state_that_is_no_seed_is_not_saved(tmp_path):
    density = fvae.Density(training=SHORT, random_state=np.random.RandomState(0)).fit(X)
    with pytest.raises(ValueError, match="random_state: expected a whole number or None to save, found Rand"):
        density.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda d: d.set_params(recipe="glow").fit(rows(50)), "expected a number in every row of column kind, found"),
        (lambda d: d.set_params(recipe="text_vae").fit(rows(50)), "recipe: expected a recipe of tables .nice, realnvp"),
        (lambda d: d.set_params(recipe="glow").fit(X).explain(X), "recipe: expected a recipe with a decoder by column"),
        (lambda d: d.set_params(contamination=2).fit(rows(50)), "contamination: expected more than 0 and less than 1"),
        (lambda d: d.fit(rows(1)), "X: expected 2 samples or more, found n_samples=1"),
        (lambda d: d.fit(rows(50)).score_samples(rows(5)[["x", "n"]]), "expected column kind, found columns x, n"),
        (lambda d: d.fit(rows(50)).sample(2, given={"y": 1}), "given: y: no such column; the columns are x, kind, n"),
        (
            lambda d: d.fit(rows(50)).predict_levels(rows(5), "x"),
            "column: expected a categorical column, found x, continuous",
        ),
    ],
)
def test_mistakes_are_one_line(use, message):
    with pytest.raises(ValueError, match=message):
        use(fvae.Density(training=SHORT))


def test_unfitted_estimators_say_so(tmp_path):
    for use in (lambda d: d.score_samples(rows(3)), lambda d: d.sample(3), lambda d: d.save(tmp_path)):
        with pytest.raises(NotFittedError, match="This Density instance is not fitted yet"):
            use(fvae.Density())
