"""What commands do with data by their kind, images, rows of numbers or sentences: decode, name and write them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fvae.checkpoint import read_config
from fvae.data import Shape
from fvae.data.samples import NOUNS
from fvae.data.texts import Vocabulary
from fvae.data.vectors import nameless
from fvae.errors import UserError
from fvae.evaluate import bits_of
from fvae.model import LatentModel
from fvae.outputs import need_images_out, need_lines_out, need_rows_out, write_images, write_lines, write_rows
from fvae.pictures import to_uint8
from fvae.runs import VOCABULARY


class Writing(NamedTuple):
    """How a language model writes: what divides its logits, the probability that counts, or a beam's width."""

    temperature: float = 1.0
    top_p: float = 1.0
    beam: int = 0


GREEDY = Writing(temperature=0.0)


class Kind:
    """The contract of a kind of data; ``run`` is the model's folder, for messages."""

    noun: str  # of several of them
    ends: str  # what is named to go between
    temperature = 1.0  # of the codes that samples are drawn from
    many, few = 64, 10  # samples, where nobody says how many; in a row of a sweep
    draws = 1  # of u, for the bound, where nobody says how many

    def __init__(self, model: LatentModel, run: Path):
        self.model, self.run = model, run

    def need_out(self, out: Path | None, folder: bool = True) -> None:
        """Refuse a name that ``write`` can't use, before the work is done; raises ``UserError``."""
        raise NotImplementedError

    @torch.no_grad()
    def decoded(self, e: Tensor, y: Tensor | None = None, **how: Any) -> np.ndarray:
        """Codes (N, D), and labels where the model takes them, as their users know them: (N, ...)."""
        parts = [self.some(e[i : i + 64], None if y is None else y[i : i + 64], **how) for i in range(0, len(e), 64)]
        return np.concatenate(parts)

    def some(self, e: Tensor, y: Tensor | None, **how: Any) -> np.ndarray:
        raise NotImplementedError

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        """Write what ``decoded`` gives."""
        raise NotImplementedError


class Images(Kind):
    """(N, H, W, C) uint8."""

    noun, ends = NOUNS[3], "image files"
    temperature = 0.8

    def need_out(self, out: Path | None, folder: bool = True) -> None:
        if out is not None and out.suffix.lower() in (".csv", ".txt"):
            expected = "a picture's name, an .npz or a folder's name"
            raise UserError(f"--out {out}: {self.run} holds images; expected {expected}")
        need_images_out(needed(out), folder)

    def some(self, e: Tensor, y: Tensor | None, **how: Any) -> np.ndarray:
        return to_uint8(self.model.decode(e, y), bits_of(self.model))

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        write_images(values, needed(out), labels)


class Rows(Kind):
    """(N, D) float32."""

    noun, ends = NOUNS[1], NOUNS[1]

    @property
    def columns(self) -> list[str]:
        """The names of the model's columns, as far as they are known."""
        return self.model.config.get("columns") or nameless(self.model.shape[0])

    def need_out(self, out: Path | None, folder: bool = True) -> None:
        need_rows_out(needed(out))

    def some(self, e: Tensor, y: Tensor | None, **how: Any) -> np.ndarray:
        return self.model.decode(e, y).float().cpu().numpy()

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        write_rows(values, self.columns, needed(out), labels, self.model.config.get("labels", ()))


class Sentences(Kind):
    """(N,) text; printed where no file is named."""

    noun, ends, many, draws = NOUNS[2], NOUNS[2], 10, 500

    def __init__(self, model: LatentModel, run: Path):
        super().__init__(model, run)
        self.vocabulary = vocabulary_of(model, run)

    def need_out(self, out: Path | None, folder: bool = True) -> None:
        if out is not None:
            need_lines_out(out)

    def some(
        self,
        e: Tensor,
        y: Tensor | None,
        writing: Writing = GREEDY,
        generator: torch.Generator | None = None,
        **how: Any,
    ) -> np.ndarray:
        z, decoder = self.model.prior.inverse(e, y), self.model.decoder
        if writing.beam:
            x = decoder.beam(z, writing.beam)
        else:
            x = decoder.draw(z, writing.temperature, writing.top_p, generator)
        return np.array(self.vocabulary.lines(x.cpu().numpy()), dtype=object)

    def write(self, values: np.ndarray, out: Path | None, labels: np.ndarray | None = None) -> None:
        if out is None:
            print("\n".join(values))
        else:
            write_lines(values, out)


KINDS = {1: Rows, 2: Sentences, 3: Images}  # by the length of a model's shape


def kind_of(model: LatentModel, run: Path) -> Kind:
    return KINDS[len(model.shape)](model, run)


def vocabulary_of(model: LatentModel, run: Path) -> Vocabulary:
    """The tokeniser of a run on text; raises ``UserError`` where it is not the one that the model was trained with."""
    return vocabulary_kept(run, model.shape, model.config.get("vocabulary"))


def vocabulary_begun(run: Path, longest: int) -> Vocabulary:
    """That of a run to go on with, which before its first evaluation has no model to compare it with."""
    if not (run / "config.json").exists():
        return Vocabulary.read(run / VOCABULARY, longest)
    config = read_config(run)
    return vocabulary_kept(run, config["shape"], config.get("vocabulary"))


def vocabulary_kept(run: Path, shape: Shape, digest: str | None) -> Vocabulary:
    vocabulary = Vocabulary.read(run / VOCABULARY, shape[0] - 1)
    if vocabulary.shape[1] != shape[1] or vocabulary.digest != digest:
        same = vocabulary.shape[1] == shape[1]
        found = "as many others" if same else f"{vocabulary.shape[1]:,}"
        raise UserError(
            f"{run / VOCABULARY}: not the tokeniser of {run}: expected its {shape[1]:,} tokens, found {found}"
        )
    return vocabulary


def needed(out: Path | None) -> Path:
    if out is None:
        raise UserError("--out: expected a name to write to, found nothing")
    return out
