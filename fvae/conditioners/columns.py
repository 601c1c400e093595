"""Conditioners of the columns of a table with a schema: their scales, and the features that networks see."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fvae.columns import Column, Schema

FARTHEST = 10.0  # deviations, beyond which networks see numbers as if they were there
FREQUENCIES = (1.0, 2.0, 4.0)  # of the waves of a number that networks see, in radians a deviation
ALL = slice(None)
INFINITE = 1e30  # deviations, beyond which numbers are as improbable as there


class ColumnScales(nn.Module):
    """The scale of each number among the columns: z = (T(x) - mean) / std, in float64 (see ``fvae.Column``).

    Shapes: (B, n) to itself, the n numbers' ``indices`` in the table. Not trained: the schema has what it needs.
    """

    center: Tensor
    scale: Tensor
    heavy: Tensor
    mean_: Tensor
    std: Tensor

    def __init__(self, schema: Schema, indices: list[int]):
        super().__init__()
        self.indices = indices
        columns = [schema.columns[i] for i in indices]
        for name, values in (
            ("center", [c.center for c in columns]),
            ("scale", [c.scale for c in columns]),
            ("mean_", [c.mean for c in columns]),
            ("std", [c.std for c in columns]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        self.register_buffer("heavy", torch.tensor([c.heavy for c in columns], dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor, which: Any = ALL) -> Tensor:
        """z of x (B, n), or of ``which`` of the numbers, an index of a dimension."""
        center, scale, heavy, mean, std = (
            a[which] for a in (self.center, self.scale, self.heavy, self.mean_, self.std)
        )
        warped = torch.asinh((x - center) / scale)
        return ((torch.where(heavy, warped, x) - mean) / std).clamp(-INFINITE, INFINITE)

    def log_slope(self, x: Tensor) -> Tensor:
        """log dz/dx."""
        warped = -torch.log(torch.hypot(x - self.center, self.scale))
        return torch.where(self.heavy, warped, 0.0) - self.std.log()

    def inverse(self, z: Tensor, which: Any = ALL) -> Tensor:
        """x of z (B, n), or of ``which`` of the numbers."""
        t = self.mean_[which] + self.std[which] * z
        warped = self.center[which] + self.scale[which] * torch.sinh(t.clamp(-300, 300))
        return torch.where(self.heavy[which], warped, t)


class FromColumns(nn.Module):
    """``net`` of a table's cells (B, C): numbers in deviations, which of them are atoms, levels, and what is missing.

    A missing number is seen as the mean, with a feature that says so where training rows had gaps; levels, a missing
    one and one that training did not have are embedded.
    """

    def __init__(self, net: nn.Module, schema: Schema):
        super().__init__()
        self.net = net
        numbers = schema.of_type("continuous", "discrete")
        self.scales = ColumnScales(schema, numbers)
        self.gaps = [k for k, i in enumerate(numbers) if schema.columns[i].missing]
        self.atoms = [(k, atom) for k, i in enumerate(numbers) for atom in frequent_atoms(schema.columns[i])]
        levels = {i: len(schema.columns[i].levels) for i in categories(schema)}
        self.categories = [(i, n + 1.0) for i, n in levels.items()]
        self.embeddings = nn.ModuleList(level_embedding(n) for n in levels.values())

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        numbers = x[:, self.scales.indices]
        missing = numbers.isnan()
        z = torch.where(missing, 0.0, self.scales(numbers)).clamp(-FARTHEST, FARTHEST)
        flags = [missing[:, self.gaps], *(numbers[:, k : k + 1] == atom for k, atom in self.atoms)]
        dtype = next(self.parameters()).dtype
        waves = [wave(frequency * z) for frequency in FREQUENCIES for wave in (torch.sin, torch.cos)]
        parts = [part.to(dtype) for part in (z, *waves, *flags)]
        for (i, missing_level), embedding in zip(self.categories, self.embeddings, strict=True):
            parts.append(embedding(torch.nan_to_num(x[:, i], nan=missing_level).long()))
        return self.net(torch.cat(parts, 1), *given)


def frequent_atoms(column: Column) -> list[float]:
    """The atoms that networks have a feature for."""
    return [atom for atom, share in zip(column.atoms, column.shares, strict=True) if share >= 0.01]


def categories(schema: Schema) -> list[int]:
    """The indices of the columns of two levels or more."""
    return [i for i in schema.of_type("categorical") if len(schema.columns[i].levels) > 1]


def level_embedding(levels: int) -> nn.Embedding:
    """An embedding of so many levels, of an unseen one and of a missing one, of which training may have no rows."""
    embedding = nn.Embedding(levels + 2, embedded(levels))
    nn.init.zeros_(embedding.weight.data[-2:])
    return embedding


def embedded(levels: int) -> int:
    """Dimensions that a category of so many levels is embedded in."""
    return min(16, 1 + math.ceil(math.log2(levels)))


def feature_columns(schema: Schema) -> list[int]:
    """The column that each of the features comes from which ``FromColumns`` gives its network."""
    numbers = schema.of_type("continuous", "discrete")
    found = (1 + 2 * len(FREQUENCIES)) * numbers + [i for i in numbers if schema.columns[i].missing]
    found += [i for i in numbers for _ in frequent_atoms(schema.columns[i])]
    return found + [i for i in categories(schema) for _ in range(embedded(len(schema.columns[i].levels)))]
