"""What the commands read: a run's data, with what is said of them; and what they refuse before they begin."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fvae.data import Modality, Samples
from fvae.errors import UserError
from fvae.files import write_text
from fvae.model import LatentModel
from fvae.runs import run_data
from fvae.settings import DataSettings


def data_of(
    run: Path, model: LatentModel, data: DataSettings, split: str | None, whole: bool = False
) -> tuple[Samples, str]:
    """The data to use a run on and what they are in words (see ``run_data``), having said what is odd about them."""
    samples, what = run_data(run, data, split, model.modality, whole)
    say_skipped(samples.skipped, len(samples), samples.modality)
    say(note for note in samples.modality.notes(samples, what) if model.modality.notes_at_use)
    if found := model.modality.same(samples.modality):
        raise UserError(f"--data {what}: {found.replace(', found', f' as {run} was trained on, found')}")
    where = f"{run} was trained with labels; {what}"
    samples = samples.numbered_as(model.modality.classes, where)
    check_labels(model, samples, where)
    return samples, what


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def say_skipped(skipped: list[str], read: int, modality: Modality, run: Path | None = None) -> None:
    """Count and name the files, or lines, that were left out; a run has the list in ``skipped.txt``, if it is long.

    Without a run all files are named, but not all lines.
    """
    if not skipped:
        return
    shown = skipped
    if len(skipped) > 3 and (run or modality.items == "lines"):
        shown = [*skipped[:3], f"... (all in {run / 'skipped.txt'})" if run else "..."]
    print(f"skipped {len(skipped)} of {len(skipped) + read} {modality.items}: {'; '.join(shown)}", file=sys.stderr)
    if run is not None:
        write_text(run / "skipped.txt", "\n".join(skipped) + "\n")


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


def need_visible(model: LatentModel, run: Path, command: str, out: Path | None) -> None:
    """Refuse data that can't be looked at, and a name that doesn't fit, before the work; raises ``UserError``."""
    need_latent(model, run, command)
    modality = model.modality
    if not modality.visible:
        noun = "rows of numbers" if modality.noun == "rows" else modality.noun
        raise UserError(f"{command}: makes pictures; {run} was trained on {noun}: see fvae encode and decode")
    modality.check_sheet(out)


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{flag}: expected {least:g} or more, found {value:g}")
    if value == math.inf:
        raise UserError(f"{flag}: expected a finite number, found {value:g}")


def at_most_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: expected 0 or more and below 2^32, found {seed}")
