"""Text: sentences of a file, one a line, as rows of token numbers, and the tokenizer that was built from them."""

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.data.decode import reason
from fvae.data.modality import Modality
from fvae.data.samples import Samples, check_no_images, check_share, held_out, numbered
from fvae.errors import UserError
from fvae.files import need_file, write_text
from fvae.settings import DataSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # by number: padding, beginning, end, unknown
VOCABULARY = "tokenizer.json"
UNKNOWN = SPECIAL.index("<unk>")
END = SPECIAL.index("</s>")


class Writing(NamedTuple):
    """How a language model writes: what divides its logits, the probability that counts, or a beam's width."""

    temperature: float = 1.0
    top_p: float = 1.0
    beam: int = 0


GREEDY = Writing(temperature=0.0)


@dataclass(frozen=True)
class Text(Modality):
    """Sentences as token numbers, of shape (max_length + 1, vocabulary size); ``known`` is their tokenizer.

    A model's is read from ``folder`` when it is first used, so that the model alone can do without.
    """

    known: "Vocabulary | None" = None
    folder: Path | None = None
    digest: str | None = None

    noun = ends = "sentences"
    items, notes_at_use = "lines", True
    visible, many, corners, side_by_side, draws, first = True, 10, 2, 1, 500, 256

    @property
    def dims(self) -> None:
        """None: sentences have as many values as they have tokens."""
        return None

    @property
    def size(self) -> str:
        return f"at most {self.shape[0] - 1} tokens of {self.shape[1]:,}"

    @property
    def vocabulary(self) -> "Vocabulary":
        """The tokenizer; raises ``UserError`` where there is none, or another than the model was trained with."""
        if self.known is not None:
            return self.known
        if self.folder is None:
            raise UserError("text: expected a tokenizer, found none: this model has not seen any text")
        path = self.folder / VOCABULARY
        found = Vocabulary.read(path, self.shape[0] - 1)
        if found.shape[1] != self.shape[1] or found.digest != self.digest:
            others = "as many others" if found.shape[1] == self.shape[1] else f"{found.shape[1]:,}"
            expected = f"expected its {self.shape[1]:,} tokens, found {others}"
            raise UserError(f"{path}: not the tokenizer of {self.folder}: {expected}")
        return found

    def collate(self, values: Any) -> Any:
        """No wider than the longest of these."""
        return values[:, : max(1, int((values != 0).sum(1).max()))] if len(values) else values

    def scaled(self, x: Tensor) -> None:
        return None

    def amount(self, x: Tensor) -> int:
        return int((x != 0).sum())

    @property
    def config(self) -> dict[str, Any]:
        digest = self.known.digest if self.known else self.digest
        return {**super().config, **({"vocabulary": digest} if digest else {})}

    def restored(self, config: dict[str, Any], folder: Path) -> "Text":
        return replace(self, classes=config.get("labels", ()), folder=folder, digest=config.get("vocabulary"))

    def kept_by(self, model: Modality, classes: Sequence[str]) -> Modality:
        return Text(model.shape, classes, self.vocabulary)

    def known_as(self, values: np.ndarray) -> np.ndarray:
        return np.array(self.vocabulary.lines(values), dtype=object)

    def error(self, data: np.ndarray, back: np.ndarray) -> str:
        return "each above what the model makes of its code"

    def named(self, ends: list[str]) -> Samples:
        if not all(map(str.strip, ends)):
            raise UserError("interpolate: expected sentences, found an empty one")
        values, cut = self.vocabulary.numbers(ends)
        return Samples(values, list(ends), modality=replace(self, known=self.vocabulary), cut=cut)

    def figures(self, samples: Samples, found: dict[str, Any]) -> dict[str, Any]:
        """Tokens, and exp(nats / tokens) of all text together, by the best bound there is."""
        tokens = int(np.count_nonzero(samples.values))
        nats = found.get("tighter_nats", found["nats"]) * len(samples)
        with np.errstate(over="ignore"):  # of a run that went astray it is infinite
            return {"tokens": tokens, "perplexity": float(np.exp(nats / tokens))}

    def notes_of_training(self, samples: Samples, test: Samples) -> list[str]:
        both = replace(samples, cut=samples.cut + test.cut)
        rest = self.notes(replace(test, cut=0), "the held-out sentences")
        return [*self.notes(both, "the training sentences"), *rest]

    def save(self, folder: Path) -> None:
        if self.known is not None:
            write_text(folder / VOCABULARY, self.known.text)

    def same(self, other: Modality) -> str:
        return "" if type(other) is type(self) and other.shape[1] == self.shape[1] else super().same(other)

    @property
    def facts(self) -> dict[str, Any]:
        return {"tokens": self.shape[1]}

    def drawn(self, model: Any, n: int, generator: torch.Generator) -> np.ndarray:
        e, y = model.codes(n, generator), model.draw_labels(n, generator)
        return self.decoded(model, e, y, writing=Writing(), generator=generator)

    def compared(self, drawn: dict[str, np.ndarray], out: Path) -> list[str]:
        parts = (f"## {name}\n\n" + "".join(f"- {line}\n" for line in lines) for name, lines in drawn.items())
        write_text(out / "samples.md", "\n".join(parts))
        return ["samples.md"]

    def shown(
        self,
        model: Any,
        e: Tensor,
        y: Tensor | None,
        writing: Writing = GREEDY,
        generator: torch.Generator | None = None,
        **how: Any,
    ) -> np.ndarray:
        """(N,) text."""
        model.check(y)
        z, decoder = model.prior.inverse(e, y), model.decoder
        if writing.beam:
            x = decoder.beam(z, writing.beam)
        else:
            x = decoder.draw(z, writing.temperature, writing.top_p, generator)
        return np.array(self.vocabulary.lines(x.cpu().numpy()), dtype=object)

    def check_out(self, out: Path | None, folder: bool = True) -> None:
        if out is None:
            return  # it is printed
        if out.suffix.lower() != ".txt":
            raise UserError(f"--out {out}: expected a name that ends in .txt, for sentences")
        need_file("--out", out)

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        """A sentence a line."""
        if out is None:
            print("\n".join(values))
            return
        write_text(out, "".join(f"{line}\n" for line in values))

    def sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | None) -> None:
        """The rows' sentences, with an empty line between rows, or between the pairs that are labelled."""
        rows = [np.concatenate(pair) for pair in zip(rows[::2], rows[1::2], strict=True)] if labels else rows
        self.write(np.array([line for row in rows for line in (*row, "")][:-1], dtype=object), out)

    def preview(self, model: Any, test: Samples, path: Path) -> None:
        """Sixteen sentences, drawn token by token."""
        generator = torch.Generator().manual_seed(0)
        self.write(self.drawn(model, 16, generator), path.with_suffix(".txt"))

    def notes(self, samples: Samples, what: str) -> list[str]:
        """Sentences that were truncated, and text of which more than a fifth is unknown to the vocabulary."""
        lines = []
        if samples.cut:
            most = self.vocabulary.longest
            lines += [f"cut {samples.cut} sentence{'s' * (samples.cut > 1)} at {most} tokens (--data.longest)"]
        unknown, tokens = int((samples.values == UNKNOWN).sum()), int((samples.values > END).sum())
        if unknown > 0.2 * tokens:
            part = f"{unknown:,} of {tokens:,} tokens ({100 * unknown / tokens:.0f} %)"
            spaceless = self.vocabulary.of_words and tokens < 3 * len(samples)
            hint = "; text without spaces between its words wants --data.tokens character" if spaceless else ""
            lines += [f"warning: {part} of {what} are unknown to the run's tokenizer{hint}"]
        return lines


