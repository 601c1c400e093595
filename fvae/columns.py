"""The schema of a table whose columns have types: numbers, whole or rounded numbers, and categories, with gaps.

A cell is a number of 64 bits: of a categorical column the level's index (one beyond the last for a level that training
did not have), of dates and times the seconds since 1970, NaN where it is missing.
"""

import datetime
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fvae.documents import Document, unique_names

DAY = 86_400  # seconds
Values = Literal["float", "integer", "boolean", "text", "date", "time"]
Level = bool | int | float | str
Number = Annotated[float, Field(allow_inf_nan=False)]


class Column(Document):
    """A column's type, and what its densities and codes need to know of the training rows.

    - ``continuous``: a density, beside a probability for each of the ``atoms``, single values that repeat;
    - ``discrete``: a probability for each multiple of ``step`` above ``low``, and more for the ``atoms``;
    - ``categorical``: a probability for each of the ``levels``; of one level it is a constant, and costs nothing.

    Numbers are standardized, z = (T(x) - mean) / std, where T(x) = x or, of heavy tails, asinh((x - center) / scale).

    Example:
        >>> fvae.Column(name="sex", type="categorical", values="text", levels=["Female", "Male"], shares=[0.33, 0.67])
        Column(sex: 2 levels)
    """

    name: str
    type: Literal["continuous", "discrete", "categorical"]
    values: Values = "float"
    levels: list[Level] = []
    atoms: list[Number] = []
    shares: list[Number] = []
    """of the levels, or of the atoms, among the training rows"""
    low: Number = 0.0
    high: Number = 0.0
    step: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    mean: Number = 0.0
    std: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    heavy: bool = False
    center: Number = 0.0
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    missing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of the training rows without a value"""

    def model_post_init(self, context: Any) -> None:
        if self.type == "categorical" and not self.levels:
            raise ValueError("levels: expected one or more for a categorical column, found none")
        if self.type == "discrete" and not self.step:
            raise ValueError("step: expected more than 0 for a discrete column, found 0")
        if len(self.shares) != len(self.levels or self.atoms):
            raise ValueError(f"shares: expected {len(self.levels or self.atoms)}, found {len(self.shares)}")

    def __repr__(self) -> str:
        return f"Column({self.name}: {self.description})"

    @property
    def categorical(self) -> bool:
        return self.type == "categorical"

    @property
    def description(self) -> str:
        """The type in words, with what is unusual."""
        if len(self.levels) == 1:
            text = f"constant, {self.shown(self.levels[0])}"
        elif self.categorical:
            text = f"{len(self.levels)} levels"
        else:
            unit = {"date": "dates", "time": "times", "integer": "whole numbers"}.get(self.values, "numbers")
            low, high = self.shown(self.low), self.shown(self.high)
            text = "continuous" if self.type == "continuous" else f"{unit} from {low} to {high}"
            text += f" in steps of {self.step:g}" if self.type == "discrete" and self.step not in (1, DAY) else ""
            text += ", heavy-tailed" if self.heavy else ""
            often = sorted(zip(self.shares, self.atoms, strict=True), reverse=True)
            parts = [f"{self.shown(value)} in {share:.0%}" for share, value in often[:2]]
            more = f" and {len(often) - 2} more that repeat" if len(often) > 2 else ""
            text += f", {', '.join(parts)}{more}" if parts else ""
        return text + (f", {self.missing:.1%} missing" if self.missing else "")

    def shown(self, value: Level) -> str:
        """A level or a number of the column in words, dates as dates."""
        if self.values in ("date", "time"):
            moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=float(value))
            return str(moment.date() if self.values == "date" else moment)
        return f"{value:g}" if isinstance(value, float) and not self.levels else str(value)

    @property
    def digits(self) -> int:
        """Significant digits of a drawn number: eight, and as many more as its offset takes of them."""
        farthest, spread = max(abs(self.low), abs(self.high)), self.high - self.low
        return min(17, 8 + max(0, math.ceil(math.log10(farthest / spread)))) if spread > 0 < farthest else 17


def check_columns(columns: Sequence[Column]) -> Sequence[Column]:
    unique_names([column.name for column in columns])
    if not columns:
        raise ValueError("expected a column or more, found none")
    return columns


class Schema(Document):
    """The columns of a table that a model is made for, in their order, and the names of those that are left out.

    A recipe takes it in the place of a shape. ``fvae.detect`` makes one of a DataFrame or a file.

    Example:
        >>> schema = fvae.Schema(columns=[fvae.Column(name="a", type="continuous")])
        >>> fvae.recipes.vae(schema, coder=fvae.Strided(size=2)).shape
        (1,)
    """

    columns: Annotated[list[Column], AfterValidator(check_columns)]
    left_out: dict[str, str] = {}
    """columns that are no part of the model, and why"""

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def of_type(self, *types: str) -> list[int]:
        """The indices of the columns of these types."""
        return [i for i, column in enumerate(self.columns) if column.type in types]

    @property
    def refusal(self) -> str:
        """What an exact flow, which has a density of continuous numbers alone, says of these columns."""
        found = [c for c in self.columns if c.type != "continuous" or c.missing or c.atoms] or self.columns
        listed = ", ".join(f"{column.name} ({column.description})" for column in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        advice = "take f_vae or vae, which have a likelihood for each type of column"
        return f"expected columns of continuous numbers without gaps, found {listed}{more}; {advice}"
