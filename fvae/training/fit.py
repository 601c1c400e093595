"""``fit``: train a model on data, in memory or into a run folder."""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvae.conditioners import BatchNorm
from fvae.data import Images, Modality, Samples, from_memory, hold_out, load_data
from fvae.data.files import argument_named
from fvae.data.loading import warn_skipped
from fvae.data.samples import digests
from fvae.errors import InputError
from fvae.files import write_csv
from fvae.flows.fused import set_reversible
from fvae.flows.fused.steps import all_steps
from fvae.metrics import batches, check_labels, has_gaussian_posterior
from fvae.model import LatentModel
from fvae.precision import emulates_bfloat16
from fvae.runs import load, save
from fvae.runs.config import description, run_config, write_config
from fvae.runs.folder import CHECKPOINT, check_run, data_digest, read_checkpoint, save_checkpoint
from fvae.runs.model import check_savable
from fvae.schema import checked
from fvae.settings import DataSettings, TrainSettings
from fvae.statistics import initialize
from fvae.training.loader import Sampler, mixed_seed
from fvae.training.progress import ProgressBar
from fvae.training.tensorboard import TensorBoard
from fvae.training.trainer import Callback, Row, Trainer, make_fabric


def fit(
    model: LatentModel,
    data: Any,
    test: Any = None,
    *,
    labels: Any = None,
    run: str | Path | None = None,
    resume: bool = False,
    allow_degenerate: bool = False,
    init: str | Path | LatentModel | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    source: DataSettings | None = None,
    settings: TrainSettings | None = None,
    **changes: Any,
) -> list[Row]:
    """Train a model; returns a row of figures for each evaluation on held-out data, as ``metrics.csv`` has them.

    A model that was trained or loaded before is trained further from its weights. However training ends, by an error
    or an interruption too, the model is then in evaluation mode and on the device where it was, and has the averaged
    weights of the evaluation with the best held-out bound (the last ones, where there was no evaluation); rows name its
    step ``best_step``. It is chosen on up to ``eval_samples`` held-out samples, so that its bound on these is
    optimistic.

    ``data`` is an array or a tensor (N, *shape), a DataFrame, a ``torch.utils.data.Dataset``, a path (see
    ``fvae.read_data``) or ``Samples``; images are 8-bit values 0 .. 255. ``labels`` (N,) are those of an array, for
    models conditioned on them. ``test`` are held-out data, or a pair of data and labels, or a path, which is taken
    whole; without them the test split of a path, or else 5 % of the data, is held out.
    Columns of a table on which a density has no upper limit (whole or rounded numbers, copies, mostly one value) are
    refused unless ``allow_degenerate``.
    ``init`` is a model, or the folder of one, whose weights a new model begins from where names and shapes are the
    same, trained deviations too: to train its decoder anew, say, with ``freeze="posterior,prior"``.
    ``changes`` are fields of ``settings`` (see ``fvae.TrainSettings``): ``steps``, ``minutes``, ``batch_size``, ``lr``,
    ...

    With a folder ``run``, its config.yaml, metrics.csv, previews, best model and checkpoint are written at each
    evaluation, checkpoints also every ``checkpoint_minutes`` and before a SIGINT or SIGTERM takes effect, and with
    ``resume`` a run that is there continues from its checkpoint; without one nothing is written. ``source``
    says where the data of a run come from (default: ``data``, where that is a path). With ``progress`` a bar is shown
    in a terminal or a notebook.

    Raises ``ValueError`` for settings and data that don't fit the model, and for ``run`` if it can't be begun or
    resumed; ``OSError`` where a file can't be written.

    Example:
        >>> import fvae, torch
        >>> model = fvae.recipes.realnvp(shape=(2,), flow=fvae.RealNVP(depth=1, width=8))
        >>> rows = fvae.fit(model, torch.randn(500, 2), steps=20, progress=False)
        >>> int(rows[-1]["step"])
        20
    """
    if isinstance(init, str | Path):
        changes["init"] = str(Path(init).absolute())
    elif run and resume:  # as it was begun
        changes.setdefault("init", run_config(Path(run)).get("train", {}).get("init", ""))
    settings = checked(TrainSettings, (settings or TrainSettings()).model_dump() | changes)
    init = init if isinstance(init, LatentModel) else settings.init
    train, test = as_samples(model, data, test, labels)
    check_training(model, train, settings)
    if not allow_degenerate and not resume:
        with argument_named("data"):
            train.modality.check_density(train)
    fabric = make_fabric(settings)
    if settings.precision == "bf16-mixed" and emulates_bfloat16(fabric.device):
        warnings.warn("precision bf16-mixed: this CPU emulates bfloat16, many times slower than 32-true", stacklevel=2)
    run = None if run is None else Path(run)
    content: dict[str, Any] = {}
    changed: list[str] = []
    begun = ""
    if run:
        check_savable(model)
        source = source or DataSettings(source=str(data) if isinstance(data, str | Path) else "")
        content = description(model, source, settings)
        if fabric.is_global_zero:
            changed = check_run(run, resume, content)
    fabric.launch()
    if not model.classes:
        train, test = replace(train, labels=None), replace(test, labels=None)
    model.modality = train.modality.merge_into(model.modality, train.modality.classes if model.classes else ())
    digest = data_digest(train)
    trained = [p for p in model.parameters() if p.requires_grad]
    device, reversible = model.like.device, any(steps.reversible for steps in all_steps(model))
    try:
        model.to(fabric.device)
        state = read_checkpoint(run, model, digest, fabric.device) if run and resume else None
        if state is None and init:
            begun = begin_from(model, train, settings, init)
        elif state is None and not model.initialized:
            if settings.freeze:
                raise InputError(
                    "expected a trained model, or `init` with the weights of one, found a new one", "freeze"
                )
            begin(model, train, settings)
        model.initialized = True
        set_reversible(model, settings.reversible)
        trainer = Trainer(fabric, model, train, test, settings)
        trainer.changed, trainer.begun = changed, begun
        if state is not None:
            with argument_named("", str(run / CHECKPOINT if run else "")):
                trainer.load_state(state)
        ours: list[Callback] = [CollapseWarning(largest_deviation(model, train))]
        ours += [RunWriter(run, digest)] if run else []
        ours += [TensorBoard(run)] if run and find_spec("tensorboard") else []
        ours += [ProgressBar()] if progress else []
        try:
            with torch.random.fork_rng([fabric.device.index or 0] if fabric.device.type == "cuda" else []):
                if run and trainer.rows and (run / "model.safetensors").exists():
                    trainer.resume_best(load(run, fabric.device))
                if run and fabric.is_global_zero:  # also of a run that is resumed, whose budget and place may be new
                    train.modality.save(run)
                    write_config(run, content)
                trainer.train([*ours, *callbacks])
        finally:
            best = trainer.best
            model.load_state_dict(best.weights if best else trainer.average.state_dict())
            model.step = best.step if best else trainer.step
    finally:
        set_reversible(model, reversible)
        for p in trained:
            p.requires_grad_(True)
        model.to(device).eval()
    return trainer.rows


