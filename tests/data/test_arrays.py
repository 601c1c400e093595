"""Data in memory: each kind gives the same samples, and each mistake is one line."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import savez
from sources import LINES, png, read, write, write_folder
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fvae.data import Images, Modality, Table, Text, Tokenizer, from_memory, hold_out
from fvae.errors import InputError

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
X = rng.normal(size=(6, 2))
LABELS = np.array([0, 2, 1, 1, 0, 2])
FRAME = pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})
TOKENIZER = Tokenizer.train(LINES, "word", 100, 8)
RGB, TABLE, TEXT = Images((3, 4, 5), bits=5), Table((2,)), Text(TOKENIZER.shape, (), TOKENIZER)


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


IN_MEMORY = {
    "array": np.asarray,
    "list": lambda values: values.tolist(),
    "tensor": lambda values: torch.from_numpy(values.copy()),
    "tensor with gradient": lambda values: torch.tensor(values, requires_grad=values.dtype.kind == "f"),
    "data set of arrays": lambda values: Items(list(values)),
    "data set of tensors": lambda values: Items(list(torch.from_numpy(values.copy()))),
}


@pytest.mark.parametrize("kind", IN_MEMORY)
@pytest.mark.parametrize(
    ("values", "like", "expected"),
    [(IMAGES, RGB, IMAGES), (X, TABLE, X.astype(np.float32)), (X, Modality((2,)), X), (IMAGES, None, IMAGES)],
    ids=["images", "table", "stranger", "no model"],
)
def test_values_of_every_kind_are_stored_alike(kind, values, like, expected):
    """Images as bytes, tables as float32, anything else in its own type; twice is once."""
    samples = from_memory(IN_MEMORY[kind](values), like=like)
    exact = kind != "list" or like in (RGB, TABLE)  # a list has no type of its own
    assert samples.values.dtype == expected.dtype or not exact
    np.testing.assert_array_equal(samples.values, expected)
    assert samples.modality == (like or Modality((3, 4, 5))) and samples.labels is None
    assert len(set(samples.names)) == len(samples) == 6 and from_memory(samples) is samples


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
def test_images_of_any_type_are_bytes(dtype):
    values = (IMAGES % 128).astype(dtype)
    assert from_memory(values, like=RGB).values.dtype == np.uint8
    np.testing.assert_array_equal(from_memory(values, like=RGB).values, IMAGES % 128)
    np.testing.assert_array_equal(RGB.collate(from_memory(values, like=RGB).values), IMAGES % 128 // 8)


def test_bfloat16_tensors_are_read():
    assert from_memory(torch.ones(2, 2, dtype=torch.bfloat16), like=TABLE).values.tolist() == [[1, 1], [1, 1]]


def test_a_data_frame_keeps_its_columns():
    """Numbers and booleans; the names are those of the model, if it has some."""
    samples = from_memory(FRAME, like=TABLE)
    np.testing.assert_array_equal(samples.values, X.astype(np.float32))
    assert samples.modality.columns == ["a", "b"] and from_memory(FRAME).modality == samples.modality
    assert from_memory(FRAME, like=samples.modality).modality == samples.modality
    assert from_memory(X, like=samples.modality).modality == samples.modality  # an array's columns have no names
    mixed = pd.DataFrame({"a": [True, False], "b": [1, 2]})
    assert from_memory(mixed, like=TABLE).values.tolist() == [[1, 1], [0, 2]]
    labelled = from_memory(FRAME.assign(label=list("xyxyxz")), like=TABLE)
    assert labelled.labels.tolist() == [0, 1, 0, 1, 0, 2] and labelled.modality.classes == ["x", "y", "z"]
    with pytest.raises(InputError, match=r"^data: expected column b, found c$"):
        from_memory(FRAME.rename(columns={"b": "c"}), like=samples.modality)


def test_sentences_and_token_numbers_are_read():
    samples = from_memory(LINES, ["b", "a", "a", "b", "b"], TEXT)
    assert TOKENIZER.decode(samples.values) == LINES == samples.names and samples.truncated == 0
    assert samples.labels.tolist() == [1, 0, 0, 1, 1] and samples.modality.classes == ["a", "b"]
    assert from_memory(Items(LINES), like=TEXT).names == from_memory(np.array(LINES), like=TEXT).names == LINES
    numbers = from_memory(samples.values.astype(np.int64), like=Text(TOKENIZER.shape))
    np.testing.assert_array_equal(numbers.values, samples.values)
    assert numbers.values.dtype == np.int32
    assert from_memory([" ".join(LINES)], like=TEXT).truncated == 1


def test_image_files_are_read(tmp_path):
    paths = [str(write_folder(tmp_path, {"a.png": png(IMAGES[0].transpose(1, 2, 0))}) / "a.png")]
    np.testing.assert_array_equal(from_memory(paths, like=RGB).values, IMAGES[:1])


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist(), torch.from_numpy(LABELS), pd.Series(LABELS)])
def test_labels_may_be_integers(labels):
    samples = from_memory(X, labels, TABLE)
    assert samples.labels.dtype == np.int64 and samples.labels.tolist() == LABELS.tolist()


def test_labels_may_be_names():
    """Numbered in their order, or as the model numbers them."""
    names = np.array(["x", "z", "y"])[LABELS]
    samples = from_memory(X, pd.Series(names), TABLE)
    assert samples.labels.tolist() == [0, 1, 2, 2, 0, 1] and samples.modality.classes == ["x", "y", "z"]
    named = from_memory(X, list(names), Table((2,), ["z", "y", "x"]))
    assert named.labels.tolist() == [2, 1, 0, 0, 2, 1] and named.modality.classes == ["z", "y", "x"]
    with pytest.raises(InputError, match=r"^labels: expected the labels x, y, found z$"):
        from_memory(X, names, Table((2,), ["x", "y"]))


def test_a_data_set_may_have_labels():
    dataset = TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))
    samples = from_memory(dataset, like=TABLE)
    np.testing.assert_array_equal(samples.values, X.astype(np.float32))
    assert samples.labels.tolist() == LABELS.tolist()
    for data in (dataset, samples, FRAME.assign(label=1)):
        with pytest.raises(InputError, match=r"^labels: expected none, since the data have their own$"):
            from_memory(data, LABELS, TABLE)
    unlabelled = from_memory(TensorDataset(torch.from_numpy(X)), like=TABLE)
    np.testing.assert_array_equal(unlabelled.values, samples.values)
    assert unlabelled.labels is None and from_memory(unlabelled, LABELS).labels.tolist() == LABELS.tolist()


def changed(values: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    values = values.astype(np.float64)
    values[index] = value
    return values


class Endless(IterableDataset):
    def __iter__(self):
        return iter(X)


MISUSES = {
    "one image": (IMAGES[0], RGB, r"expected \(N, 3, 4, 5\) for this model, found \(3, 4, 5\), one sample: add a ba"),
    "channels last": (IMAGES.transpose(0, 2, 3, 1), RGB, r"found \(6, 4, 5, 3\), whose channels are last: move"),
    "one image, channels last": (IMAGES[0].transpose(1, 2, 0), RGB, r"expected \(N, 3, 4, 5\).*, found \(4, 5, 3\)$"),
    "one row": (X[0], TABLE, r"expected \(N, 2\) for this model, found \(2,\), one sample: add a batch dimension"),
    "other columns": (X.repeat(2, 1), TABLE, r"expected \(N, 2\) for this model, found \(6, 4\)$"),
    "other shape": (X, Modality((2, 1)), r"expected \(N, 2, 1\) for this model, found \(6, 2\)$"),
    "a number": (3.0, TABLE, r"expected \(N, 2\) for this model, found \(\)$"),
    "no images": (IMAGES[:0], RGB, "expected 1 or more of the images, found none$"),
    "no rows": (X[:0], TABLE, "expected 1 or more of the rows, found none$"),
    "no rows in a frame": (FRAME[:0], TABLE, "expected rows of numbers, found none$"),
    "NaN in a frame": (FRAME.replace(X[2, 1], np.nan), TABLE, "every row of column b, found 1 empty .* first in row 2"),
    "infinite in a frame": (FRAME.replace(X[2, 1], np.inf), TABLE, "found inf at row 2, column b$"),
    "empty list": ([], TABLE, r"expected \(N, 2\) for this model, found \(0,\)"),
    "empty data set": (Items([]), TABLE, r"expected \(N, 2\) for this model, found \(0,\)"),
    "unit images": (IMAGES / 255, RGB, r"expected 8-bit values 0 .. 255, found float64 within \[0, 1\]: mult"),
    "bool images": (IMAGES > 9, RGB, r"found bool within \[0, 1\]: multiply by 255 and round$"),
    "fractions": (changed(IMAGES, (1, 2, 3, 4), 7.5), RGB, r"whole 8-bit values .*, found 7.5 at \[1, 2, 3, 4\]$"),
    "dark": (changed(IMAGES, (1, 0, 0, 0), -1), RGB, r"expected 8-bit values 0 .. 255, found -1.0 at \[1, 0, 0, 0\]$"),
    "bright": (IMAGES.astype(int) + 300, RGB, r"found \d+ at \[0, 0, 0, 0\] \(and 359 more\)$"),
    "NaN in images": (changed(IMAGES, (0, 0, 0, 1), np.nan), RGB, r"found nan at \[0, 0, 0, 1\]"),
    "NaN in a table": (changed(X, (3, 1), np.nan), TABLE, r"numbers of 32 bits, found nan at row 3, column x1$"),
    "too large": (changed(X, (3, 1), 1e39), TABLE, r"found 1e\+39 at row 3, column x1$"),
    "infinite": (changed(X, (3, 1), np.inf), Modality((2,)), r"expected finite numbers, found inf at \[3, 1\]$"),
    "complex": (X * 1j, TABLE, "expected real numbers, found complex128"),
    "complex images": (IMAGES * 1j, RGB, "expected 8-bit values 0 .. 255, found complex128"),
    "objects": ([[None, 1]], TABLE, "expected real numbers, found object"),
    "text for a table": (LINES, TABLE, "expected numbers, found text"),
    "text for nothing": (LINES, None, "expected numbers, found text"),
    "file for images": (["none.png"], RGB, r"expected images, found none in 1 files \(none.png: No such file"),
    "ragged": ([[1, 2], [3]], TABLE, "expected samples of one shape, found a ragged list"),
    "ragged items": (Items([X[0], X[0][:1]]), TABLE, r"expected items of one shape, found \(2,\) and \(1,\)$"),
    "endless": (Endless(), TABLE, "expected a data set with a length, found Endless"),
    "name column": (FRAME.assign(c="x"), TABLE, "numbers in column c, found .*; leave it out, call it label, or read"),
    "two columns": (pd.concat([FRAME, FRAME], axis=1), TABLE, "expected a DataFrame, .*Duplicate column names found"),
    "no columns": (FRAME[[]], TABLE, "expected rows of numbers, found none"),
    "more columns": (FRAME.assign(c=1.0), TABLE, r"expected \(N, 2\) for this model, found \(6, 3\)$"),
    "long tokens": (np.full((2, 10), 4), TEXT, r"token numbers \(N, T\) with T at most 9, found int64 \(2, 10\)$"),
    "float tokens": (np.full((2, 3), 4.0), TEXT, r"token numbers \(N, T\) with T at most 9, found float64 \(2, 3\)$"),
    "other tokens": (np.full((2, 3), 99), TEXT, r"token numbers 0 .. 12, found 99 at \[0, 0\] \(and 5 more\)$"),
    "empty sentence": (["a cat", " "], TEXT, "expected sentences, found an empty one"),
    "no tokenizer": (LINES, Text((9, 13)), "expected a model with a tokenizer, found one that has not been"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_of_data_is_one_line(name):
    data, like, message = MISUSES[name]
    with pytest.raises(InputError, match=f"^data: .*{message}") as caught:
        from_memory(data, like=like)
    assert "\n" not in str(caught.value) and caught.value.argument == "data"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"expected a label for each of 6 samples, found shape \(2,\)$"),
        (np.eye(6), r"expected a label for each of 6 samples, found shape \(6, 6\)$"),
        (LABELS - 1, r"expected 0 or more, found -1 at \[0\]$"),
        (LABELS / 1, "expected integers or names, found float64$"),
        ([None, *"abcde"], "expected integers or names, found object$"),
        ([[0], [1, 2]], "expected samples of one shape, found a ragged list"),
    ],
)
def test_misuse_of_labels_is_one_line(labels, message):
    with pytest.raises(InputError, match=f"^labels: {message}"):
        from_memory(X, labels, TABLE)


def test_hold_out_is_disjoint_complete_and_the_same_every_time():
    """Sentences are held out by their text, so that none is on both sides."""
    values = np.arange(400.0).reshape(200, 2)
    train, test = hold_out(from_memory(values, np.arange(200), TABLE), 0.2)
    assert 20 < len(test) < 60 and sorted([*train.labels, *test.labels]) == list(range(200))
    np.testing.assert_array_equal(test.values, values[test.labels])
    assert hold_out(from_memory(values, like=TABLE), 0.2)[1].names == test.names
    train, test = hold_out(from_memory(LINES * 3, like=TEXT), 0.3)
    assert len(train) + len(test) == 15 and test.names and not set(train.names) & set(test.names)
    with pytest.raises(InputError, match=r"expected 2 different rows or more to hold some out, found 1$"):
        hold_out(from_memory(X[:1], like=TABLE), 0.2)


def test_memory_and_file_agree(tmp_path):
    """The same table, from either, gives the same values."""
    source = savez(tmp_path / "a.npz", x=X)
    np.testing.assert_array_equal(read(source).values, from_memory(X, like=TABLE).values)
    frame = write(tmp_path / "a.csv", FRAME.to_csv(index=False).encode())
    assert read(frame).modality.columns == from_memory(pd.read_csv(frame)).modality.columns


def test_a_mask_is_refused():
    with pytest.raises(ValueError, match=r"^data: expected an array without a mask, found a masked array$"):
        from_memory(np.ma.masked_greater(np.arange(6.0).reshape(3, 2), 3))
