"""Training a run: Lightning's Trainer does the loop, this module says what a step is and what is kept.

A run of so many steps is a function of its settings and images. The images of step t and the noise u of step t depend
on (seed, t) alone, drawn for the whole batch of all devices, of which each takes its share. So a run that was killed
goes on from its last checkpoint to the same weights as one that was not, bit for bit, with no generator's state to be
saved; and two processes agree with one, but for dropout, which each draws for itself. For Lightning the run is one
endless epoch.
"""

import copy
import hashlib
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fvae.aggressive import Turns
from fvae.checkpoint import check_checkpoint, save
from fvae.conditioners import BatchNorm
from fvae.data import Samples
from fvae.errors import UserError
from fvae.evaluate import batches, bounds, gaussian_posterior, summary
from fvae.feed import Batches, Feed, mixed
from fvae.files import replacing, write_csv
from fvae.flows.fused import set_reversible
from fvae.information import information
from fvae.memory import keep_freed_memory
from fvae.model import LatentModel, Terms
from fvae.settings import TrainSettings
from fvae.statistics import fit_statistics, initialize

STATISTICS = 2000  # samples that evaluation's statistics are taken from
PATIENCE = 50  # non-finite steps in a row before the run stops
CHECKPOINT = "checkpoints/last.ckpt"


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for parameters of two dimensions or more; a module's ``lr_scale`` scales its rate.

    A module that declares ``weight_decay = False`` has none, nor has an embedding.
    """
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            decays = p.dim() > 1 and getattr(module, "weight_decay", not isinstance(module, nn.Embedding))
            groups.setdefault((decays, getattr(module, "lr_scale", 1.0)), []).append(p)
    return [
        {"params": params, "lr": lr * lr_scale, "weight_decay": weight_decay if decays else 0.0}
        for (decays, lr_scale), params in groups.items()
    ]


def weight(settings: TrainSettings, step: int) -> float:
    """The rate's weight on its way from 0 to 1: once, or again and again, half of each cycle at 1 (Fu et al., 2019)."""
    if settings.anneal == "none":
        return 1.0
    n = settings.anneal_steps
    if settings.anneal == "cyclical":
        step %= 2 * n
    return min(1.0, step / n)


def decay(most: float, n: int) -> float:
    """The average's weight on its past at step n, min(most, n / (9 + n)): short runs average over less."""
    return min(most, n / (9 + n))