def as_samples(model: LatentModel, data: Any, test: Any, labels: Any) -> tuple[Samples, Samples]:
    """Training and held-out data as a model takes them; raises ``InputError`` for those that it doesn't."""
    is_path = isinstance(data, str | Path)
    if is_path and labels is not None:
        raise InputError("expected none, since data that are read from a path have their own", "labels")
    train = read_path(data, "train", model.modality, "data") if is_path else from_memory(data, labels, model.modality)
    like = train.modality
    if found := model.modality.mismatch(like):
        raise InputError(found, "data")
    if isinstance(test, str | Path):
        held_out = read_path(test, "all", like, "test")
    elif test is not None:
        values, numbers = test if isinstance(test, tuple) else (test, None)
        held_out = from_memory(values, numbers, like, ("test", "test"))
    elif is_path:
        held_out = read_path(data, "test", like, "data")
    else:
        train, held_out = hold_out(train, DataSettings().held_out)
    if found := like.mismatch(held_out.modality):
        raise InputError(found, "test")
    held_out = held_out.numbered_as(train.modality.classes, "test")
    for samples, name in ((train, "data"), (held_out, "test")):
        check_labels(model, samples, name)
    if train.labels is not None and len(known := np.unique(train.labels)) < model.classes:
        text = f"expected training samples of each label from 0 to {model.classes - 1}, found {len(known)} labels"
        raise InputError(text, "data")
    return train, held_out


