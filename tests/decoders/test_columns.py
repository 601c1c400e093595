"""The decoder by column: probabilities add to 1, densities integrate to 1, draws have them, gaps cost nothing."""

import numpy as np
import pytest
import torch
from torch import nn

import fvae
from fvae.columns import Schema
from fvae.decoders import Columns
from fvae.decoders.columns import UNSEEN

PLAIN = fvae.Column(name="plain", type="continuous", mean=50.0, std=8.0, low=20, high=90)
HEAVY = fvae.Column(name="heavy", type="continuous", heavy=True, center=3.0, scale=2.0, mean=0.5, std=1.5)
ATOMS = fvae.Column(name="atoms", type="continuous", mean=2.0, std=3.0, atoms=[0.0, 5.0], shares=[0.5, 0.1])
WHOLE = fvae.Column(name="whole", type="discrete", values="integer", step=1, low=0, high=12, mean=4.0, std=2.0)
STEPS = fvae.Column(
    name="steps", type="discrete", step=0.25, low=-1, high=30, mean=3, std=4, atoms=[2.0], shares=[0.3]
)  # fmt: skip
FINE = fvae.Column(name="fine", type="discrete", step=1, low=0, high=40_000, mean=20_000, std=4000)
TAIL = fvae.Column(
    name="tail", type="discrete", step=1, low=0, high=900, heavy=True, center=0, scale=2, mean=2, std=1.5
)
LEVELS = fvae.Column(name="levels", type="categorical", values="text", levels=["a", "b", "c"], shares=[0.7, 0.2, 0.1])
SAME = fvae.Column(name="same", type="categorical", values="text", levels=["x"], shares=[1.0])
ALL = [PLAIN, HEAVY, ATOMS, WHOLE, STEPS, FINE, TAIL, LEVELS, SAME]


def decoder(*columns: fvae.Column) -> tuple[Columns, torch.Tensor]:
    """A decoder whose columns depend on z, in double precision, and a z."""
    made = Columns(nn.Identity(), Schema(columns=list(columns)))
    made.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, made.outputs))
    return made.double(), torch.randn(1, 3, dtype=torch.float64)


def log_p(made: Columns, z: torch.Tensor, values: np.ndarray) -> np.ndarray:
    """log p of the only column's values."""
    x = torch.from_numpy(values.astype(float))[:, None]
    with torch.no_grad():
        return made(x, z.expand(len(x), -1)).numpy()


def lattice(column: fvae.Column) -> np.ndarray:
    return np.round(np.arange(column.low, column.high + column.step / 2, column.step), 10)


@pytest.mark.parametrize("column", [WHOLE, STEPS, FINE, TAIL], ids=lambda c: c.name)
def test_probabilities_of_discrete_columns_add_to_1(column):
    """Over the range of training rows, but for a ten-thousandth that is for those beyond it."""
    made, z = decoder(column)
    assert np.exp(log_p(made, z, lattice(column))).sum() == pytest.approx(1 - UNSEEN, rel=2e-4)
    steps = lattice(column) - column.low + column.step
    beyond = np.concatenate([column.low - steps, column.high + steps])
    assert 0 < np.exp(log_p(made, z, beyond)).sum() < UNSEEN


@pytest.mark.parametrize("column", [PLAIN, HEAVY, ATOMS], ids=lambda c: c.name)
def test_densities_of_continuous_columns_integrate_to_1(column):
    """In the column's units, beside the probabilities of its atoms."""
    made, z = decoder(column)
    t = np.linspace(-40, 40, 400_001)
    x = column.mean + column.std * t if not column.heavy else column.center + column.scale * np.sinh(t)
    assert not set(x) & set(column.atoms) or column.atoms
    x = np.delete(x, np.flatnonzero(np.isin(x, column.atoms)))
    density = np.trapezoid(np.exp(log_p(made, z, x)), x)
    atoms = np.exp(log_p(made, z, np.array(column.atoms))).sum() if column.atoms else 0.0
    assert density + atoms == pytest.approx(1, rel=2e-3)


