"""Text: the sentences of a file, one a line, as token numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from fvae.data.files import argument_named, local_path, read_bytes, reading
from fvae.data.modality import DataConfig, Modality
from fvae.data.samples import Samples, held_out, numbered, part_of
from fvae.data.tokenizer import TOKENIZER_FILE, Tokenizer
from fvae.documents import check_document
from fvae.errors import InputError
from fvae.files import write_text
from fvae.schema import NonNegative, Settings, checked
from fvae.settings import DataSettings
from fvae.tokens import EOS, PAD, SPECIAL_TOKENS, UNK

CHARACTERS = 50  # of a line that are read, for each token of the longest sentence
INVISIBLE = "[\x01-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"


class Generation(Settings):
    """How sentences are generated."""

    token_temperature: NonNegative = 1.0
    """text: divides the logits of the tokens; 0 takes the most probable one"""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """text: share of the probability that tokens are drawn from"""
    beam: Annotated[int, Field(ge=1, le=1000)] | None = None
    """text: draw nothing, but take the most probable sentence that a beam of this width finds"""

    @model_validator(mode="after")
    def consistent(self) -> Any:
        for name in ("token_temperature", "top_p"):
            if self.beam and getattr(self, name) != 1:
                raise ValueError(f"{name}: expected no `beam` with it, which draws nothing, found {self.beam}")
        return self


GREEDY = Generation(token_temperature=0.0)


class TextConfig(DataConfig):
    """What ``config.json`` keeps of text."""

    vocabulary: str | None = None
    """the digest of the tokenizer"""


@dataclass(frozen=True)
class Text(Modality):
    """Sentences as token numbers; its shape is (max_length + 1, vocabulary size)."""

    tokenizer: Tokenizer | None = None

    noun, items = "sentences", "lines"
    default_n, default_corners, default_draws, row_length, init_samples = 10, 2, 500, 1, 256
    suffixes = sheet_suffixes = (".txt",)
    fixed_settings = ("tokenizer", "vocabulary_size", "max_length")

    @property
    def dims(self) -> None:
        """None: sentences have as many values as they have tokens."""
        return None

    @property
    def size(self) -> str:
        return f"at most {self.shape[0] - 1} tokens of {self.shape[1]:,}"

    @property
    def facts(self) -> dict[str, Any]:
        return {"tokens": self.shape[1]}

    def need_tokenizer(self) -> Tokenizer:
        """The tokenizer; raises ``InputError`` where there is none."""
        if self.tokenizer is None:
            raise InputError("expected a model with a tokenizer, found one that has not been trained on text")
        return self.tokenizer

    def mismatch(self, other: Modality) -> str:
        if not isinstance(other, Text) or other.shape[1] != self.shape[1] or other.shape[0] > self.shape[0]:
            return super().mismatch(other)
        if self.tokenizer and other.tokenizer and other.tokenizer.digest != self.tokenizer.digest:
            return "expected sentences as the model's tokenizer encodes them, found those of another one"
        return ""

    def merge_into(self, model: Modality, classes: Sequence[str]) -> Modality:
        return Text(model.shape, classes, self.tokenizer)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Token numbers (N, T), padded, as int32."""
        length, size = self.shape
        if values.ndim != 2 or not 0 < values.shape[1] <= length or not len(values) or values.dtype.kind not in "iu":
            expected = f"token numbers (N, T) with T at most {length}"
            raise InputError(f"expected {expected}, found {values.dtype} {values.shape}")
        self.check_all((values >= 0) & (values < size), values, f"token numbers 0 .. {size - 1}")
        return values.astype(np.int32, copy=False)

    def read(self, names: Sequence[str]) -> Samples:
        """Sentences; each one's name is its text."""
        if not all(map(str.strip, names)):
            raise InputError("expected sentences, found an empty one")
        values, truncated = self.need_tokenizer().encode(names)
        return Samples(values, list(names), modality=self, truncated=truncated)

    def collate(self, values: Any) -> Any:
        """Token numbers (N, T), no wider than the longest sentence."""
        return values[:, : max(1, int((values != PAD).sum(1).max()))] if len(values) else values

    def check_input(self, x: Tensor, continuous: bool = False) -> None:
        self.to_stored(x.cpu().numpy())

    def scaled(self, x: Tensor) -> None:
        return None

    def amount(self, x: Tensor) -> int:
        return int((x != PAD).sum())

    def to_output(self, values: np.ndarray) -> np.ndarray:
        """(N,) text."""
        return np.array(self.need_tokenizer().decode(values), dtype=object)

    def decode_options(self, **given: Any) -> dict[str, Any]:
        return {"generation": checked(Generation, given, lax=True)}

    def decode_batch(self, model: Any, e: Tensor, y: Tensor | None, **options: Any) -> np.ndarray:
        e, y = model.inputs(y, e=e)
        z, g, generator = model.prior.inverse(e, y), options.get("generation", GREEDY), options.get("generator")
        x = model.decoder.beam(z, g.beam) if g.beam else model.decoder.draw(z, g.token_temperature, g.top_p, generator)
        return self.to_output(x.cpu().numpy())

    def sample(self, model: Any, n: int, generator: Any) -> np.ndarray:
        e, y = model.codes(n, generator), model.draw_labels(n, generator)
        return self.decode(model, e, y, generation=Generation(), generator=generator)

    def error(self, data: np.ndarray, reconstructed: np.ndarray) -> str:
        return "each followed by its reconstruction"

    def figures(self, samples: Samples, found: dict[str, Any]) -> dict[str, Any]:
        """The number of tokens, and the perplexity exp(nats / tokens) of all text together, by the tightest bound."""
        tokens = int(np.count_nonzero(samples.values != PAD))
        nats = found.get("tighter_nats", found["nats"]) * len(samples)
        with np.errstate(over="ignore"):  # infinite for a model whose training diverged
            return {"tokens": tokens, "perplexity": float(np.exp(nats / tokens))}

    def check_out(self, out: Path | None, folder: bool = True, sheet: bool = False) -> None:
        """A name is optional: ``write`` takes an open file, too."""
        if out is not None:
            super().check_out(out, folder, sheet)

    def write(self, values: np.ndarray, out: Path | TextIO, labels: np.ndarray | None = None) -> None:
        """A sentence a line, to a file's name or an open file."""
        text = "".join(f"{line}\n" for line in values)
        if isinstance(out, Path):
            write_text(out, text)
        else:
            out.write(text)

    def write_sheet(self, rows: list[np.ndarray], labels: list[str] | None, out: Path | TextIO) -> None:
        """The rows' sentences, with an empty line between rows, or between the pairs that are labelled."""
        rows = [np.concatenate(pair) for pair in zip(rows[::2], rows[1::2], strict=True)] if labels else rows
        self.write(np.array([line for row in rows for line in (*row, "")][:-1], dtype=object), out)

    def write_comparison(self, samples: dict[str, np.ndarray], out: Path) -> list[str]:
        parts = (f"## {name}\n\n" + "".join(f"- {line}\n" for line in lines) for name, lines in samples.items())
        write_text(out / "samples.md", "\n".join(parts))
        return ["samples.md"]

    @property
    def config(self) -> dict[str, Any]:
        return {**super().config, **({"vocabulary": self.tokenizer.digest} if self.tokenizer else {})}

    def save(self, folder: Path) -> None:
        if self.tokenizer:
            write_text(folder / TOKENIZER_FILE, self.tokenizer.json)

    def load(self, config: dict[str, Any], folder: Path) -> "Text":
        """With the tokenizer that the model was trained with; raises ``InputError`` for another."""
        kept = check_document(folder / "config.json", TextConfig, config)
        if kept.vocabulary is None:
            return replace(self, classes=kept.labels)
        path = folder / TOKENIZER_FILE
        tokenizer, size = Tokenizer.load(path, self.shape[0] - 1), self.shape[1]
        if tokenizer.digest != kept.vocabulary or tokenizer.shape[1] != size:
            found = "as many others" if tokenizer.shape[1] == size else f"{tokenizer.shape[1]:,}"
            raise InputError(f"{path}: not the tokenizer of {folder}: expected its {size:,} tokens, found {found}")
        return replace(self, classes=kept.labels, tokenizer=tokenizer)

    def notes(self, samples: Samples, what: str) -> list[str]:
        """Sentences that were truncated, and text of which more than a fifth is unknown to the tokenizer."""
        lines = list(samples.remarks)
        if n := samples.truncated:
            lines += [f"{n} sentence{'s' * (n > 1)} truncated to {self.shape[0] - 1} tokens (`max_length`)"]
        unknown, tokens = int((samples.values == UNK).sum()), int((samples.values > EOS).sum())
        if unknown > 0.2 * tokens:
            part = f"{unknown:,} of {tokens:,} tokens ({100 * unknown / tokens:.0f} %)"
            spaceless = self.need_tokenizer().splits_words and tokens < 3 * len(samples)
            hint = "; for text without spaces between its words set `tokenizer` to character" if spaceless else ""
            lines += [f"warning: {part} of {what} are unknown to the model's tokenizer{hint}"]
        return lines

    def notes_of_training(self, samples: Samples, test: Samples) -> list[str]:
        both = replace(samples, truncated=samples.truncated + test.truncated)
        held_out = self.notes(replace(test, truncated=0), "the held-out sentences")
        return [*self.notes(both, "the training sentences"), *held_out]

    def trivial_bound(self, train: Samples, test: Samples) -> tuple[float, str]:
        """Of tokens drawn independently, as frequent as in the training sentences."""
        counts = np.bincount(train.values[train.values != PAD], minlength=self.shape[1]) + 1
        tokens = test.values[test.values != PAD]
        return -float(np.log(counts / counts.sum())[tokens].sum()) / len(test), "independent tokens by their frequency"