def read_path(path: str | Path, part: str, like: Modality, argument: str) -> Samples:
    """A part of a source; raises ``InputError``, which names the argument of ``fit``."""
    try:
        samples = load_data(DataSettings(source=str(path)), part, like)
    except InputError as error:
        raise InputError(error.message, argument) from None
    warn_skipped(samples)
    return samples


def check_training(model: LatentModel, data: Samples, settings: TrainSettings) -> None:
    """Refuse settings that a model or its data can't be trained with; raises ``InputError``."""
    each = settings.batch_size // (settings.devices * settings.nodes * settings.accumulate)
    normalizes = any(isinstance(m, BatchNorm) for m in model.modules())
    if normalizes and each < 2:
        text = "this model normalizes over a batch; expected 2 samples or more in each of its parts"
        raise InputError(f"{settings.batch_size}: {text}, found {each}", "batch_size")
    if normalizes and len(set(digests(data.values))) < 2:
        expected = f"expected 2 different training {data.modality.noun} or more"
        raise InputError(f"this model normalizes over a batch; {expected}, found 1", "data")
    if settings.aggressive and not (len(model.latent) == 1 and has_gaussian_posterior(model, data)):
        needs = "expected a Gaussian posterior of a flat latent, as vae, bn_vae and text_vae have"
        raise InputError(f"{needs}, found another", "aggressive")
    variance = max((getattr(m, "least_variance", 0.0) for m in model.posterior.modules()), default=0.0)
    if variance >= 1 and getattr(model.prior, "translation", False):
        missed = (variance - math.log(variance) - 1) / 2
        text = f"the codes have a variance above {variance:.3g}, and the prior has 1: samples miss them"
        text += f" by {missed:.2g} nats a dimension or more" if missed > 0.005 else ""
        warnings.warn(f"posterior.gamma: {text}; take less than 1, or a flow as the prior", stacklevel=3)
    if settings.free_nats_per_dim:
        x, y = next(batches(model, data.take(np.arange(min(2, len(data)))), 2))
        with torch.no_grad():
            kl = copy.deepcopy(model).eval()(x, y).kl
        if kl is None:
            needs = "expected a Gaussian posterior and prior, and no latent in the decoder, for a rate by dimension"
            raise InputError(f"{needs}; found others", "free_nats_per_dim")
    for name in ("flip", "shift"):
        if getattr(settings, name) and not isinstance(data.modality, Images):
            raise InputError(f"expected images, found {data.modality.noun}", name)
    if settings.shift and settings.shift >= min(data.shape[1:]) / 2:
        raise InputError(f"expected less than half of {' x '.join(map(str, data.shape))}", "shift")
    for name in settings.frozen:
        if name not in dict(model.named_modules()):
            raise InputError(f"expected the name of a module of the model, found {name}", "freeze")
    frozen = {id(p) for name in settings.frozen for p in model.get_submodule(name).parameters()}
    if frozen and all(id(p) in frozen for p in model.parameters()):
        raise InputError("expected a part that is trained, found all of them frozen", "freeze")
    if frozen and settings.aggressive:
        raise InputError("expected no frozen parts with aggressive, which trains them in turns", "freeze")
    for name in ("free_nats", "free_nats_per_dim", "beta", "anneal"):
        if not math.prod(model.latent) and getattr(settings, name) != getattr(TrainSettings(), name):
            raise InputError("expected a model with a latent, whose rate it weighs; found one without", name)
    if settings.compile and data.modality.dims is None:
        raise InputError("expected samples of one shape; sentences have many lengths", "compile")


def begin(model: LatentModel, data: Samples, settings: TrainSettings) -> None:
    """Initialize a model from its first data, whose choice and noise depend on the seed only."""
    n = min(len(data), data.modality.init_samples)
    first = Sampler(len(data), n, mixed_seed(settings.seed, 1)).step(0)
    x, y = next(batches(model, data.take(first), n))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(settings.seed, 2))
        initialize(model, x, y)


