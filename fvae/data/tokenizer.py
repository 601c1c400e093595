"""The tokenizer of a text model: trained on its training data, saved beside its weights."""

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fvae.data.files import argument_named, reading
from fvae.documents import JSON, Document, read_document
from fvae.errors import InputError
from fvae.schema import Natural
from fvae.tokens import EOS, PAD, SPECIAL_TOKENS, UNK

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILE = "tokenizer.json"
LONG_WORD = {"word": r"\S{101,}", "bpe": r"\w{101,}|[^\w\s]{101,}", "character": "(?!)"}  # which none is learned from
Kind = Literal["word", "character", "bpe"]


class TokenModel(Document, extra="ignore"):
    """The tokens by their numbers and, of byte pairs, the merges."""

    type: Literal["WordLevel", "BPE"]
    vocab: dict[str, Natural]
    merges: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = []


class TokenizerFile(Document, extra="ignore"):
    """The content of tokenizer.json, as far as it has an effect."""

    truncation: None = None
    padding: None = None
    normalizer: None = None
    post_processor: None = None
    pre_tokenizer: dict[str, Any]
    model: TokenModel


def make_backend(kind: Kind, **model: Any) -> "tokenizers.Tokenizer":
    """A tokenizer of one of the kinds, with a model of these tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    if kind == "bpe":
        backend = Tokenizer(models.BPE(**model))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        return backend
    backend = Tokenizer(models.WordLevel(**model, unk_token=SPECIAL_TOKENS[UNK]))
    if kind == "word":
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        backend.decoder = decoders.Fuse()
    return backend


class Tokenizer:
    """A tokenizer of Hugging Face's ``tokenizers``, which turns sentences into padded token numbers and back."""

    def __init__(self, backend: "tokenizers.Tokenizer", max_length: int):
        self.backend, self.max_length = backend, max_length

    @classmethod
    def train(cls, lines: Sequence[str], kind: Kind, vocabulary_size: int, max_length: int) -> "Tokenizer":
        """The most frequent words between spaces, the most frequent characters, or byte pairs (Sennrich et al., 2016)
        of these lines.

        Words of more than 100 characters are left out. ``vocabulary_size`` counts the special tokens; byte pairs need
        260 at least, since all bytes are tokens.
        """
        from tokenizers import pre_tokenizers, trainers

        alphabet: dict[str, Any] = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if kind == "bpe" else {}
        trainer = (trainers.BpeTrainer if kind == "bpe" else trainers.WordLevelTrainer)(
            vocab_size=vocabulary_size,
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=sys.stderr.isatty(),
            **alphabet,
        )
        backend = make_backend(kind)
        # Special tokens in the text, as PTB's <unk>, must not get a second number.
        left_out = re.compile("|".join([*SPECIAL_TOKENS, LONG_WORD[kind]]))
        backend.train_from_iterator((left_out.sub(" ", line) for line in lines), trainer)
        return cls(backend, max_length)

    @classmethod
    def load(cls, path: Path, max_length: int) -> "Tokenizer":
        """The tokenizer of a file with the content of ``json``; raises ``InputError``.

        The tokenizer is made again from its kind, tokens and merges: no other part of the file has an effect.
        """
        missing = "no such file; a model of text can't be used without it"
        content = read_document(path, TokenizerFile, JSON._replace(limit=2**28), missing)
        vocab, splitter = content.model.vocab, content.pre_tokenizer.get("type")
        kind: Kind = "bpe" if content.model.type == "BPE" else "word" if splitter == "WhitespaceSplit" else "character"
        tokens = sorted(vocab, key=vocab.__getitem__)
        with argument_named("", str(path)), reading("a tokenizer of Hugging Face's tokenizers"):
            if tuple(tokens[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
                raise InputError(f"expected a tokenizer whose first tokens are {' '.join(SPECIAL_TOKENS)}")
            if [vocab[token] for token in tokens] != list(range(len(vocab))):
                raise InputError(f"model.vocab: expected the numbers 0 to {len(vocab) - 1}, found others")
            merges = {"merges": list(map(tuple, content.model.merges))} if kind == "bpe" else {}
            backend = make_backend(kind, vocab=vocab, **merges)
            backend.add_special_tokens(list(SPECIAL_TOKENS))
        return cls(backend, max_length)

    @property
    def json(self) -> str:
        return self.backend.to_str()

    @property
    def splits_words(self) -> bool:
        """Whether its tokens are words between spaces."""
        return json.loads(self.json)["pre_tokenizer"].get("type") == "WhitespaceSplit"

    @property
    def digest(self) -> str:
        """A short text that depends on the tokens and merges only, however a library writes them down."""
        merges = json.loads(self.json)["model"].get("merges", [])
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in merges]
        content = json.dumps([sorted(self.backend.get_vocab().items()), pairs])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @property
    def shape(self) -> tuple[int, int]:
        """A model's shape: the longest sentence, its end included, and the vocabulary size."""
        return self.max_length + 1, self.backend.get_vocab_size()

    def encode(self, lines: Sequence[str]) -> tuple[np.ndarray, int]:
        """Lines to token numbers (N, T) int32, each with its end, padded; and how many were truncated."""
        rows = [encoding.ids for encoding in self.backend.encode_batch(list(lines))]
        truncated = sum(len(row) > self.max_length for row in rows)
        width = min(self.max_length, max(map(len, rows), default=0)) + 1
        numbers = np.full((len(rows), width), PAD, dtype=np.int32)
        for i, row in enumerate(rows):
            ids = np.array(row[: self.max_length], dtype=np.int32)
            numbers[i, : len(ids)] = np.where(ids < UNK, UNK, ids)  # "</s>" in a text is no end of it
            numbers[i, len(ids)] = EOS
        return numbers, truncated

    def decode(self, numbers: np.ndarray) -> list[str]:
        """Token numbers (N, T), each row up to its end, as text of one line (byte pairs can make line breaks)."""
        rows = [row[: ends[0]] if len(ends := np.flatnonzero(row == EOS)) else row for row in numbers]
        texts = [self.backend.decode(row[row >= UNK].tolist(), skip_special_tokens=False) for row in rows]
        return [re.sub("[\r\n]", " ", text) for text in texts]