def test_probabilities_of_levels_add_to_1():
    made, z = decoder(LEVELS)
    assert np.exp(log_p(made, z, np.arange(4))).sum() == pytest.approx(1)
    assert np.exp(log_p(made, z, np.array([3])))[0] == pytest.approx(UNSEEN)


def test_a_constant_costs_nothing():
    made, z = decoder(SAME)
    assert log_p(made, z, np.zeros(1))[0] == pytest.approx(0, abs=2e-4)


@pytest.mark.parametrize("column", [WHOLE, STEPS, TAIL, LEVELS], ids=lambda c: c.name)
def test_draws_have_their_probabilities(column):
    """Pearson's chi-square of 20,000 draws, of values that are expected 10 times or more: within 5 deviations."""
    made, z = decoder(column)
    values = np.arange(3.0) if column.categorical else lattice(column)
    p = np.exp(log_p(made, z, values))
    n = 20_000
    with torch.no_grad():
        drawn = made.draw(z.expand(n, -1), torch.randn(n, 1, dtype=torch.float64))[:, 0].numpy()
    assert np.isin(np.round(drawn, 10), values).all()
    counts = np.array([(np.abs(drawn - value) < 1e-9).sum() for value in values])
    often = n * p > 10
    chi2 = ((counts - n * p) ** 2 / (n * p))[often].sum()
    assert chi2 < often.sum() + 5 * np.sqrt(2 * often.sum())


@pytest.mark.parametrize("column", [PLAIN, HEAVY, ATOMS], ids=lambda c: c.name)
def test_draws_of_densities_have_their_distribution(column):
    """The share of draws below each tenth, against the integral of the density."""
    made, z = decoder(column)
    n = 20_000
    with torch.no_grad():
        drawn = made.draw(z.expand(n, -1), torch.randn(n, 1, dtype=torch.float64))[:, 0].numpy()
    for atom in column.atoms:
        p = np.exp(log_p(made, z, np.array([atom])))[0]
        assert (drawn == atom).mean() == pytest.approx(p, abs=5 * np.sqrt(p / n))
    rest = drawn[~np.isin(drawn, column.atoms)]
    low, high = np.quantile(rest, (0.2, 0.7))
    x = np.linspace(low, high, 20_001)
    x = np.where(np.isin(x, column.atoms), x + 1e-9, x)
    inside = np.trapezoid(np.exp(log_p(made, z, x)), x)
    found = ((rest > low) & (rest < high)).sum() / n
    assert found == pytest.approx(inside, abs=0.02)


def test_missing_cells_cost_nothing_and_give_no_gradient():
    made, z = decoder(*ALL)
    full = torch.tensor([[50.0, 3, 0, 4, 2, 20_000, 7, 1, 0]], dtype=torch.float64)
    by_column = made.by_column(full, z)
    for i in range(len(ALL)):
        x = full.clone()
        x[0, i] = torch.nan
        expected = by_column.clone()
        expected[0, i] = 0
        torch.testing.assert_close(made.by_column(x, z), expected)
    made.zero_grad()
    made(torch.full_like(full, torch.nan), z).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("value", [0.0, 1e6, -1e12, 1e30, 1e300])
def test_values_however_far_have_finite_gradients_and_no_nan(value):
    """In single precision, the farther the less probable."""
    made, z = decoder(*ALL[:-2])
    made, z = made.float(), z.float()
    x = torch.full((1, len(ALL) - 2), value, dtype=torch.float64)
    found = made.by_column(x, z)
    assert not found.isnan().any() and (value == 0 or (found < made.by_column(x / 10, z)).all() or value == 1e300)
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_the_mean_is_the_median_or_the_most_probable():
    made, z = decoder(*ALL)
    with torch.no_grad():
        mean, middle = made.mean(z), made.draw(z, torch.zeros(1, len(ALL), dtype=torch.float64))
        probable = [made.by_column(torch.full((1, len(ALL)), float(k)).double(), z)[0, 7] for k in range(3)]
    plain = [i for i, c in enumerate(ALL) if not c.atoms and not c.categorical]
    torch.testing.assert_close(mean[:, plain], middle[:, plain])
    assert mean[0, 7] == int(torch.stack(probable).argmax())
