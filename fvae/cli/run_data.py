"""What the commands that use a run read: its model, its data, and what is unusual about them."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fvae.cli.parser import table
from fvae.data import TOKENIZER_FILE, Modality, Samples, TypedTable, load_data
from fvae.data.files import argument_named
from fvae.data.samples import digest
from fvae.errors import InputError
from fvae.files import write_text
from fvae.metrics import check_labels
from fvae.model import LatentModel
from fvae.runs import load
from fvae.runs.config import data_settings, run_config, whole_paths
from fvae.schema import checked
from fvae.settings import OLD_DATA, DataSettings, with_new_names

PARTS = {"test": "held out", "train": "training part", "all": "whole"}


def load_model(run: Path, device: str | None = None) -> LatentModel:
    """The model of a run, on a device of ``devices()``: by default on the accelerator where there is one."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions of ten bits would make encode and decode inexact
    return load(run, device or devices()[-1])


def devices() -> list[str]:
    """The devices that a model can be used on."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu", *([accelerator.type] if accelerator else [])]


def data_of(model: LatentModel, args: dict[str, Any], whole: bool = False) -> tuple[Samples, str]:
    """The data to use a run on and what they are in words, having said what is unusual about them.

    Without a source: the run's, held out unless ``split`` says otherwise. Another source is treated as the run's was
    (size, color) and, where it has no test split, taken whole. With ``whole`` any source that is named is taken whole.
    Raises ``InputError``.
    """
    run, split, modality = args["run"], args["split"], model.modality
    given, config = with_new_names(table(args, "data"), OLD_DATA), run_config(run)
    trained_on = data_settings(run / "config.yaml", config["data"]) if config else DataSettings()
    data = whole_paths(checked(DataSettings, given, lax=True))
    for name in modality.fixed_settings:
        if name in given and getattr(data, name) != getattr(trained_on, name):
            raise InputError(f"{given[name]}: {run} has a tokenizer of its own ({TOKENIZER_FILE})", name)
    data = trained_on.model_copy(update={name: getattr(data, name) for name in given})
    if not data.source:
        raise InputError(f"{run} has no config.yaml to say what it was trained on; name a source", "source")
    foreign = not config or data.source != trained_on.source
    if foreign:
        data = data.model_copy(update={"split": None, "labels": given.get("labels")})
    path = Path(data.source)
    if "source" not in given and path.is_absolute() and not path.exists():
        raise InputError(f"{path}: no such file, on which {run} was trained; name another source", "source")
    part = split or ("all" if whole and "source" in given else "unseen" if foreign else "test")
    names = PARTS | {"unseen": "the test split if it has one, else whole" if modality.splits else "whole"}
    samples, what = load_data(data, part, modality), f"{data.source} ({names[part]})"
    say_skipped(samples.skipped, len(samples), samples.modality)
    say(samples.modality.notes(samples, what))
    with argument_named("source", what):
        return with_labels(model, samples), what


def read_samples(model: LatentModel, run: Path, source: str) -> Samples:
    """All samples of a source, treated as the run's data were (size, color); raises ``InputError``."""
    return data_of(model, {"run": run, "split": "all", "data.source": source})[0]


def with_labels(model: LatentModel, samples: Samples) -> Samples:
    """Samples with labels by the model's numbers; raises ``InputError`` without them, where it takes labels."""
    samples = samples.numbered_as(model.modality.classes)
    check_labels(model, samples)
    return samples


def say_trivial(
    model: LatentModel, bound: float, train: Samples, test: Samples, where: Path, step: Any, best: Any = None
) -> None:
    """Say so where a ``bound``, in the data's unit, is worse on ``test`` than a trivial model of ``train``."""
    unit, (nats, trivial) = model.modality.unit, model.modality.trivial_bound(train, test)
    if round(bound, 4) <= round(unit.from_nats(nats), 4):
        return
    why = f"perhaps {step} steps are too few" if step else "perhaps it was trained too little"
    why = f"it was best at step {best}, perhaps of too few data" if best and best < step / 2 else why
    small = 0 < model.code_values < (model.modality.dims or math.inf)
    why += ", or the learning rate is too high" + f", or a latent of {model.code_values} is too small" * small
    say([f"{where}: worse than {trivial} ({unit.from_nats(nats):.4f} {unit.name}): {why}"])


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def say_skipped(skipped: list[str], read: int, modality: Modality, run: Path | None = None) -> None:
    """Count and name the files or lines that were left out; a run lists them in ``skipped.txt`` if they are many.

    Without a run all files are named, but not all lines.
    """
    if not skipped:
        return
    shown = skipped
    if len(skipped) > 3 and (run or modality.items == "lines"):
        shown = [*skipped[:3], f"... (all in {run / 'skipped.txt'})" if run else "..."]
    say([f"skipped {len(skipped)} of {len(skipped) + read} {modality.items}: {'; '.join(shown)}"])
    if run is not None:
        write_text(run / "skipped.txt", "\n".join(skipped) + "\n")


def digest_of(model: LatentModel) -> str:
    """A digest of a model's weights, which tells whose codes some are."""
    content = b"".join(v.cpu().contiguous().numpy().tobytes() for _, v in sorted(model.state_dict().items()))
    return digest(content).hex()


def need_latent(model: LatentModel, run: Path) -> None:
    """Refuse a model without a code of its data; raises ``InputError``."""
    if not math.prod(model.latent):
        raise InputError(f"{run} holds a {model.config['recipe']}, which has no latent")


def need_columns(model: LatentModel, run: Path, argument: str = "") -> TypedTable:
    """The modality of a model with a decoder by column; raises ``InputError`` for another model."""
    if not hasattr(model.decoder, "by_column"):
        found = f"{run} holds a {model.config['recipe']} of {model.modality.noun} without one"
        raise InputError(f"expected a model of a table with a likelihood for each column; {found}", argument)
    assert isinstance(model.modality, TypedTable)
    return model.modality


def need_visible(model: LatentModel, run: Path, out: Path | None) -> None:
    """Refuse data that can't be looked at, and a name that doesn't fit, before the work; raises ``InputError``."""
    need_latent(model, run)
    if not model.modality.sheet_suffixes:
        raise InputError(f"{run}: expected a run on images or text, found one on tables; see fvae encode and decode")
    model.modality.check_out(out, sheet=True)


def label_number(model: LatentModel, run: Path, text: str, name: str) -> int:
    """The number of a label by its number or name; raises ``InputError``."""
    if not model.classes:
        raise InputError(f"{text}: {run} holds a {model.config['recipe']}, which was trained without labels", name)
    names = list(model.modality.classes)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < model.classes:
        return int(text)
    known = ", ".join(names[:10]) or f"0 to {model.classes - 1}"
    raise InputError(f"{text}: expected a label of {run}, which are {known}", name)


def decode_alike(model: LatentModel, e: Tensor, y: Tensor | None = None, seed: int = 0) -> np.ndarray:
    """Codes to samples that differ by their codes alone: a decoder's noise is the same for each."""
    if not model.decoder_temperature:
        return model.modality.decode(model, e, y)
    given = [(e[i : i + 1], None if y is None else y[i : i + 1]) for i in range(len(e))]
    noise = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])  # not that of codes drawn by the seed
    return np.concatenate([model.modality.decode(model, *a, generator=seeded(noise)) for a in given])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
