"""``Density``: a density of tables as an estimator of scikit-learn, with every verb in rows and columns."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError("fvae.Density needs scikit-learn: pip install 'fvae[tables]'") from None

from fvae.columns import Schema
from fvae.data import Samples, Table, TypedTable
from fvae.data.detection import Cells, arrow_table, cells_of, number_cells, schema_of
from fvae.data.files import argument_named
from fvae.data.samples import part_of
from fvae.documents import JSON, Document, read_document
from fvae.errors import InputError
from fvae.files import write_text
from fvae.metrics import bounds, encode
from fvae.recipes import RECIPES
from fvae.runs import load, save
from fvae.schema import Part
from fvae.training.fit import fit as train_model

ESTIMATOR_FILE = "estimator.json"


class Density(OutlierMixin, TransformerMixin, BaseEstimator):
    """The density of the rows of a table: fit, score, draw, fill gaps, condition on columns, find outliers.

    Columns may be numbers, whole or rounded ones, categories and dates, with gaps (NaN or None); their types are
    detected from a DataFrame (see ``fvae.detect``), and arrays are columns of numbers. A tenth of the rows is held out:
    it says when to end, and calibrates p-values.

    Args:
        recipe: vae, f_vae or another with a decoder by column; or a flow, as realnvp, of numbers without gaps, which
            draws, scores and finds outliers alone
        settings: of its model, as ``{"coder": {"size": 8}}`` (default: by the table's shape)
        training: fields of ``fvae.TrainSettings``, as ``{"steps": 5000}`` (default: by the table's shape)
        contamination: the share of normal rows that ``predict`` calls outliers
        draws: of u, for each row's bound
        held_out: the share of the rows that training doesn't see
        random_state: seed of weights, batches and draws
        progress: show a bar

    Attributes:
        model_: the ``LatentModel``
        calibration_: sorted ``score_samples`` of the rows held out, by which p-values are
        offset_: the threshold of ``predict``
        n_features_in_, feature_names_in_: as scikit-learn has them

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> density = fvae.Density(training={"steps": 50}).fit(x)
        >>> density.score_samples(x[:3]).shape, density.predict(np.array([[0.0, 0.0], [90.0, 90.0]]))
        ((3,), array([ 1, -1]))
    """

    def __init__(
        self,
        recipe: str = "vae",
        settings: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        contamination: float = 0.05,
        draws: int = 8,
        held_out: float = 0.1,
        random_state: Any = 0,
        progress: bool = False,
    ):
        self.recipe, self.settings, self.training = recipe, settings, training
        self.contamination, self.draws, self.held_out = contamination, draws, held_out
        self.random_state, self.progress = random_state, progress

    framed_: bool
    feature_names_in_: Any

    # Rows: DataFrames and arrays

    def table(self, x: Any, reset: bool) -> dict[str, Cells]:
        """The cells of a DataFrame by name, or of an array by x0, x1, ...; raises ``ValueError``."""
        if is_frame(x):
            cells = cells_of(arrow_table(x))
            if reset:
                self.n_features_in_, self.feature_names_in_ = len(cells), np.array(list(cells), dtype=object)
                self.framed_ = True
            if self.framed_:
                return cells
        values = validate_data(self, x, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        if np.isinf(values).any():
            raise InputError("expected finite numbers, or NaN where a cell is missing, found infinity", "X")
        if reset:
            self.framed_ = False
        return {f"x{j}": number_cells(column) for j, column in enumerate(values.T)}

    def rows(self, x: Any) -> Samples:
        """New rows by the schema; raises ``NotFittedError`` before ``fit``, ``ValueError`` for other columns."""
        check_is_fitted(self, "model_")
        values = self.model_.modality.encode(self.table(x, reset=False))
        return Samples(values, [str(i) for i in range(len(values))], modality=self.model_.modality)

    def framed(self, cells: torch.Tensor | np.ndarray) -> Any:
        """Cells as rows of the kind that ``fit`` was given: a DataFrame, or an array."""
        frame = self.model_.modality.frame(cells)
        return frame if self.framed_ else self.in_place(frame.to_numpy(dtype=np.float64))

    def in_place(self, columns: np.ndarray) -> np.ndarray:
        """The model's columns where they are in arrays (N, n_features_in_), with NaN for those that are left out."""
        found = np.full((len(columns), self.n_features_in_), np.nan)
        found[:, [int(name[1:]) for name in self.model_.modality.names]] = columns
        return found

    # Fitting

    def fit(self, X: Any, y: Any = None) -> "Density":
        """Detect the columns' types, train, and calibrate; ``y`` is ignored."""
        if not 0 < self.contamination < 1:
            raise InputError(f"expected more than 0 and less than 1, found {self.contamination}", "contamination")
        seed = int(check_random_state(self.random_state).randint(2**31))
        table = self.table(X, reset=True)
        n = len(next(iter(table.values())).values)
        if n < 2:
            raise InputError(f"expected 2 samples or more, found n_samples={n}", "X")
        names = [str(i) for i in range(n)]
        with argument_named("X"):
            train, test = (part_of(names, self.held_out, part, "rows") for part in ("train", "test"))
        modality = modality_of(self.recipe, {name: Cells(c.values[train], c.kind) for name, c in table.items()})
        rows = Samples(modality.encode(table), names, modality=modality)
        self.warn_of_columns(modality)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(self.recipe, modality, n, self.settings or {})
        changes = training_of(n) | {"seed": seed} | (self.training or {})
        held_out, given = rows.take(test), {"progress": self.progress, **changes}
        self.rows_ = train_model(model, rows.take(train), (held_out.values, None), allow_degenerate=True, **given)
        self.model_ = model
        self.calibrate(held_out)
        return self

    def warn_of_columns(self, modality: Table) -> None:
        """Warn of columns that are left out."""
        if isinstance(modality, TypedTable) and (left_out := modality.schema.left_out):
            listed = "; ".join(f"{name} ({why})" for name, why in left_out.items())
            warnings.warn(f"columns that are left out: {listed}", stacklevel=3)

    @property
    def typed(self) -> TypedTable:
        """The table's modality; raises ``InputError`` of a flow, which takes numbers alone."""
        check_is_fitted(self, "model_")
        if not isinstance(self.model_.modality, TypedTable):
            expected = "expected a recipe with a decoder by column, as vae or f_vae"
            raise InputError(f"{expected}, found {self.recipe}", "recipe")
        return self.model_.modality

    def calibrate(self, held_out: Samples) -> None:
        self.set_threshold(np.sort(self.bound(held_out)))

    def set_threshold(self, calibration: np.ndarray) -> None:
        self.calibration_ = calibration
        rank = math.floor(self.contamination * (len(calibration) + 1)) - 1
        self.offset_ = float(calibration[rank]) if rank >= 0 else -math.inf

    # Scores

    def bound(self, rows: Samples) -> np.ndarray:
        found = bounds(self.model_, rows, self.draws, batch_size=1024)
        return -(found.tighter if self.draws > 1 else found.loss)

    def score_samples(self, X: Any) -> np.ndarray:
        """A lower bound on log p(x) of each row, in nats (N,): of densities in the columns' units."""
        return self.bound(self.rows(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``."""
        return float(self.score_samples(X).mean())

    def decision_function(self, X: Any) -> np.ndarray:
        """``score_samples`` above the threshold, ``offset_``: below 0 for outliers."""
        return self.score_samples(X) - self.offset_

    def p_values(self, X: Any) -> np.ndarray:
        """The share of normal rows that are as improbable as each row (N,), by the rows held out (Vovk et al., 2005).

        Of new normal rows a share of at most p has a p-value up to p, in the mean over trainings.
        """
        scores, n = self.score_samples(X), len(self.calibration_)
        return (1 + np.searchsorted(self.calibration_, scores, side="right")) / (n + 1)

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, whose p-value is at most ``contamination``, 1 for other rows (N,).

        Warns where too few rows were held out for such a p-value.
        """
        check_is_fitted(self, "model_")
        if math.isinf(self.offset_):
            needed = f"contamination {self.contamination:g} needs {math.ceil(1 / self.contamination) - 1} rows held out"
            warnings.warn(f"{needed}, found {len(self.calibration_)}: no row is called an outlier", stacklevel=2)
        return np.where(self.p_values(X) <= self.contamination, -1, 1)

    # Draws

    def generator(self, random_state: Any) -> torch.Generator:
        seed = check_random_state(self.random_state if random_state is None else random_state).randint(2**31)
        return torch.Generator().manual_seed(int(seed))

    def sample(self, n: int = 1, given: dict[str, Any] | None = None, random_state: Any = None) -> Any:
        """n rows drawn from p(x) or, by importance resampling, from p(x | the columns in ``given``); see ``impute``."""
        check_is_fitted(self, "model_")
        generator = self.generator(random_state)
        if not given:
            return self.framed(self.model_.sample(n, generator=generator))
        cells = self.typed.row(given).expand(n, -1)
        return self.framed(self.model_.impute(cells, candidates=128, generator=generator))

    def impute(self, X: Any, random_state: Any = None) -> Any:
        """The rows with each gap drawn from p(missing|observed), by importance resampling.

        See ``LatentModel.impute``; several draws, with several ``random_state``, show how certain a gap's value is.
        """
        table, cells = self.typed, self.rows(X).values
        drawn = self.model_.impute(torch.from_numpy(cells), generator=self.generator(random_state)).numpy()
        if not self.framed_:
            filled = self.in_place(table.frame(drawn).to_numpy(dtype=np.float64))
            return np.where(np.isnan(x := np.asarray(X, dtype=np.float64)), filled, x)
        frame = X.copy() if hasattr(X, "loc") else arrow_table(X).to_pandas()
        for name, column in table.filled({n: frame[n].tolist() for n in table.names}, cells, drawn).items():
            if np.isnan(cells[:, table.names.index(name)]).any():
                frame[name] = column
        return frame

    def transform(self, X: Any) -> np.ndarray:
        """The rows' codes (N, D), standard normal where the model is right."""
        return encode(self.model_, self.rows(X), 1024)[0].double().numpy()

    # Single columns

    def predict_levels(self, X: Any, column: str) -> np.ndarray:
        """p(level | the other columns) of a categorical column, for each of its levels (N, levels), by their bounds.

        It isn't called predict_proba, which by scikit-learn's conventions takes no column.
        """
        rows, i = self.rows(X), self.number(column)
        levels = self.typed.schema.columns[i].levels
        if not levels:
            raise InputError(
                f"expected a categorical column, found {column}, {self.typed.schema.columns[i].description}", "column"
            )
        scores = []
        for k in range(len(levels)):
            values = rows.values.copy()
            values[:, i] = k
            scores.append(self.bound(Samples(values, rows.names, modality=rows.modality)))
        logits = torch.from_numpy(np.stack(scores, 1))
        return logits.softmax(1).numpy()

    def explain(self, X: Any) -> Any:
        """-log p(column | the other columns), in nats, of each cell (N, C): what makes a row improbable.

        Approximately: the difference of two bounds, that of the row without the cell and that of the row. A DataFrame
        of the columns, or an array. 0 for cells that are missing.
        """
        rows, names = self.rows(X), self.typed.schema.names
        whole, found = self.bound(rows), np.zeros(rows.values.shape)
        for i in range(rows.values.shape[1]):
            values = rows.values.copy()
            values[:, i] = np.nan
            rest = self.bound(Samples(values, rows.names, modality=rows.modality))
            found[:, i] = np.where(np.isnan(rows.values[:, i]), 0.0, rest - whole)
        if not self.framed_:
            return self.in_place(found)
        import pandas

        return pandas.DataFrame(found, columns=names, index=getattr(X, "index", None))

    def number(self, column: str) -> int:
        if column not in self.typed.schema.names:
            raise InputError(f"expected columns {', '.join(self.typed.schema.names[:10])}, found {column}", "column")
        return self.typed.schema.names.index(column)

    # Files

    def save(self, folder: str | Path) -> None:
        """Write the model's files and estimator.json into ``folder``: JSON and safetensors, which can run no code."""
        check_is_fitted(self, "model_")
        kept = self.get_params() | {"settings": plain(self.settings), "training": plain(self.training)}
        if not isinstance(self.random_state, int | np.integer | None):
            raise InputError(
                f"expected a whole number or None to save, found {self.random_state!r:.60}", "random_state"
            )
        kept |= {"random_state": None if self.random_state is None else int(self.random_state)}
        kept |= {name: float(kept[name]) for name in ("contamination", "held_out")}
        names = None if not hasattr(self, "feature_names_in_") else list(self.feature_names_in_)
        content = {"parameters": kept, "n_features_in": self.n_features_in_, "feature_names_in": names}
        content |= {"framed": self.framed_, "calibration": self.calibration_.tolist()}
        text = json.dumps(content) + "\n"
        save(self.model_, folder)
        write_text(Path(folder) / ESTIMATOR_FILE, text)

    @classmethod
    def load(cls, folder: str | Path) -> "Density":
        """The estimator that ``save`` wrote; raises ``InputError`` for a folder of something else."""
        kept = read_document(Path(folder) / ESTIMATOR_FILE, Saved, JSON)
        found = cls(**kept.parameters)
        found.model_ = load(folder)
        found.framed_ = kept.framed
        found.n_features_in_ = kept.n_features_in
        found.set_threshold(np.array(kept.calibration))
        if kept.feature_names_in is not None:
            found.feature_names_in_ = np.array(kept.feature_names_in, dtype=object)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = False
        return tags


class Saved(Document):
    """The content of ``estimator.json``."""

    parameters: dict[str, Any]
    n_features_in: int
    feature_names_in: list[str] | None
    framed: bool
    calibration: list[float]


def plain(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    """Settings with parts as tables, which JSON can hold."""
    if settings is None:
        return None
    return {name: value.model_dump() if isinstance(value, Part) else value for name, value in settings.items()}


def is_frame(x: Any) -> bool:
    return hasattr(x, "columns") and (hasattr(x, "to_numpy") or hasattr(x, "to_pandas"))


def modality_of(recipe: str, table: dict[str, Cells]) -> Table:
    """The columns as a recipe takes them: by their types, or as numbers; raises ``InputError``."""
    if recipe not in RECIPES or RECIPES[recipe].takes_text:
        known = ", ".join(name for name, known in RECIPES.items() if not known.takes_text)
        raise InputError(f"expected a recipe of tables ({known}), found {recipe}", "recipe")
    return (
        TypedTable.of(schema_of(table)) if RECIPES[recipe].takes_schema else Table((len(table),), columns=list(table))
    )


def build(recipe: str, modality: Table, n: int, settings: dict[str, Any]) -> Any:
    """The model of a recipe for a table of n rows, in sizes by its shape; raises ``ValueError``."""
    fields, shape = RECIPES[recipe].settings.model_fields, modality.recipe_shape
    width = 64 if n < 1000 else 128 if n < 100_000 else 256
    width = int(np.clip(len(modality.names), width, 1024))  # of fewer units, some columns would inform no others
    defaults: dict[str, Any] = {}
    if isinstance(shape, Schema):
        defaults["decoder"] = {"kind": "columns", "autoregressive": True, "width": width}
    if "coder" in fields and getattr(fields["coder"].default, "kind", "") == "strided":
        defaults["coder"] = {"kind": "strided", "size": min(8, max(2, len(modality.names) // 2)), "width": width}
    merged = {name: merged_part(defaults.get(name), value) for name, value in settings.items()}
    model = RECIPES[recipe](shape, **(defaults | merged))
    model.modality = modality
    return model


def merged_part(default: Any, given: Any) -> Any:
    """The settings of a part that are given, over the defaults where both are of one kind."""
    if isinstance(default, dict) and isinstance(given, dict) and given.get("kind", default["kind"]) == default["kind"]:
        return default | given
    return given


def training_of(n: int) -> dict[str, Any]:
    """How a model of n rows is trained, unless settings say otherwise."""
    batch = int(2 ** np.clip(math.floor(math.log2(max(n, 2) / 8)), 4, 8))
    return {
        "steps": int(np.clip(20 * n // batch, 300, 2000)), "batch_size": batch, "lr": 2e-3, "lr_decay": "cosine",
        "ema": 0.99, "eval_interval": 100, "eval_samples": 1000, "patience": 5, "accelerator": "cpu",
    }  # fmt: skip