def holds_text(source: str) -> bool:
    """Whether a source is a file of sentences."""
    return source.lower().endswith((".txt", ".txt.gz"))


class Vocabulary:
    """A tokenizer of Hugging Face's ``tokenizers``, which turns lines into rows of numbers and back."""

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
            raise UserError(f"{path}: expected a tokenizer, found what can't be read ({reason(error)})") from None
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # from_str raises no class below it
            raise UserError(f"{path}: expected a tokenizer of Hugging Face's tokenizers ({error!s:.100})") from None
        if [tokenizer.id_to_token(i) for i in range(len(SPECIAL))] != list(SPECIAL):
            raise UserError(f"{path}: expected a tokenizer whose first tokens are {' '.join(SPECIAL)}, found another")
        return cls(tokenizer, longest)

    @property
    def text(self) -> str:
        return self.tokenizer.to_str()

    @property
    def of_words(self) -> bool:
        """Whether its tokens are words between spaces."""
        return json.loads(self.text)["pre_tokenizer"].get("type") == "WhitespaceSplit"

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


def load_text(data: DataSettings, part: str = "train", like: Modality | None = None) -> Samples:
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
    if isinstance(like, Text):
        vocabulary = like.vocabulary
    else:
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
    modality = Text(vocabulary.shape, classes, vocabulary)
    return Samples(values, [names[i] for i in kept], labels, skipped, modality, cut)


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
