"""Sentences as a source: tokenizers, what is held out, and files that are refused."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from sources import LINES, read, write, write_lines

from fvae.data import TOKENIZER_FILE, Text, Tokenizer
from fvae.errors import InputError
from fvae.tokens import EOS, PAD, SPECIAL_TOKENS, UNK


@pytest.fixture
def cats(tmp_path) -> Path:
    return write_lines(tmp_path / "cats.txt", LINES * 8)


@pytest.mark.parametrize("kind", ["word", "character", "bpe"])
def test_known_text_is_encoded_without_loss(kind):
    """Lines to numbers, each with its end, padded, and back; of byte pairs any text."""
    lines = [*LINES, "江靜櫂歌歇，溪深樵語聞。"]
    tokenizer = Tokenizer.train(lines, kind, 400, 80)
    assert [tokenizer.backend.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    numbers, truncated = tokenizer.encode(lines)
    assert numbers.dtype == np.int32 and truncated == 0 and numbers.max() < tokenizer.shape[1] <= 400
    assert tokenizer.decode(numbers) == lines
    for row in numbers:
        n = int((row != PAD).sum())
        assert row[n - 1] == EOS and (row[:n] != PAD).all() and (row[: n - 1] >= UNK).all()
    if kind == "bpe":
        assert tokenizer.decode(tokenizer.encode(["Ünseen 文 words"])[0]) == ["Ünseen 文 words"]
        ends = [tokenizer.backend.token_to_id(token) for token in "Ċč"]  # the bytes of line feed and return
        assert tokenizer.decode(np.array([[ends[0], 70, ends[1], EOS]]))[0].count(" ") == 2


def test_the_vocabulary_keeps_the_most_frequent(tmp_path):
    """Others are unknown; a text's own <unk> is that token, and its </s> no end."""
    tokenizer = Tokenizer.train(["b b b <unk>", "a a <unk>", "c"], "word", 6, 10)
    assert tokenizer.shape == (11, 6)
    numbers, _ = tokenizer.encode(["a b c <unk> </s> b", ""])
    assert numbers.tolist() == [[5, 4, UNK, UNK, UNK, 4, EOS], [EOS, *[PAD] * 6]]
    assert tokenizer.decode(numbers) == ["a b <unk> <unk> <unk> b", ""]


def test_a_tokenizer_is_saved_with_its_model(tmp_path):
    """And no other is loaded for it: one that is missing, damaged, of other words, or of as many others."""
    tokenizer = Tokenizer.train(LINES, "word", 100, 10)
    text, path = Text(tokenizer.shape, ["a"], tokenizer), tmp_path / TOKENIZER_FILE
    assert Text(tokenizer.shape).load({}, tmp_path).tokenizer is None
    text.save(tmp_path)
    loaded = Text(tokenizer.shape).load(text.config, tmp_path)
    assert loaded.tokenizer.digest == tokenizer.digest and loaded.classes == ["a"]
    for content, message in (
        ("{}", "pre_tokenizer: expected a value, found none"),
        (Tokenizer.train(["x y"], "word", 20, 9).json, "not the tokenizer of .*: expected its 13 tokens, found 6$"),
        (tokenizer.json.replace('"mat"', '"hat"'), "not the tokenizer of .*: expected its 13 tokens, found as many o"),
        (tokenizer.json.replace("<s>", "<x>"), "expected a tokenizer whose first tokens are <pad> <s> </s> <unk>"),
        (None, "no such file; a model of text can't be used without it"),
    ):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(InputError, match=f"{TOKENIZER_FILE}: {message}"):
            Text(tokenizer.shape).load(text.config, tmp_path)
    with pytest.raises(InputError, match="expected a model with a tokenizer, found one that has not been trained on"):
        Text(tokenizer.shape).read(LINES)


def test_sentences_stay_held_out_when_others_are_added(cats, tmp_path):
    """Training and held-out lines share no text, and stay what they are when others come, in any order, in any file."""

    def texts(path, part):
        data = read(path, part, held_out=0.3)
        return data.modality.tokenizer.decode(data.values)

    train, test = (texts(cats, part) for part in ("train", "test"))
    assert len(train) + len(test) == 40 and not set(train) & set(test) and test
    moved = write_lines(tmp_path / "moved.txt", sorted([*LINES * 8, "the cat and the dog"]))
    assert set(test) <= set(texts(moved, "test")) and set(train) <= set(texts(moved, "train"))