class Training(LightningModule):
    """One model in training, with the average of its weights; the loss is the bound in the data's unit.

    Nothing in a step of images waits for the device: norms, losses and counts stay there until a row of metrics.csv is
    due. What is told of the loss is the bound, whatever the rate weighs in training.
    """

    skips: Tensor
    row_of_skips: Tensor

    def __init__(self, model: LatentModel, settings: TrainSettings, data: Samples):
        super().__init__()
        self.model, self.settings, self.data = model, settings, data
        self.labels = used_labels(model, data)
        self.digest = digest(data.values, self.labels)  # so that a run goes on with the data it was begun with
        self.unit = model.modality.unit
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.call = compiled(model) if settings.compile else model
        self.losses: list[Tensor] = []
        self.norm = torch.zeros(())
        self.register_buffer("skips", torch.zeros(()))  # non-finite steps so far
        self.register_buffer("row_of_skips", torch.zeros(()))  # and in a row
        self.turns = Turns(settings.aggressive)
        self.kept = 0
        self.rows: list[dict[str, float]] = []  # of metrics.csv; kept in checkpoints, so that none is lost or doubled

    def update_average(self, n: int) -> None:
        """average <- d average + (1 - d) model, after step n."""
        with torch.no_grad():
            d = decay(self.settings.ema, n)
            get_ema_multi_avg_fn(d)(list(self.average.parameters()), list(self.model.parameters()), None)

    def train_dataloader(self) -> Feed:
        s = self.settings
        batches = Batches(
            len(self.data), s.batch_size, s.seed, lambda: self.global_step, self.global_rank, self.trainer.world_size
        )
        data = replace(self.data, labels=self.labels)
        return Feed(data, self.model.modality, batches, pinned=self.device.type == "cuda")

    def training_step(self, batch: list, index: int) -> Tensor:
        x, y = batch
        generator = torch.Generator(self.device).manual_seed(mixed(self.settings.seed, self.global_step))
        u = self.model.noise(self.settings.batch_size, generator)[self.global_rank :: self.trainer.world_size]
        torch.manual_seed(mixed(self.settings.seed, self.global_step, self.global_rank + 1))  # of dropout
        if self.settings.aggressive:
            self.turns.take(self.model)
        terms = self.call(x, y, u)
        loss = self.unit.of(self.loss(terms))
        self.losses.append(self.unit.of(terms.loss().detach()))
        if self.settings.aggressive:
            self.turns.after(len(x) * float(loss.detach()), self.model.modality.amount(x))
        return loss

    def loss(self, terms: Terms) -> Tensor:
        """The objective at this step's weight of the rate, with what the rate has free."""
        s = self.settings
        t = self.turns.rounds if s.aggressive else self.global_step
        return terms.loss(s.beta * weight(s, t), s.free_nats, s.free_nats_each)

    def configure_gradient_clipping(self, optimizer: Any, **_: Any) -> None:
        """Clip; and leave a step out whose gradient is not finite.

        Both by what AdamW's fused step takes from gradient scalers: what to divide gradients by, and whether to update
        at all.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norm = nn.utils.get_total_norm(gradients)
        bad = (~self.norm.isfinite()).to(self.norm.dtype)
        optimizer.grad_scale = (self.norm / self.settings.clip).clamp(min=1)
        optimizer.found_inf = bad
        self.losses[-1] = torch.where(bad > 0, math.nan, self.losses[-1])
        self.skips += bad
        self.row_of_skips.add_(1).mul_(bad)
        if self.global_step % PATIENCE == PATIENCE - 1 and self.row_of_skips >= PATIENCE:
            raise UserError(
                f"training stopped at step {self.global_step}: {PATIENCE} steps in a row had no finite gradient; "
                f"try a smaller --train.lr (found {self.settings.lr:g}) or more --train.warmup"
            )

    def configure_optimizers(self) -> dict[str, Any]:
        s = self.settings
        optimizer = torch.optim.AdamW(parameter_groups(self.model, s.lr, s.weight_decay), fused=True)
        warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / max(1, s.warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fvae"] = {name: getattr(self, name) for name in ("rows", "kept", "digest")}
        checkpoint["fvae"]["turns"] = self.turns.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = dict(checkpoint["fvae"])
        self.turns.state = kept.pop("turns", self.turns.state)
        for name, value in kept.items():
            setattr(self, name, value)


class Keeper(Callback):
    """What is kept of a run: the average of the weights at each step; every ``every`` steps and at the end the held-out
    bound, metrics.csv, a sample grid, the weights to use, and, last of all, the checkpoint to resume from."""

    def __init__(self, run: Path, test: Samples, report: Callable[[str], None], widest: float = math.inf):
        self.run, self.test, self.report, self.widest = run, test, report, widest

    def on_train_batch_end(self, trainer: Trainer, training: LightningModule, *_: Any) -> None:
        assert isinstance(training, Training)
        training.update_average(trainer.global_step)
        if trainer.global_step % training.settings.every == 0:
            self.keep_all(trainer, training)

    def on_train_end(self, trainer: Trainer, training: LightningModule) -> None:
        assert isinstance(training, Training)
        if training.kept != trainer.global_step:
            self.keep_all(trainer, training)

    def keep_all(self, trainer: Trainer, training: Training) -> None:
        n = min(len(training.data), STATISTICS)
        parts = math.ceil(n / 512)  # of equal size, so that each counts alike
        fit_statistics(training.average, batches(training.average, training.data.spread(n - n % parts), n // parts))
        loss = torch.stack(training.losses).nanmean() if training.losses else torch.tensor(math.nan)
        loss = trainer.strategy.reduce(loss.to(training.device), reduce_op="mean")
        if trainer.is_global_zero:
            self.keep(trainer, training, float(loss))
        training.losses.clear()
        training.kept = trainer.global_step
        trainer.save_checkpoint(self.run / CHECKPOINT, weights_only=False)

    def keep(self, trainer: Trainer, training: Training, loss: float) -> None:
        model, told = training.average.eval(), training.unit
        test = summary(model, bounds(model, self.test), 1)
        every = training.settings.every
        if training.turns.due(every) and trainer.global_step % every == 0:
            training.turns.evaluated(information(training.model.eval(), self.test).mutual_information)
            training.model.train()
        row = {
            "step": trainer.global_step,
            "seconds": round(seconds(trainer), 1),
            f"train_{told.key}": loss,
            f"test_{told.key}": test[told.key],
            f"test_rate_{told.key}": told.of(test["rate"]),
            f"test_distortion_{told.key}": told.of(test["distortion"]),
            "gradient_norm": float(training.norm),
            "skipped_steps": int(training.skips),
            **{
                name: float(v)
                for m in model.modules()
                if hasattr(m, "metrics")
                for name, v in cast(Any, m).metrics().items()
            },
        }
        training.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=trainer.global_step)
        write_csv(self.run / "metrics.csv", list(row), [list(r.values()) for r in training.rows])
        model.modality.preview(model, self.test, self.run / "samples" / f"step_{trainer.global_step:07d}")
        save(model, self.run)
        self.report(
            f"step {row['step']}  {row['seconds']:.0f} s  train {loss:.4f}  "
            f"held-out {row[f'test_{told.key}']:.4f} {told.name}"
            + (f"  {row['skipped_steps']} non-finite steps skipped" if row["skipped_steps"] else "")
        )
        if row.get("sigma_2", 0.0) > self.widest:
            self.report(
                f"warning: sigma_2 {row['sigma_2']:.3g} is above {self.widest:.3g}, the data's largest deviation in "
                "any direction: codes that say nothing are then the best ones; "
                "begin with a smaller --model.decoder.sigma"
            )


@torch.no_grad()
def widest(model: LatentModel, data: Samples) -> float:
    """The data's largest principal deviation, on the networks' scale, from 500 samples at most.

    Where sigma_2 is above it, a linear VAE's best codes say nothing: its posterior collapses (Lucas et al., 2019).
    """
    x, _ = next(batches(model, data.spread(500), 500))
    scaled = model.modality.scaled(model.preprocess(x)[0])
    if scaled is None:
        return math.inf
    x = scaled.flatten(1).double()
    x = x - x.mean(0)
    return float(torch.linalg.eigvalsh(x @ x.T / len(x))[-1].clamp(min=0).sqrt())


def seconds(trainer: Trainer) -> float:
    """Time in training, earlier sessions of the run included."""
    timer = next(c for c in trainer.callbacks if isinstance(c, Timer))
    return timer.time_elapsed("train")


def compiled(model: nn.Module) -> Callable:
    """The model's forward as one graph; on a GPU replayed whole (CUDA graphs), so that no kernel waits for Python.

    Raises ``UserError`` without a C++ compiler.
    """
    if not any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])):
        raise UserError("--train.compile: expected a C++ compiler on this machine (g++ or clang++), found none")
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return torch.compile(model.forward, fullgraph=True, dynamic=False, mode=mode)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are whole or not there: Lightning's own may pass through another file system's /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as part, open(part, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # of torch's archive writer, which hides that the disk is full
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def make_trainer(settings: TrainSettings, **options: Any) -> Trainer:
    """Lightning's trainer on the machine's devices; raises ``UserError`` for those that it hasn't got."""
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=settings.strategy,
            precision=settings.precision,
            **options,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        asked = {name: getattr(settings, name) for name in ("accelerator", "devices", "nodes", "strategy", "precision")}
        given = [f"--train.{name} {v}" for name, v in asked.items() if v != getattr(TrainSettings(), name)]
        raise UserError(f"{' '.join(given) or 'train'}: not possible on this machine: {error}") from None


