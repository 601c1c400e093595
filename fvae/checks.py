"""What the commands read: a run's data, with what is said of them; and what they refuse before they begin."""

import math
import sys
from pathlib import Path

import numpy as np

from fvae.data import Samples
from fvae.data.texts import END, UNKNOWN
from fvae.data.vectors import same_columns
from fvae.errors import UserError
from fvae.files import write_text
from fvae.kinds import Images, Kind, Rows, kind_of, needed, vocabulary_of
from fvae.model import LatentModel
from fvae.outputs import need_picture
from fvae.runs import run_data
from fvae.settings import DataSettings


def data_of(
    run: Path, model: LatentModel, data: DataSettings, split: str | None, whole: bool = False
) -> tuple[Samples, str]:
    """The data to use a run on and what they are in words (see ``run_data``), having said what was left out."""
    vocabulary = vocabulary_of(model, run) if len(model.shape) == 2 else None
    samples, what = run_data(run, data, split, model.shape, whole, vocabulary)
    say_skipped(samples.skipped, len(samples), lines=vocabulary is not None)
    if vocabulary:
        say_cut(samples.cut, vocabulary.longest)
        say_unknown(samples, what)
    columns = model.config.get("columns", samples.columns)
    if not same_columns(columns, samples.columns):
        pairs = zip(columns, samples.columns, strict=True)
        expected, found = next((a, b) for a, b in pairs if a != b)
        raise UserError(f"--data {what}: expected column {expected} as {run} was trained on, found {found}")
    where = f"{run} was trained with labels; {what}"
    samples = samples.numbered_as(model.config.get("labels", []), where)
    check_labels(model, samples, where)
    return samples, what


def say_skipped(skipped: list[str], read: int, run: Path | None = None, lines: bool = False) -> None:
    """Count and name the files, or ``lines``, that were left out; a run has the list in ``skipped.txt``, if it is long.

    Without a run all files are named, but not all lines.
    """
    if not skipped:
        return
    shown = skipped
    if len(skipped) > 3 and (run or lines):
        shown = [*skipped[:3], f"... (all in {run / 'skipped.txt'})" if run else "..."]
    what = "lines" if lines else "files"
    print(f"skipped {len(skipped)} of {len(skipped) + read} {what}: {'; '.join(shown)}", file=sys.stderr)
    if run is not None:
        write_text(run / "skipped.txt", "\n".join(skipped) + "\n")


def say_cut(cut: int, longest: int) -> None:
    if cut:
        print(f"cut {cut} sentence{'s' * (cut > 1)} at {longest} tokens (--data.longest)", file=sys.stderr)


def say_unknown(samples: Samples, what: str, words: bool = False) -> None:
    """Warn of text of which more than a fifth is unknown to the vocabulary (of ``words``: it may have no spaces)."""
    unknown, tokens = int((samples.values == UNKNOWN).sum()), int((samples.values > END).sum())
    if unknown > 0.2 * tokens:
        said = f"{unknown:,} of {tokens:,} tokens ({unknown / tokens:.0%}) of {what} are unknown to the run's tokeniser"
        spaceless = words and tokens < 3 * len(samples)
        hint = "; text without spaces between its words wants --data.tokens character" if spaceless else ""
        print(f"warning: {said.replace('%)', ' %)')}{hint}", file=sys.stderr)


def say_discrete(columns: list[str]) -> None:
    """Warn of columns on which a density has no upper limit."""
    if columns:
        names = ", ".join(columns[:5]) + (f" and {len(columns) - 5} more" if len(columns) > 5 else "")
        what = "whole numbers, or few values, on which a density grows without end"
        print(
            f"warning: {names}: {what}; add noise as wide as their steps to have figures that mean something",
            file=sys.stderr,
        )


def check_labels(model: LatentModel, samples: Samples, where: str, each: bool = False) -> None:
    """Refuse data without the labels that a model's prior takes, or without one of ``each``; raises ``UserError``."""
    if not model.classes:
        return
    if samples.labels is None:
        raise UserError(f"{where}: expected labels, found none")
    if len(samples.labels) and not 0 <= samples.labels.min() <= samples.labels.max() < model.classes:
        found = f"{samples.labels.min()} to {samples.labels.max()}"
        raise UserError(f"{where}: expected labels from 0 to {model.classes - 1}, found {found}")
    if each and len(kinds := np.unique(samples.labels)) < model.classes:
        text = f"expected training samples of each label from 0 to {model.classes - 1}, found {len(kinds)} labels"
        raise UserError(f"{where}: {text}")


def need_latent(model: LatentModel, run: Path, command: str) -> None:
    """Refuse a model without a code of its data; raises ``UserError``."""
    if not math.prod(model.latent):
        raise UserError(f"{command}: {run} holds a {model.config['recipe']}, which has no latent")


def need_seen(model: LatentModel, run: Path, command: str, out: Path | None) -> Kind:
    """The kind of data, of which ``command`` can show some; refuses rows, and names that don't fit."""
    need_latent(model, run, command)
    kind = kind_of(model, run)
    if isinstance(kind, Rows):
        raise UserError(f"{command}: makes pictures; {run} was trained on rows of numbers: see fvae encode and decode")
    if isinstance(kind, Images):
        need_picture(needed(out))
    else:
        kind.need_out(out)
    return kind


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{flag}: expected {least:g} or more, found {value:g}")
    if value == math.inf:
        raise UserError(f"{flag}: expected a finite number, found {value:g}")


def at_most_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: expected 0 or more and below 2^32, found {seed}")