def test_a_model_reads_text_with_its_tokenizer(cats, tmp_path):
    """A model without one takes text of as many tokens as it has."""
    tokenizer = Tokenizer.train(["a cat"], "word", 100, 3)
    data = read(cats, "train", Text(tokenizer.shape, (), tokenizer))
    assert data.modality.tokenizer is tokenizer and data.shape == (4, 6) and data.truncated > 0
    shape = read(cats, "train").shape
    assert read(cats, "train", Text(shape)).shape == shape
    with pytest.raises(InputError, match=r"expected sentences of at most 9 tokens of 7, found sentences of .* of 13$"):
        read(cats, "all", Text((10, 7)))


def test_a_batch_is_as_wide_as_its_longest(cats):
    data = read(cats)
    widths = {len(line.split()) + 1: i for i, line in enumerate(LINES)}
    for width, i in widths.items():
        assert data.modality.collate(data.values[i : i + 1]).shape == (1, width)
    assert data.modality.collate(data.values[np.array([1, 0])]).shape == (2, 7)
    assert data.shape == (201, 13) and data.modality.noun == "sentences"


def test_lines_that_are_empty_long_or_odd(tmp_path):
    """Empty ones are skipped by name, long ones truncated and counted, spaces and line ends forgiven."""
    path = tmp_path / "odd.txt"
    path.write_bytes(b"\xef\xbb\xbfa b\r\n\r\n   \r\n  c d e  \r\n" + b"a " * 10_000 + b"\r\na")
    data = read(path, max_length=50)
    assert data.modality.tokenizer.decode(data.values) == ["a b", "c d e", " ".join(["a"] * 50), "a"]
    assert data.skipped == ["odd.txt[1]: empty", "odd.txt[2]: empty"] and data.truncated == 1
    assert data.names == ["odd.txt[0]", "odd.txt[3]", "odd.txt[4]", "odd.txt[5]"]
    long = "1 of the lines longer than 2,500 characters and cut, first line 5"
    assert data.modality.notes(data, "it") == [long, "1 sentence truncated to 50 tokens (`max_length`)"]
    assert [len(read(path, part).skipped) for part in ("train", "test")] == [2, 0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "mixed"])
def test_lines_end_as_on_any_system(end, tmp_path):
    ends = ["\r", "\n", "\r\n", "\n", "\r\n"] if end == "mixed" else [end] * 5
    text = "".join(line + e for line, e in zip(LINES, ends, strict=True))
    data = read(write(tmp_path / "a.txt", text.encode()))
    assert data.modality.tokenizer.decode(data.values) == LINES and data.skipped == []


@pytest.mark.parametrize("kind", ["word", "bpe", "character"])
def test_nothing_is_learned_from_a_long_word(kind, tmp_path):
    """Nor does it take long; the line is named."""
    letters = "".join(np.random.default_rng(0).choice(list("acgt"), 1_000_000))
    plain = read(write_lines(tmp_path / "a.txt", LINES * 20), tokenizer=kind).shape
    data = read(write_lines(tmp_path / "b.txt", [*LINES * 20, letters]), tokenizer=kind)
    assert data.shape[1] <= plain[1] + (kind == "character") and len(data) == 101  # "g" is in no other line
    assert data.remarks == ["1 of the lines longer than 10,000 characters and cut, first line 101"]
    assert data.truncated == (kind != "word")


def test_characters_that_cannot_be_seen_are_named(tmp_path):
    data = read(write_lines(tmp_path / "a.txt", [*LINES, "a\u200bb", "c\x07"]))
    assert data.remarks == ["2 of the lines with invisible characters, first line 6"]
    assert data.modality.notes_of_training(data, data.take(np.arange(5)))[0] == data.remarks[0]


def test_labels_come_from_their_file(tmp_path):
    """By number, or by name in the order of names, of the lines that are kept."""
    lines = write_lines(tmp_path / "five.txt", [LINES[0], "", *LINES[1:]])
    numbers = write_lines(tmp_path / "numbers.gz", list("201021"))
    names = write_lines(tmp_path / "names.txt", ["pos", "neg", "neg", "pos", "neg", "pos"])
    assert read(lines, labels=str(numbers)).labels.tolist() == [2, 1, 0, 2, 1]
    found = read(lines, labels=str(names))
    assert found.labels.tolist() == [1, 0, 1, 0, 1] and found.modality.classes == ["neg", "pos"]
    for words, order in (("-1 1 1 -1 1 -1", ["-1", "1"]), ("1 b b 1 b 1", ["1", "b"]), ("9" * 20, ["9" * 20])):
        write_lines(names, words.split() if " " in words else [words] * 6)
        assert read(lines, labels=str(names)).modality.classes == order


