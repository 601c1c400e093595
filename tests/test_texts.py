"""Sentences as a source: tokenisers, what is held out, and files that are refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fvae.data import load_data
from fvae.data.text import SPECIAL, Vocabulary
from fvae.errors import UserError
from fvae.networks.text import BOS, EOS, PAD, UNK
from fvae.settings import DataSettings

LINES = ["the cat sat on the mat", "a dog sat", "the dog and the cat", "on a mat a cat sat", "the end"]


def settings(source: Path, **values) -> DataSettings:
    return DataSettings(source=str(source), **values)


def write(path: Path, lines: list[str]) -> Path:
    text = "".join(line + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def cats(tmp_path) -> Path:
    return write(tmp_path / "cats.txt", LINES * 8)


def test_special_tokens_have_their_numbers():
    """Those of the tokeniser are those of the networks."""
    assert [SPECIAL.index(name) for name in ("<pad>", "<s>", "</s>", "<unk>")] == [PAD, BOS, EOS, UNK]


@pytest.mark.parametrize("kind", ["word", "character", "bpe"])
def test_what_is_known_comes_back(kind):
    """Lines to numbers, each with its end, padded, and back, through a file too; of byte pairs anything does."""
    lines = [*LINES, "江靜櫂歌歇，溪深樵語聞。"]
    vocabulary = Vocabulary.built(lines, kind, 400, 80)
    numbers, cut = vocabulary.numbers(lines)
    assert numbers.dtype == np.int32 and cut == 0 and numbers.max() < vocabulary.shape[1] <= 400
    assert vocabulary.lines(numbers) == lines
    for row in numbers:
        n = int((row != PAD).sum())
        assert row[n - 1] == EOS and (row[:n] != PAD).all() and (row[: n - 1] >= UNK).all()
    if kind == "bpe":
        assert vocabulary.lines(vocabulary.numbers(["Ünseen 文 words"])[0]) == ["Ünseen 文 words"]
        ends = [vocabulary.tokenizer.token_to_id(token) for token in "Ċč"]  # the bytes of line feed and return
        assert vocabulary.lines(np.array([[ends[0], 70, ends[1], EOS]]))[0].count(" ") == 2


def test_the_vocabulary_keeps_the_most_frequent(tmp_path):
    """Others are unknown, and said so; a text's own <unk> is that token, and its </s> no end."""
    vocabulary = Vocabulary.built(["b b b <unk>", "a a <unk>", "c"], "word", 6, 10)
    assert vocabulary.shape == (11, 6)
    numbers, _ = vocabulary.numbers(["a b c <unk> </s> b", ""])
    assert numbers.tolist() == [[5, 4, UNK, UNK, UNK, 4, EOS], [EOS, *[PAD] * 6]]
    assert vocabulary.lines(numbers) == ["a b <unk> <unk> <unk> b", ""]
    (tmp_path / "tokenizer.json").write_text(vocabulary.text)
    again = Vocabulary.read(tmp_path / "tokenizer.json", 10)
    assert again.digest == vocabulary.digest and again.shape == vocabulary.shape
    assert Vocabulary.built(["a b"], "word", 6, 10).digest != vocabulary.digest


def test_held_out_lines_do_not_move(cats, tmp_path):
    """Training and held-out lines share no text, and stay what they are when others come, in any order, in any file."""

    def texts(path, part):
        data = load_data(settings(path, held_out=0.3), part)
        return data.modality.vocabulary.lines(data.values)

    train, test = (texts(cats, part) for part in ("train", "test"))
    assert len(train) + len(test) == 40 and not set(train) & set(test) and test
    moved = write(tmp_path / "moved.txt", sorted([*LINES * 8, "the cat and the dog"]))
    assert set(test) <= set(texts(moved, "test")) and set(train) <= set(texts(moved, "train"))


def test_a_batch_is_as_wide_as_its_longest(cats):
    data = load_data(settings(cats), "all")
    widths = {len(line.split()) + 1: i for i, line in enumerate(LINES)}
    for width, i in widths.items():
        assert data.modality.collate(data.values[i : i + 1]).shape == (1, width)
    assert data.modality.collate(data.values[np.array([1, 0])]).shape == (2, 7)
    assert data.shape == (201, 13) and data.modality.noun == "sentences"


