"""The files of a training in a run folder: metrics.csv, checkpoints/last.ckpt, and what may be begun or resumed."""

import hashlib
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field, InstanceOf

from fvae.data import Samples
from fvae.documents import CSV, Document, Format, read_document
from fvae.errors import InputError
from fvae.files import need_no_links, replacing
from fvae.model import LatentModel
from fvae.runs.config import changed_settings
from fvae.runs.model import check_fit
from fvae.schema import Natural, NonNegative

CHECKPOINT = "checkpoints/last.ckpt"
SIGNS = ("config.yaml", "config.json", "model.safetensors", CHECKPOINT)  # any of them makes a folder a run
BOUNDS = {"held-out": "", "rate": "rate_", "distortion": "distortion_"}  # of each evaluation, on held-out data


class Evaluation(BaseModel, extra="allow"):
    """A row of ``metrics.csv``; its other columns are numbers, too."""

    __pydantic_extra__: dict[str, int | float]
    step: Natural
    seconds: NonNegative


class Metrics(Document):
    """The content of ``metrics.csv``."""

    rows: Annotated[list[Evaluation], Field(min_length=1)]


def check_run(run: Path, resume: bool, content: dict[str, Any]) -> list[str]:
    """Refuse a folder in which a run can't be begun, or resumed; returns the settings that are changed, in words.

    ``content`` is what its ``config.yaml`` has to say. Raises ``InputError``.
    """
    need_no_links(run)
    found = [name for name in SIGNS if (run / name).exists()]
    if not found:
        return []
    if not resume:
        raise InputError(f"{run} holds a run already: continue it with `resume`, or use another folder", "run")
    if "config.yaml" not in found:
        raise InputError(f"{run} has {found[0]} but no config.yaml to resume from; use another folder", "resume")
    trained = (run / "metrics.csv").exists() and len(read_metrics(run)) > 1
    if CHECKPOINT not in found and trained:
        raise InputError(f"{run} is trained but has no {CHECKPOINT} to resume from; use another folder", "resume")
    return changed_settings(run, content)


# Checkpoints

Tensors = dict[str, InstanceOf[torch.Tensor]]


class Schedule(Document):
    """The state of ``AggressiveSchedule``."""

    on: bool
    posterior: bool
    rounds: Natural
    looked: Natural
    mutual: float
    steps: Natural
    sum: float
    size: Natural
    before: float


class Optimizer(Document):
    """The state of AdamW: ``step``, ``exp_avg`` and ``exp_avg_sq`` of each parameter by its number."""

    state: dict[Natural, Tensors]
    param_groups: list[dict[str, Any]]


class Checkpoint(Document):
    """A training's state (see ``Trainer.state``), and the digest of its data."""

    digest: str
    step: Natural
    seconds: NonNegative
    model: Tensors
    average: Tensors
    optimizer: Optimizer
    schedule: Schedule
    skipped: Annotated[list[NonNegative], Field(min_length=2, max_length=2)]
    losses: InstanceOf[torch.Tensor]
    rows: list[Evaluation]


def data_digest(data: Samples) -> str:
    """A short text that is the same for the same values and labels only."""
    found = hashlib.blake2b(np.ascontiguousarray(data.values).data, digest_size=16)
    if data.labels is not None:
        found.update(np.ascontiguousarray(data.labels).data)
    return found.hexdigest()


def save_checkpoint(run: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of a training's state, whole or not at all; raises ``MachineError``."""
    with replacing(run / CHECKPOINT) as part, open(part, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of torch's archive writer, which hides that the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(run: Path, model: LatentModel, digest: str, device: torch.device) -> dict[str, Any] | None:
    """The state of a run's checkpoint, None where there is none.

    Reads tensors and plain values only, which can't run code. Raises ``InputError`` for a checkpoint that is damaged,
    of another model or of other data.
    """
    path = run / CHECKPOINT
    if not path.exists():
        return None
    form = Format("checkpoint", partial(torch.load, map_location=device, weights_only=True), math.inf)
    with warnings.catch_warnings(action="ignore"):
        state = read_document(path, Checkpoint, form).model_dump()
    for name in ("model", "average"):
        check_fit(f"{path}: {name}", state[name], model.state_dict(), "the run's config.yaml")
    if state["digest"] != digest:
        raise InputError(f"{path} was trained on other data than these; use another folder", "resume")
    return state


# Metrics


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows of a run's ``metrics.csv``; raises ``InputError``."""
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder")
    missing = "no such file; a run has it from its first evaluation on"
    path = run / "metrics.csv"
    rows: list[dict[str, float]] = read_document(path, Metrics, CSV, missing).model_dump()["rows"]
    if not unit_key(rows):
        names = ", ".join(f"test_{part}bits_per_dim" for part in BOUNDS.values())
        raise InputError(f"{path}: expected numbers under step, seconds, {names} (or nats), as fvae writes it")
    return rows


def unit_key(rows: list[dict[str, float]]) -> str:
    """The unit of the bounds of metrics, bits_per_dim or nats; "" where there are none."""
    keys = ("bits_per_dim", "nats")
    return next((key for key in keys if all(f"test_{part}{key}" in rows[0] for part in BOUNDS.values())), "")