def holds_text(source: str) -> bool:
    """Whether a source is a file of sentences."""
    return source.lower().endswith((".txt", ".txt.gz"))


def load_text(data: DataSettings, part: str, like: Modality | None) -> Samples:
    """A part of the sentences of a file.

    Without a tokenizer in ``like``, one is trained on the training part. Empty lines are skipped, long ones cut to 50
    characters for each of ``max_length`` tokens, then truncated to these. Whether a line is held out depends on its
    text, so that lines may come, go and move, and none is on both sides.
    Raises ``InputError`` for a file that is broken or empty, and for labels that don't match it.
    """
    least = len(SPECIAL_TOKENS) + 256
    if data.tokenizer == "bpe" and data.vocabulary_size < least:
        raise InputError(f"expected {least} or more for byte pairs, found {data.vocabulary_size}", "vocabulary_size")
    path = local_path(data.source)
    lines = read_lines(path)
    labels, classes = read_labels(data, len(lines))
    kept = np.flatnonzero([bool(line) for line in lines])
    if not len(kept):
        raise InputError("expected sentences, one a line, found none")
    tokenizer, limit = like.tokenizer if isinstance(like, Text) else None, CHARACTERS * data.max_length
    if tokenizer is None:
        out = held_out([lines[i] for i in kept], data.held_out)
        training = [lines[i][:limit] for i in kept if lines[i] not in out]
        tokenizer = Tokenizer.train(training, data.tokenizer, data.vocabulary_size, data.max_length)
    chosen = kept[part_of([lines[i] for i in kept], data.held_out, part, "sentences")]
    long = [i + 1 for i in chosen if len(lines[i]) > limit]
    invisible = [i + 1 for i in chosen if re.search(INVISIBLE, lines[i])]
    kinds = {f"longer than {limit:,} characters and cut": long, "with invisible characters": invisible}
    remarks = [f"{len(found):,} of the lines {kind}, first line {found[0]}" for kind, found in kinds.items() if found]
    # An empty line is in neither part: it is reported with the training part only.
    skipped = [f"{path.name}[{i}]: empty" for i, line in enumerate(lines) if not line and part != "test"]
    values, truncated = tokenizer.encode([lines[i][:limit] for i in chosen])
    labels = None if labels is None else labels[chosen]
    names = [f"{path.name}[{i}]" for i in chosen]
    return Samples(values, names, labels, skipped, Text(tokenizer.shape, classes, tokenizer), truncated, remarks)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without the spaces around them; raises ``InputError``."""
    with reading("a text file"):
        content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"expected UTF-8 text, found other bytes in line {line}, as of UTF-16 or Latin-1") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (i := text.find("\0")) >= 0:
        line = text.count("\n", 0, i) + 1
        raise InputError(f"expected UTF-8 text, found NUL characters in line {line}, is this UTF-16?")
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def read_labels(data: DataSettings, n: int) -> tuple[np.ndarray | None, list[str]]:
    """The labels of n lines, where ``data.labels`` names a file of them; raises ``InputError``."""
    if data.labels is None:
        return None, []
    with argument_named("labels", data.labels):
        words = read_lines(local_path(data.labels))
        if len(words) != n:
            raise InputError(f"expected a label for each of the {n} lines of {data.source}, found {len(words)}")
        if "" in words:
            raise InputError(f"expected a label in each line, found none in line {words.index('') + 1}")
    whole = all(word.isdecimal() and len(word) < 10 for word in words)
    return numbered([int(word) for word in words] if whole else words)