def test_lines_that_are_empty_long_or_odd(tmp_path):
    """Empty ones are left out and named, long ones cut and counted, spaces and line ends forgiven."""
    path = tmp_path / "odd.txt"
    path.write_bytes(b"\xef\xbb\xbfa b\r\n\r\n   \r\n  c d e  \r\n" + b"a " * 10_000 + b"\r\na")
    data = load_data(settings(path, longest=50), "all")
    assert data.modality.vocabulary.lines(data.values) == ["a b", "c d e", " ".join(["a"] * 50), "a"]
    assert data.skipped == ["odd.txt[1]: empty", "odd.txt[2]: empty"] and data.cut == 1
    assert data.names == ["odd.txt[0]", "odd.txt[3]", "odd.txt[4]", "odd.txt[5]"]


def test_labels_come_from_their_file(cats, tmp_path):
    """By number, or by name in the order of names, of the lines that are kept."""
    lines = write(tmp_path / "five.txt", [LINES[0], "", *LINES[1:]])
    numbers = write(tmp_path / "numbers.gz", list("201021"))
    names = write(tmp_path / "names.txt", ["pos", "neg", "neg", "pos", "neg", "pos"])
    assert load_data(settings(lines, labels=str(numbers)), "all").labels.tolist() == [2, 1, 0, 2, 1]
    found = load_data(settings(lines, labels=str(names)), "all")
    assert found.labels.tolist() == [1, 0, 1, 0, 1] and found.modality.classes == ["neg", "pos"]
    for words, order in (("-1 1 1 -1 1 -1", ["-1", "1"]), ("1 b b 1 b 1", ["1", "b"]), ("9" * 20, ["9" * 20])):
        write(names, words.split() if " " in words else [words] * 6)
        assert load_data(settings(lines, labels=str(names)), "all").modality.classes == order


MISUSES = {
    "no file": (lambda d: d / "none.txt", {}, "no such file"),
    "bytes": (
        lambda d: bytes_of(d / "b.txt", b"good\nb\xffd\n"),
        {},
        "expected UTF-8 .* bytes in line 2",
    ),
    "broken": (
        lambda d: bytes_of(d / "b.txt.gz", gzip.compress(b"a b\n" * 99)[:-9]),
        {},
        "expected a text file, found",
    ),
    "empty": (lambda d: bytes_of(d / "b.txt", b"\n \n"), {}, "expected sentences, one a line, found none"),
    "one": (
        lambda d: bytes_of(d / "b.txt", b"a b\n"),
        {"part": "test"},
        "expected 2 different sentences or more",
    ),
    "size": (lambda d: bytes_of(d / "b.txt", b"a\nb\n"), {"size": 8}, "--data.size 8: is for images; .* holds text"),
    "longest": (lambda d: bytes_of(d / "b.txt", b"a\nb\n"), {"longest": 0}, "--data.longest 0: expected 1 or more"),
    "vocabulary": (
        lambda d: bytes_of(d / "b.txt", b"a\nb\n"),
        {"vocabulary": 4},
        "--data.vocabulary 4: expected 5 or",
    ),
    "labels": (
        lambda d: bytes_of(d / "b.txt", b"a\nb\n"),
        {"labels": "two"},
        "--data.labels .*two.txt: expected a label for each of the 2 lines of .*b.txt, found 3",
    ),
    "of images": (
        lambda d: bytes_of(d / "b.csv", b"a,b\n1,2\n3,4\n"),
        {"tokens": "bpe"},
        "--data.tokens bpe: is for text; .*b.csv is no .txt or .txt.gz",
    ),
    "gaps": (
        lambda d: bytes_of(d / "b.txt", b"a\nb\n"),
        {"labels": "gap"},
        "found none in line 2",
    ),
}


def bytes_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("make", "values", "message"), MISUSES.values(), ids=MISUSES.keys())
def test_a_broken_source_is_refused_by_name(make, values, message, tmp_path):
    write(tmp_path / "two.txt", ["1", "0", "1"])
    bytes_of(tmp_path / "gap.txt", b"1\n\n")
    values = {k: str(tmp_path / f"{v}.txt") if k == "labels" else v for k, v in values.items()}
    part = values.pop("part", "train")
    with pytest.raises(UserError, match=message) as error:
        load_data(settings(make(tmp_path), **values), part)
    assert "\n" not in str(error.value)
