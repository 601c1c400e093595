"""Every recipe with a decoder by column, of a table with a schema: the objective's identities, training, saving."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import perturb
from recipe_table import SMALL

import fvae
from fvae.recipes import RECIPES
from fvae.statistics import initialize

R = np.random.default_rng(0)
N = 600
GROUP = R.integers(0, 3, N)
FRAME = pd.DataFrame(
    {
        "height": 150 + 10 * GROUP + R.normal(0, 4, N),
        "visits": R.poisson(3 + 4 * GROUP),
        "spent": np.where(R.random(N) < 0.4, 0.0, np.exp(GROUP + R.normal(0, 1, N))),
        "group": np.array(["a", "b", "c"])[GROUP],
        "member": R.random(N) < 0.2 + 0.3 * GROUP,
        "rated": np.where(R.random(N) < 0.3, np.nan, np.round(GROUP + R.normal(0, 0.5, N), 1)),
    }
)
SCHEMA = fvae.detect(FRAME)
TYPED = [name for name, make in RECIPES.items() if make.takes_schema]
AUTOREGRESSIVE = fvae.ColumnsDecoder(autoregressive=True, width=32, components=3)
every_typed = pytest.mark.parametrize("recipe", [*TYPED, "vae autoregressive", "f_vae autoregressive"])


def make(recipe: str, **settings) -> fvae.LatentModel:
    name, _, autoregressive = recipe.partition(" ")
    given = {"decoder": AUTOREGRESSIVE} if autoregressive else {}
    return RECIPES[name](SCHEMA, **(SMALL[name] | given | settings))


def cells(n: int = N) -> torch.Tensor:
    return make("vae").modality.rows(FRAME)[:n]


def test_recipes_of_several_types_are_those_with_a_decoder():
    assert set(TYPED) == {"vae", "cvae", "bn_vae", "f_vae", "f_vae_reduced", "f_vae_general"}
    with pytest.raises(ValueError, match="shape: expected columns of continuous numbers without gaps, found visits"):
        fvae.recipes.glow(SCHEMA)
    with pytest.raises(ValueError, match="decoder: expected columns, of a table with a schema, found gaussian"):
        fvae.recipes.vae(SCHEMA, decoder="gaussian")
    with pytest.raises(ValueError, match="decoder: expected a table with a schema, found numbers without one"):
        fvae.recipes.vae((4,), decoder="columns")
    with pytest.raises(ValueError, match="coder: expected strided or squeezing, for columns of several types"):
        fvae.recipes.vae(SCHEMA, coder="identity")


@every_typed
def test_terms_are_one_a_row_and_near_those_in_double_precision(recipe):
    model, x = perturb(make(recipe), 0.02).eval(), cells(8)
    y, u = model.draw_labels(8), model.noise(8)
    with torch.no_grad():
        terms = model(x, y, u)
        double = copy.deepcopy(model).double()(x, y, u.double())
    assert all(t.shape == (8,) and t.dtype == torch.float32 and t.isfinite().all() for t in terms[:4])
    torch.testing.assert_close([t.double() for t in terms[:4]], list(double[:4]), rtol=1e-3, atol=1e-2)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(model(x, y, u).loss(), terms.loss(), rtol=0.1, atol=0.3)


@every_typed
def test_steps_lower_the_loss_and_reach_every_parameter(recipe):
    model, x = make(recipe), cells(64)
    y, u = model.draw_labels(64), model.noise(64)
    initialize(model, x, y)
    before = model(x, y, u).loss().item()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        model(x, y).loss().backward()
        optimizer.step()
    assert model(x, y, u).loss().item() < before - 0.5
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not unreached


@every_typed
def test_saved_models_are_the_same_and_samples_are_rows(recipe, tmp_path):
    model = perturb(make(recipe), 0.02).eval()
    x, y = cells(8), model.draw_labels(8)
    fvae.save(model, tmp_path)
    loaded = fvae.load(tmp_path)
    torch.manual_seed(1)
    bound = model.elbo(x, y)
    torch.manual_seed(1)
    assert torch.equal(loaded.elbo(x, y), bound) and loaded.modality.schema == SCHEMA
    drawn = model.sample(50, model.draw_labels(50))
    frame = loaded.modality.frame(drawn)
    assert list(frame.columns) == list(FRAME.columns) and drawn.dtype == torch.float64
    assert frame["group"].isin(["a", "b", "c"]).all() and (frame["visits"] >= 0).all()
    model.modality.check_input(drawn)
    assert torch.equal(model.decode(model.encode(x, y), y), model.decode(model.encode(x, y), y))


@torch.no_grad()
def test_bounds_are_of_cells_of_64_bits():
    """Rounded numbers lie on their steps, which 32 bits miss: the bound is that of the cells as they are given."""
    model, x = perturb(make("vae", posterior="one-sided"), 0.02).eval(), cells(8)
    torch.manual_seed(1)
    bound = model.elbo(x)
    torch.manual_seed(1)
    terms = model(x)
    torch.testing.assert_close(bound, -(terms.rate + terms.distortion))
    assert model.inputs(None, x)[0].dtype == torch.float64 and torch.equal(model.impute(x)[~x.isnan()], x[~x.isnan()])


def test_data_frames_are_held_out_by_row():
    """As few different rows would else lose an outcome."""
    coins = pd.DataFrame({"a": ["p", "q"] * 200, "b": (["u"] * 2 + ["v"] * 2) * 100})
    modality = make("vae").modality.of(fvae.detect(coins))
    samples = fvae.Samples(modality.rows(coins).numpy(), [str(i) for i in range(400)], modality=modality)
    train, test = fvae.data.hold_out(samples, 0.2)
    assert len(np.unique(train.values, axis=0)) == len(np.unique(test.values, axis=0)) == 4


@torch.no_grad()
def test_an_autoregressive_column_sees_those_before_it_alone():
    model, x = perturb(make("vae autoregressive"), 0.2).double().eval(), cells(8)
    z = torch.randn(8, *model.latent, dtype=torch.float64)
    found = model.decoder.by_column(x, z)
    for i in range(len(SCHEMA)):
        other = x.clone()
        other[:, i] = cells(80)[70 + torch.arange(8), i]
        changed = (model.decoder.by_column(other, z) != found).any(0)
        assert not changed[:i].any() and (changed[i + 1 :].all() or i == len(SCHEMA) - 1)
    noise = torch.randn(8, len(SCHEMA), dtype=torch.float64)
    drawn = model.decoder.draw(z, noise)
    again = model.decoder.drawn(model.decoder.split(model.decoder.raw(drawn, z)), noise)
    torch.testing.assert_close(again, drawn)  # each is the quantile given those before it


def test_a_bound_is_never_below_the_entropy_by_more_than_its_error():
    """The rows' distribution is known: three groups, given which the columns are independent."""
    torch.manual_seed(0)
    generator = np.random.default_rng(1)

    def rows(n: int) -> pd.DataFrame:
        group = generator.integers(0, 3, n)
        return pd.DataFrame(
            {
                "x": generator.normal(4.0 * group, 1.0),
                "kind": np.array(["p", "q"])[(generator.random(n) < 0.1 + 0.4 * group).astype(int)],
                "n": generator.binomial(4, 0.2 + 0.3 * group),
            }
        )

    def log_p(frame: pd.DataFrame) -> np.ndarray:
        parts = []
        for group in range(3):
            q, p = 0.1 + 0.4 * group, 0.2 + 0.3 * group
            n = frame["n"].to_numpy()
            part = -0.5 * (frame["x"] - 4.0 * group) ** 2 - 0.5 * math.log(2 * math.pi)
            part = part + np.where(frame["kind"] == "q", math.log(q), math.log(1 - q))
            parts.append(part + np.log([math.comb(4, k) for k in n]) + n * math.log(p) + (4 - n) * math.log(1 - p))
        return np.logaddexp.reduce(np.array(parts)) - math.log(3)

    train, test = rows(6000), rows(2000)
    model = fvae.recipes.vae(fvae.detect(train), coder=fvae.Strided(size=2, width=32))
    fvae.fit(model, train, test=test, steps=1500, batch_size=128, lr=3e-3, progress=False)
    with torch.no_grad():
        bound = model.elbo(model.modality.rows(test), samples=50).numpy()
    excess = log_p(test) - bound  # KL from the truth, and what the bound lacks
    error = excess.std() / math.sqrt(len(excess))
    assert -3 * error < excess.mean() < 0.15