def begin_from(model: LatentModel, data: Samples, settings: TrainSettings, init: str | Path | LatentModel) -> str:
    """Initialize a model from another's weights of the same names and shapes, the rest from its first data.

    Returns what was taken, and what is new, in words. Raises ``InputError`` where there are none.
    """
    with argument_named("init"):
        other = init if isinstance(init, LatentModel) else load(init)
    ours = model.state_dict()
    weights = {name: w for name, w in other.state_dict().items() if name in ours and ours[name].shape == w.shape}
    if not weights:
        raise InputError("expected a model with weights in common with this one, found none", "init")
    for name in buffers_of_settings(model) & weights.keys():
        if not any(name.startswith(f"{part}.") for part in settings.frozen):
            del weights[name]
        elif not torch.equal(ours[name].cpu(), weights[name].cpu()):
            raise InputError(f"expected frozen parts with the settings of that model, {name} differs", "init")
    kept, given = (m.config.get("settings", {}).get("posterior") for m in (other, model))
    if "posterior" in settings.frozen and kept and given and kept != given:
        raise InputError(f"expected the frozen posterior as it was, {kept}, found {given}", "init")
    for part in settings.frozen:
        if missing := [n for n in ours if n.startswith(f"{part}.") and n not in weights]:
            raise InputError(f"expected all weights of the frozen {part}, found none that fit {missing[0]}", "init")
    model.load_state_dict(weights, strict=False)
    begin(model, data, settings)  # what is new is fitted to what is known, which this sets anew
    model.load_state_dict(weights, strict=False)
    of_parts = Counter(".".join(name.split(".")[:2]) for name in ours.keys() - weights.keys())
    new = ", ".join(f"{part} ({n})" for part, n in sorted(of_parts.items()))
    return f"{len(weights)} of {len(ours)} tensors; {f'new are {new}' if new else 'none is new'}"


def buffers_of_settings(model: LatentModel) -> set[str]:
    """The names of the buffers that hold a setting, as a fixed sigma."""
    found = set()
    for path, module in model.named_modules():
        held = dict(module.named_buffers(recurse=False))
        found |= {f"{path}.{name}" for name in getattr(module, "settings", ()) if name in held}
    return found


@torch.no_grad()
def largest_deviation(model: LatentModel, data: Samples) -> float:
    """The data's largest principal deviation, on the networks' scale, from 500 samples at most."""
    x, _ = next(batches(model, data.spread(500), 500))
    scaled = model.modality.scaled(model.preprocess(x)[0])
    if scaled is None:
        return math.inf
    x = scaled.flatten(1).cpu().double()  # on the CPU, since not every device has float64
    x = x - x.mean(0)
    return float(torch.linalg.eigvalsh(x @ x.T / len(x))[-1].clamp(min=0).sqrt())


class CollapseWarning(Callback):
    """Warns once when sigma_2 is above the data's ``largest`` deviation.

    A linear VAE's best codes then say nothing: its posterior collapses (Lucas et al., 2019).
    """

    def __init__(self, largest: float):
        self.largest = largest

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        if row.get("sigma_2", 0.0) > self.largest:
            warnings.warn(
                f"sigma_2 {row['sigma_2']:.3g} is above {self.largest:.3g}, the data's largest deviation in any "
                "direction: the best codes then say nothing; begin with a smaller decoder.sigma",
                stacklevel=2,
            )
            self.largest = math.inf


class RunWriter(Callback):
    """Keeps a training in a run folder: figures, preview, the weights to use and, last of all, the checkpoint.

    The weights to use are the best of all evaluations or, before the first one, the last.
    """

    def __init__(self, run: Path, digest: str):
        self.run, self.digest = run, digest

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        rows = trainer.rows  # of which the first may be of an earlier version, with fewer figures
        columns = [name for name in rows[0] if all(name in row for row in rows)]
        write_csv(self.run / "metrics.csv", columns, [[row[name] for name in columns] for row in rows])
        self.preview(trainer)
        if row["best_step"] == trainer.step:
            self.save_model(trainer)
        save_checkpoint(self.run, trainer.state() | {"digest": self.digest})

    def on_checkpoint(self, trainer: Trainer) -> None:
        if not trainer.rows:
            self.preview(trainer)
            self.save_model(trainer)
        save_checkpoint(self.run, trainer.state() | {"digest": self.digest})

    def preview(self, trainer: Trainer) -> None:
        model = trainer.average
        try:
            model.modality.preview(model, trainer.test, self.run / "samples" / f"step_{trainer.step:07d}")
        except NotImplementedError as error:  # of a flow without an inverse
            warnings.warn(f"no preview of samples: {error}", stacklevel=2)

    def save_model(self, trainer: Trainer) -> None:
        trainer.average.step = trainer.step
        save(trainer.average, self.run)
