"""Sentences of a file, one a line, as rows of token numbers, and the tokeniser that was built from them."""

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fvae.data.decode import reason
from fvae.data.samples import Samples, check_no_images, check_share, held_out, numbered
from fvae.errors import UserError
from fvae.settings import DataSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # by number: padding, beginning, end, unknown
UNKNOWN = SPECIAL.index("<unk>")
END = SPECIAL.index("</s>")


def holds_text(source: str) -> bool:
    """Whether a source is a file of sentences."""
    return source.lower().endswith((".txt", ".txt.gz"))


class Vocabulary:
    """A tokeniser of Hugging Face's ``tokenizers``, which turns lines into rows of numbers and back."""

    def __init__(self, tokenizer: "Tokenizer", longest: int):
        self.tokenizer, self.longest = tokenizer, longest

    @classmethod
    def built(cls, lines: Sequence[str], kind: Literal["word", "character", "bpe"], size: int, longest: int):
        """The most frequent words between spaces, the most frequent characters, or byte pairs (Sennrich et al., 2016),
        of these lines: ``size`` tokens, the special ones included; of byte pairs 260 at least, since all bytes are."""
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        special = list(SPECIAL)
        trainer: Any
        if kind == "bpe":
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(
                vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
            )
        else:
            tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL[UNKNOWN]))
            if kind == "word":
                tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            else:
                tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
                tokenizer.decoder = decoders.Fuse()
            trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=special, show_progress=False)
        found = re.compile("|".join(SPECIAL))  # in the text, as PTB's <unk>: a second number for them would be a hole
        tokenizer.train_from_iterator((found.sub(" ", line) for line in lines), trainer)
        return cls(tokenizer, longest)

    @classmethod
    def read(cls, path: Path, longest: int) -> "Vocabulary":
        """That of a file, as ``text`` gives it; raises ``UserError`` where it is none."""
        from tokenizers import Tokenizer

        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a run on text can't be used without it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: expected a tokeniser, found what can't be read ({reason(error)})") from None
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # from_str raises no class below it
            raise UserError(f"{path}: expected a tokeniser of Hugging Face's tokenizers ({error!s:.100})") from None
        if [tokenizer.id_to_token(i) for i in range(len(SPECIAL))] != list(SPECIAL):
            raise UserError(f"{path}: expected a tokeniser whose first tokens are {' '.join(SPECIAL)}, found another")
        return cls(tokenizer, longest)

    @property
    def text(self) -> str:
        return self.tokenizer.to_str()

    @property
    def digest(self) -> str:
        """A short text that is the same for the same tokens and merges alone, however a library writes them down."""
        merges = json.loads(self.text)["model"].get("merges", [])
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in merges]
        content = json.dumps([sorted(self.tokenizer.get_vocab().items()), pairs])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @property
    def shape(self) -> tuple[int, int]:
        """The longest sentence, with its end, and the number of tokens: a model's shape."""
        return self.longest + 1, self.tokenizer.get_vocab_size()

    def numbers(self, lines: Sequence[str]) -> tuple[np.ndarray, int]:
        """Lines to (N, T) int32, each with its end, padded with 0; and how many were cut at the longest."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(lines))]
        cut = sum(len(row) > self.longest for row in rows)
        width = min(self.longest, max(map(len, rows), default=0)) + 1
        found = np.zeros((len(rows), width), dtype=np.int32)
        for i, row in enumerate(rows):
            ids = np.array(row[: self.longest], dtype=np.int32)
            found[i, : len(ids)] = np.where(ids < UNKNOWN, UNKNOWN, ids)  # "</s>" in a text is no end of it
            found[i, len(ids)] = END
        return found, cut

    def lines(self, numbers: np.ndarray) -> list[str]:
        """Rows of numbers, up to the end of each, as text of one line (byte pairs can write the bytes of others)."""
        rows = [row[: ends[0]] if len(ends := np.flatnonzero(row == END)) else row for row in numbers]
        texts = [self.tokenizer.decode(row[row >= UNKNOWN].tolist(), skip_special_tokens=False) for row in rows]
        return [re.sub("[\r\n]", " ", text) for text in texts]


def load_texts(data: DataSettings, part: str = "train", vocabulary: Vocabulary | None = None) -> Samples:
    """The "train", "test" or "all" sentences of a file; "unseen" is all.

    Without a vocabulary, that of the training part. Empty lines are left out, long ones cut, both are counted. Whether
    a line is held out its text says, so that lines may come, go and change places, and none is on both sides.
    Raises ``UserError`` for a file that is missing, broken or empty, and for labels that don't fit.
    """
    where = f"--data {data.source}"
    check_share(data.held_out)
    check_no_images(data, "text")
    for flag, least in (("vocabulary", len(SPECIAL) + (256 if data.tokens == "bpe" else 1)), ("longest", 1)):
        if getattr(data, flag) < least:
            raise UserError(f"--data.{flag} {getattr(data, flag)}: expected {least} or more")
    path = Path(os.path.expanduser(data.source))
    lines = read_lines(path, where)
    labels, classes = read_labels(data, len(lines))
    kept = np.array([i for i, line in enumerate(lines) if line], dtype=int)
    if not len(kept):
        raise UserError(f"{where}: expected sentences, one a line, found none")
    names = [f"{path.name}[{i}]" for i in range(len(lines))]
    out = held_out([lines[i] for i in kept], data.held_out)
    training = np.array([i for i in kept if lines[i] not in out], dtype=int)
    if vocabulary is None:
        chosen = [lines[i] for i in training]
        vocabulary = Vocabulary.built(chosen, data.tokens, data.vocabulary, data.longest)
    skipped = [f"{path.name}[{i}]: empty" for i, line in enumerate(lines) if not line]
    if part == "test":
        skipped = []  # an empty line is on neither side: told with the other part
        if not out:
            raise UserError(f"{where}: expected 2 different sentences or more to hold some out for a test, found 1")
        kept = np.array([i for i in kept if lines[i] in out], dtype=int)
    elif part == "train":
        kept = training
    values, cut = vocabulary.numbers([lines[i] for i in kept])
    labels = None if labels is None else labels[kept]
    return Samples(values, [names[i] for i in kept], labels, skipped, [], classes, vocabulary, cut)


def read_lines(path: Path, where: str) -> list[str]:
    """The lines of a text file, without the spaces around them; raises ``UserError``."""
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}: expected UTF-8 text, found other bytes in line {line}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: expected a text file, found a broken one ({reason(error)})") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]


def read_labels(data: DataSettings, n: int) -> tuple[np.ndarray | None, list[str]]:
    """The labels of n lines, where ``--data.labels`` names a file of them; raises ``UserError``."""
    if data.labels is None:
        return None, []
    where = f"--data.labels {data.labels}"
    words = read_lines(Path(os.path.expanduser(data.labels)), where)
    if len(words) != n:
        raise UserError(f"{where}: expected a label for each of the {n} lines of {data.source}, found {len(words)}")
    if "" in words:
        raise UserError(f"{where}: expected a label in each line, found none in line {words.index('') + 1}")
    whole = all(word.isdecimal() and len(word) < 10 for word in words)
    return numbered([int(word) for word in words] if whole else words)