def test_a_perplexity_may_be_infinite(cats):
    """That of a model whose training diverged."""
    data = read(cats)
    tokens = int((data.values != PAD).sum())
    assert data.modality.figures(data, {"nats": 1e5}) == {"tokens": tokens, "perplexity": np.inf}


def test_unknown_words_are_noted(cats):
    """With advice where text has no spaces between its words."""
    cats = read(cats).modality
    data = cats.read(["the xx cat sat yy", "xx yy zz"])
    assert cats.notes(data, "it") == ["warning: 5 of 8 tokens (62 %) of it are unknown to the model's tokenizer"]
    (note,) = cats.notes(cats.read(["江靜櫂歌歇"]), "it")
    assert note.endswith("; for text without spaces between its words set `tokenizer` to character")


def test_text_is_written_to_a_file_or_a_stream(tmp_path):
    text, stream, lines = Text((3, 7)), io.StringIO(), np.array(["a b", "c"], dtype=object)
    text.check_out(None)
    text.check_out(tmp_path / "a.txt")
    for out in (stream, tmp_path / "a.txt"):
        text.write(lines, out)
    assert stream.getvalue() == (tmp_path / "a.txt").read_text() == "a b\nc\n"
    text.write_sheet([lines, lines], ["data", "model"], stream := io.StringIO())
    assert stream.getvalue() == "a b\nc\na b\nc\n"
    with pytest.raises(InputError, match=r"^out: .*a.md: expected a name that ends in .txt, for sentences$"):
        text.check_out(tmp_path / "a.md")


TWO = b"a\nb\n"
MISUSES = {
    "no file": ("none.txt", None, {}, "source: .*none.txt: no such file or folder"),
    "bytes": (
        "b.txt",
        b"good\nb\xffd\n",
        {},
        "source: .*expected UTF-8 text, found other bytes in line 2, as of UTF-16",
    ),
    "UTF-16": ("b.txt", "a\nb".encode("utf-16"), {}, "source: .*found other bytes in line 1, as of UTF-16"),
    "NUL": ("b.txt", b"a\r\0b\0\n", {}, "source: .*found NUL characters in line 2, is this UTF-16"),
    "empty": ("b.txt", b"\n \n", {}, "source: .*expected sentences, one a line, found none"),
    "one": ("b.txt", b"a b\n", {"part": "test"}, "source: .*expected 2 different sentences or more"),
    "size": ("b.txt", TWO, {"size": 8}, "size: expected no value but for images, found 8 for .* holds sentences"),
    "byte pairs": (
        "b.txt",
        TWO,
        {"tokenizer": "bpe", "vocabulary_size": 259},
        "vocabulary_size: expected 260 or more for byte pairs, found 259",
    ),
    "labels": (
        "b.txt",
        TWO,
        {"labels": b"1\n0\n1\n"},
        "labels: .*labels.txt: expected a label for each of the 2 lines of .*b.txt, found 3",
    ),
    "gaps": ("b.txt", TWO, {"labels": b"1\n\n"}, "labels: .*expected a label in each line, found none in line 2"),
    "no labels": ("b.txt", TWO, {"labels": None}, "labels: .*labels.txt: expected a text file, found none"),
    "of tables": ("b.csv", b"a,b\n1,2\n3,4\n", {"tokenizer": "bpe"}, "tokenizer: expected no value but for sentences"),
    "broken": ("b.txt.gz", gzip.compress(b"a b\n" * 99)[:-9], {}, "source: .*expected a text file, found none or a b"),
}


@pytest.mark.parametrize(("name", "content", "settings", "message"), MISUSES.values(), ids=MISUSES.keys())
def test_a_broken_source_is_refused_by_name(name, content, settings, message, tmp_path):
    settings = dict(settings)
    if "labels" in settings:
        labels, settings["labels"] = settings["labels"], str(tmp_path / "labels.txt")
        labels is None or write(tmp_path / "labels.txt", labels)
    content is None or (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^{message}") as error:
        read(tmp_path / name, settings.pop("part", "train"), **settings)
    assert "\n" not in str(error.value)