def digest(values: np.ndarray, labels: np.ndarray | None) -> str:
    """A short text that is the same for the same values and labels alone."""
    found = hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16)
    if labels is not None:
        found.update(np.ascontiguousarray(labels).data)
    return found.hexdigest()


def used_labels(model: LatentModel, data: Samples) -> np.ndarray | None:
    return data.labels if model.classes else None


def step_to_resume(run: Path, model: LatentModel, data: Samples) -> int:
    """The step of the run's checkpoint, 0 without one; raises ``UserError`` where model and data don't go with it."""
    path = run / CHECKPOINT
    return check_checkpoint(path, model, digest(data.values, used_labels(model, data))) if path.exists() else 0


def check_training(model: LatentModel, data: Samples, settings: TrainSettings) -> None:
    """Refuse settings that a model or its data can't be trained with; raises ``UserError``."""
    each = settings.batch_size // (settings.devices * settings.nodes)
    normalises = any(isinstance(m, BatchNorm) for m in model.modules())
    if normalises and each < 2:
        raise UserError(
            f"--train.batch_size {settings.batch_size}: this model normalises over a batch; expected 2 samples or more "
            f"a device, found {each}"
        )
    if normalises and len(data) < 2:
        raise UserError(
            f"--data: this model normalises over a batch; expected 2 training samples or more, found {len(data)}"
        )
    if settings.aggressive and not gaussian_posterior(model, data):
        raise UserError(
            "--train.aggressive: needs a Gaussian posterior of a flat latent, as vae, bn_vae and text_vae have"
        )
    if settings.free_nats_each and not closed_form(model, data):
        raise UserError(
            "--train.free_nats_each: needs a Gaussian posterior and prior, whose rate has a part a dimension"
        )
    for name in ("free_nats", "free_nats_each", "beta", "anneal"):
        if not math.prod(model.latent) and getattr(settings, name) != getattr(TrainSettings(), name):
            raise UserError(f"--train.{name}: is for models with a latent, whose rate it weighs; found one without")
    if settings.compile and data.modality.dims is None:
        raise UserError("--train.compile: expected samples of one shape; sentences have many lengths")


