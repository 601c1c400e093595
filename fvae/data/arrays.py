"""Data in memory: arrays, tensors, DataFrames, torch data sets and sentences as samples of a model's modality."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fvae.data.detection import arrow_table, cells_of
from fvae.data.files import argument_named
from fvae.data.modality import Modality
from fvae.data.samples import Samples, numbered
from fvae.data.table import Table
from fvae.data.table_files import numeric_columns, without_labels
from fvae.data.typed_table import TypedTable
from fvae.errors import InputError


def from_memory(
    data: Any, labels: Any = None, like: Modality | None = None, arguments: tuple[str, str] = ("data", "labels")
) -> Samples:
    """Data in memory as samples of the modality ``like``, which is a model's.

    ``data`` is one of
    - an array or tensor (N, *shape): of images 8-bit values 0 .. 255 (N, C, H, W), of text token numbers (N, T);
    - a DataFrame of numeric columns, for a table, maybe with labels in a column of that name, as in a file;
    - a list of sentences for a model of text, or of image files;
    - a ``torch.utils.data.Dataset`` of x, (x,) or (x, label), which is read into memory once;
    - ``Samples``, returned as they are.

    ``labels`` (N,) are integers from 0 or names. Without ``like`` a DataFrame is a table, and anything else an array on
    its own scale. Raises ``InputError``, which names one of the ``arguments``.
    """
    if isinstance(data, Samples) and labels is None:
        return data
    with argument_named(arguments[0]):
        if isinstance(like, TypedTable) and hasattr(data, "columns"):
            data = typed_samples(data, like)
        values, own_labels, columns = unpack(data)
    if own_labels is not None and labels is not None:
        raise InputError("expected none, since the data have their own", arguments[1])
    labels = own_labels if labels is None else labels
    with argument_named(arguments[0]):
        samples = as_samples(values, columns, like)
    with argument_named(arguments[1]):
        return samples if labels is None else with_labels(samples, labels)


def unpack(data: Any) -> tuple[Any, Any, list[str]]:
    """The values, labels (or None) and columns' names of data: ``Samples``, a list of text, or an array."""
    if isinstance(data, Samples):
        return data, data.labels, []
    if isinstance(data, Dataset):
        return *read_dataset(data), []
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        return numeric_columns(arrow_table(data))
    if isinstance(data, np.ndarray) and data.dtype.kind in "UO":
        data = data.tolist()
    return data if is_text(data) else as_array(data), None, []


def typed_samples(frame: Any, like: TypedTable) -> Samples:
    """The columns of a DataFrame as a model's schema has them, and a column of labels; raises ``InputError``."""
    table, labels = without_labels(arrow_table(frame), like.names)
    values = like.encode(cells_of(table))
    numbers, classes = (None, like.classes) if labels is None else numbered(labels)
    return Samples(values, [str(i) for i in range(len(values))], numbers, modality=replace(like, classes=classes))


def is_text(data: Any) -> bool:
    return isinstance(data, Sequence) and len(data) > 0 and all(isinstance(item, str) for item in data)


def as_samples(values: Any, columns: list[str], like: Modality | None) -> Samples:
    """Values without labels as samples; raises ``InputError``."""
    if isinstance(values, Samples):
        return values
    if is_text(values):
        return (like or Modality(())).read(values)
    shape = values.shape[1:]
    named = Table(shape, columns=columns)
    like = like or (named if columns else Modality(shape))
    if columns and isinstance(like, Table) and shape == like.shape:
        if found := like.mismatch(named):
            raise InputError(found)
        like = replace(like, columns=columns)
    values = like.to_stored(values)
    return Samples(values, [str(i) for i in range(len(values))], modality=like)


def as_array(data: Any) -> np.ndarray:
    """An array, tensor or nested list as an array; raises ``InputError``."""
    if isinstance(data, Tensor):
        data = data.detach().cpu()
        return data.float().numpy() if data.dtype == torch.bfloat16 else data.numpy()
    if isinstance(data, np.ma.MaskedArray):
        raise InputError("expected an array without a mask, found a masked array")
    try:
        return np.asarray(data)
    except ValueError:
        raise InputError("expected samples of one shape, found a ragged list") from None


def read_dataset(dataset: Any) -> tuple[Any, Any]:
    """All items x, (x,) or (x, label) of a data set: values, and labels where it has them; raises ``InputError``."""
    if not hasattr(dataset, "__len__"):
        raise InputError(f"expected a data set with a length, found {type(dataset).__name__}")
    items, labels = [dataset[i] for i in range(len(dataset))], None
    if items and all(isinstance(item, tuple) and len(item) in (1, 2) for item in items):
        labels = [y.item() if isinstance(y, Tensor | np.generic) else y for _, *rest in items for y in rest] or None
        items = [x for x, *_ in items]
    if is_text(items):
        return items, labels
    arrays = [as_array(x) for x in items]
    if len(shapes := {array.shape: None for array in arrays}) > 1:
        raise InputError(f"expected items of one shape, found {' and '.join(map(str, list(shapes)[:2]))}")
    return np.stack(arrays) if arrays else np.empty(0), labels


def with_labels(samples: Samples, labels: Any) -> Samples:
    """Samples with labels (N,), integers or names; raises ``InputError``."""
    values = as_array(labels)
    if values.shape != (len(samples),):
        raise InputError(f"expected a label for each of {len(samples)} samples, found shape {values.shape}")
    if values.dtype.kind in "iu":
        if values.min() < 0:
            raise InputError(f"expected 0 or more, found {values.min()} at [{values.argmin()}]")
        return replace(samples, labels=values.astype(np.int64))
    if not all(isinstance(value, str) for value in values.tolist()):
        raise InputError(f"expected integers or names, found {values.dtype}")
    numbers, classes = numbered(values.tolist())
    named = replace(samples, labels=numbers, modality=replace(samples.modality, classes=classes))
    return named.numbered_as(samples.modality.classes)
