"""How good drawn tables are: marginals, pairs, a classifier's failure to tell, copies, and what can be learned of them.

Needs scikit-learn. Tables are cells (N, C) as ``fvae.columns`` has them.
"""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from fvae.columns import Schema
from fvae.data.files import optional_library

BINS = 20  # that the marginals and pairs of numbers are compared in
MOST_ROWS = 10_000  # of each table, that distances and classifiers take


class TableQuality(NamedTuple):
    """Figures of drawn rows against held-out ones."""

    failure_to_tell: float  # 1 - (2 AUC - 1) of a boosted classifier of drawn and held-out rows: 1 where it can't tell
    marginals: dict[str, float]  # total variation of each column, in bins
    pairs: float  # mean total variation of pairs of columns, in bins
    closest_share: float  # of drawn rows that are nearer to a training row than to a held-out one: a half, or copies
    accuracy_of_drawn: float | None  # on held-out rows, of a classifier of the target trained on drawn rows
    accuracy_of_real: float | None  # and of one trained on training rows


def table_quality(
    schema: Schema,
    drawn: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    target: str | None = None,
    seed: int = 0,
) -> TableQuality:
    """Compare drawn rows with rows held out, and look for copies of training rows.

    ``target`` is a categorical column, for what can be learned. Raises ``InputError`` without scikit-learn.
    """
    r = np.random.default_rng(seed)
    drawn, train, held_out = (x[r.permutation(len(x))[:MOST_ROWS]] for x in (drawn, train, held_out))
    binned = [in_bins(schema, x, train) for x in (drawn, held_out)]
    marginals = {
        name: variation(*(b[:, [i]] for b in binned)) for i, name in enumerate(schema.names)
    }  # fmt: skip
    pairs = [variation(*(b[:, list(pair)] for b in binned)) for pair in combinations(range(len(schema)), 2)]
    learned = None if target is None else [accuracy(schema, x, held_out, target, seed) for x in (drawn, train)]
    return TableQuality(
        failure_to_tell(schema, drawn, held_out, seed),
        marginals,
        float(np.mean(pairs)) if pairs else 0.0,
        closest_share(schema, drawn, train, held_out),
        *(learned or (None, None)),
    )


def boosted(schema: Schema, columns: list[int], seed: int) -> Any:
    """A boosted classifier of these columns, which takes gaps and categories."""
    ensemble = optional_library("sklearn.ensemble", "scikit-learn", "tables")
    categorical = [k for k, i in enumerate(columns) if schema.columns[i].categorical]
    categorical = [k for k in categorical if len(schema.columns[columns[k]].levels) < 255]  # as many as it takes
    return ensemble.HistGradientBoostingClassifier(categorical_features=categorical, random_state=seed)


def failure_to_tell(schema: Schema, drawn: np.ndarray, held_out: np.ndarray, seed: int = 0) -> float:
    """1 - (2 AUC - 1), of five folds of as many drawn rows as held-out ones; 1 where the AUC is below a half."""
    selection = optional_library("sklearn.model_selection", "scikit-learn", "tables")
    metrics = optional_library("sklearn.metrics", "scikit-learn", "tables")
    n = min(len(drawn), len(held_out))
    x, y = np.concatenate([drawn[:n], held_out[:n]]), np.repeat([0, 1], n)
    folds = selection.StratifiedKFold(5, shuffle=True, random_state=seed)
    net = boosted(schema, list(range(len(schema))), seed)
    p = selection.cross_val_predict(net, x, y, cv=folds, method="predict_proba")[:, 1]
    return float(1 - max(2 * metrics.roc_auc_score(y, p) - 1, 0))


def accuracy(schema: Schema, train: np.ndarray, test: np.ndarray, target: str, seed: int = 0) -> float:
    """The share of test rows whose ``target`` a classifier names that is trained on the other columns."""
    i = schema.names.index(target)
    rest = [j for j in range(len(schema)) if j != i]
    train, test = (x[~np.isnan(x[:, i])] for x in (train, test))
    if len(np.unique(train[:, i])) < 2:  # nothing to learn: the one level that there is
        return float((test[:, i] == train[0, i]).mean())
    net = boosted(schema, rest, seed).fit(train[:, rest], train[:, i])
    return float((net.predict(test[:, rest]) == test[:, i]).mean())


def closest_share(schema: Schema, drawn: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> float:
    """The share of drawn rows whose nearest row among as many of each is a training row, half of ties."""
    neighbors = optional_library("sklearn.neighbors", "scikit-learn", "tables")
    n = min(len(train), len(held_out))
    rows = [one_hot(schema, x, train) for x in (drawn, train[:n], held_out[:n])]
    near = [neighbors.NearestNeighbors(n_neighbors=1).fit(x).kneighbors(rows[0])[0][:, 0] for x in rows[1:]]
    return float((near[0] < near[1]).mean() + (near[0] == near[1]).mean() / 2)


def one_hot(schema: Schema, x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Numbers by their range of training rows, levels as one of several values; gaps are 0."""
    parts = []
    for i, column in enumerate(schema.columns):
        if column.categorical:
            parts.append((x[:, [i]] == np.arange(len(column.levels))) * np.sqrt(0.5))
        else:
            low, high = np.nanquantile(train[:, i], (0.005, 0.995))
            parts.append(np.nan_to_num((x[:, [i]] - low) / (high - low if high > low else 1.0)).clip(-1, 2))
    return np.concatenate(parts, 1)


def in_bins(schema: Schema, x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Columns as bins (N, C): levels, or the training rows' quantiles; -1 for gaps."""
    found = np.empty(x.shape, dtype=np.int64)
    for i, column in enumerate(schema.columns):
        if column.categorical:
            found[:, i] = np.nan_to_num(x[:, i], nan=-1)
        else:
            edges = np.unique(np.nanquantile(train[:, i], np.linspace(0, 1, BINS + 1)[1:-1]))
            found[:, i] = np.where(np.isnan(x[:, i]), -1, np.searchsorted(edges, x[:, i], "right"))
    return found


def variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half of the sum of absolute differences of the shares of rows of bins."""
    both, which = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    which = which.reshape(-1)
    shares = [np.bincount(part, minlength=len(both)) / len(part) for part in (which[: len(a)], which[len(a) :])]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