def closed_form(model: LatentModel, data: Samples) -> bool:
    """Whether the rate is known in closed form: of a Gaussian posterior and prior."""
    x, y = next(batches(model, data.take(np.arange(min(2, len(data)))), 2))
    with torch.no_grad():
        found = copy.deepcopy(model).eval()(x, y).kl is not None
    return found


def train(
    model: LatentModel,
    data: Samples,
    test: Samples,
    run: Path,
    settings: TrainSettings,
    resume: bool = False,
    progress: Callback | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train ``model`` on ``data`` and keep the run in the folder ``run``; returns the last row of its ``metrics.csv``.

    With ``resume`` it goes on from the run's last checkpoint, if there is one. ``report`` gets a line at each
    evaluation. Raises ``UserError`` for settings that don't fit, a damaged checkpoint, or too many non-finite steps,
    ``MachineError`` where a file can't be written.
    """
    settings.check()
    check_training(model, data, settings)
    begin = step_to_resume(run, model, data) if resume else 0
    if not begin:
        n = min(len(data), data.modality.first)
        first = Batches(len(data), n, mixed(settings.seed, 1), lambda: 0).step(0)
        x, y = next(batches(model, data.take(first), n))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(settings.seed, 2))
            initialize(model, x, y)
    keep_freed_memory()
    set_reversible(model, settings.reversible)
    training = Training(model, settings, data)
    steps = settings.max_steps
    ends = [f"{steps} steps"] * (steps >= 0) + [f"{settings.minutes} minutes"] * (settings.minutes is not None)
    size = sum(p.numel() for p in model.parameters())
    held_out = f"{len(data)} {data.modality.noun} of {data.modality.size} and {len(test)} held out"
    since = f"from step {begin} to " if begin else ""
    what = f"training {run}: {size:,} parameters, {held_out}, {since}{' or '.join(ends)}"
    report(f"{run}: --train.steps {steps}: nothing to do, it is at step {begin}" if begin >= steps >= 0 else what)
    budget = None if settings.minutes is None else {"seconds": settings.minutes * 60}
    trainer = make_trainer(
        settings,
        max_steps=steps,
        max_epochs=-1,
        callbacks=[
            Timer(budget, interval="step", verbose=False),
            Keeper(run, test.spread(settings.test_images), report, widest(model, data)),
        ]
        + ([progress] if progress else []),
        logger=TensorBoardLogger(run, name="tensorboard", version=""),
        plugins=[WholeFiles()],
        default_root_dir=run,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=settings.every,
    )
    trainer.fit(training, ckpt_path=run / CHECKPOINT if begin else None, weights_only=True)
    return training.rows[-1] if training.rows else {}
