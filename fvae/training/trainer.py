"""The training loop, on Lightning Fabric's devices, precisions and strategies.

The weights after so many steps are a function of the settings and the data. The samples of step t and the noise u of
step t depend on (seed, t) only, and are drawn for the whole batch of all devices, each of which takes its share. A
training that was killed therefore resumes from its last checkpoint to the same weights as one that was not, bit for
bit, with no generator's state to be saved; and two processes agree with one, but for dropout, which each draws for
itself.
"""

import copy
import math
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fvae.data import Samples
from fvae.errors import InputError
from fvae.metrics import batches, bounds, latent_information, summary
from fvae.model import LatentModel
from fvae.runs.model import check_fit
from fvae.settings import TrainSettings
from fvae.statistics import fit_statistics
from fvae.terms import Terms
from fvae.training.aggressive import AggressiveSchedule
from fvae.training.loader import Batch, Loader, Sampler, mixed_seed
from fvae.training.optimization import average_decay, learning_rate, parameter_groups, rate_weight
from fvae.training.signals import deferred_signals

STATISTICS = 2000  # samples that evaluation's statistics are taken from
NON_FINITE = 50  # non-finite steps in a row before training stops
AGREEMENT = 10  # steps between those at which several processes agree on whether to go on
Row = dict[str, float]


class Best(NamedTuple):
    """The averaged weights that were best on the held-out samples so far, their step and their bound."""

    weights: dict[str, torch.Tensor]  # in the CPU's memory
    step: int
    bound: float


class Callback:
    """What happens beside training, in the first process."""

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step."""

    def on_step(self, trainer: "Trainer") -> None:
        """After each step."""

    def on_evaluation(self, trainer: "Trainer", row: Row) -> None:
        """After each evaluation; ``row`` holds its figures."""

    def on_checkpoint(self, trainer: "Trainer") -> None:
        """Between evaluations, where it is time for a checkpoint or the training is interrupted."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last step, or an error."""


class Trainer:
    """A model in training, with the average of its weights; the loss is the bound in the data's unit.

    Nothing in a step waits for the device: norms, losses and counts stay there until an evaluation. What is reported
    of the loss is the bound, whatever the rate weighs in training.
    """

    def __init__(self, fabric: Fabric, model: LatentModel, data: Samples, test: Samples, settings: TrainSettings):
        self.fabric, self.model, self.data, self.test, self.settings = fabric, model, data, test, settings
        for part in self.frozen:  # before several processes agree on whose gradients they wait for
            part.requires_grad_(False)
        self.module = fabric.setup_module(compiled(model) if settings.compile else model)
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(parameter_groups(model, settings.lr, settings.weight_decay), fused=True)
        self.schedule = AggressiveSchedule(model, settings.aggressive)
        self.unit = model.modality.unit
        self.step, self.seconds, self.known_seconds, self.rows = 0, 0.0, 0.0, list[Row]()
        self.best: Best | None = None
        self.begun = ""  # what was taken from another model, in words
        self.changed: list[str] = []  # the settings that differ from those before it was resumed, in words
        self.losses: list[torch.Tensor] = []
        self.norm, self.skipped, self.skipped_in_a_row = torch.zeros(3, device=fabric.device)

    def train(self, callbacks: Sequence[Callback] = ()) -> None:
        """Train to the end of the budget or of patience; evaluate every ``eval_interval`` steps and at the end.

        SIGINT and SIGTERM take effect at the end of a step, after a checkpoint.
        """
        s, fabric = self.settings, self.fabric
        callbacks = callbacks if fabric.is_global_zero else ()
        sampler = Sampler(len(self.data), s.batch_size, s.seed, fabric.global_rank, fabric.world_size)
        loader = Loader(self.data, self.model.modality, sampler, s.accumulate, fabric.device.type == "cuda")
        self.first, self.began = self.step, time.monotonic() - self.seconds
        self.next_checkpoint = time.monotonic() + 60 * min(1.0, s.checkpoint_minutes)
        self.train_mode()
        for callback in callbacks:
            callback.on_start(self)
        with deferred_signals() as received:
            try:
                _, over, _ = self.agreed(received)
                ended = over or self.finished()
                if ended and not self.rows:  # of a training that was interrupted before its first evaluation
                    self.evaluate(callbacks)
                for parts in loader.since(self.step) if not ended else ():
                    self.training_step([fabric.to_device(part) for part in parts])
                    for callback in callbacks:
                        callback.on_step(self)
                    interrupted, over, due = self.agreed(received)
                    if over or self.finished() or self.step % s.eval_interval == 0:
                        self.evaluate(callbacks)
                    elif interrupted or due:
                        self.checkpoint(callbacks)
                    if interrupted or over or self.finished():
                        break
            finally:
                self.schedule.restore()
                for callback in callbacks:
                    callback.on_end(self)

    @property
    def frozen(self) -> list[nn.Module]:
        """The parts that are not trained."""
        return [self.model.get_submodule(name) for name in self.settings.frozen]

    def train_mode(self) -> None:
        """The model in training mode, its frozen parts in evaluation mode, with the statistics that they have."""
        self.model.train()
        for part in self.frozen:
            part.eval()

    def finished(self) -> bool:
        """Whether the steps are used up, or the last ``patience`` evaluations were no better than one before."""
        s, best = self.settings, self.best
        if s.patience and best and sum(row["step"] > best.step for row in self.rows) >= s.patience:
            return True
        return s.max_steps is not None and self.step >= s.max_steps

    def done(self) -> float:
        """The share of the budget that is used up; of minutes as all processes last knew it."""
        s = self.settings
        shares = [self.step / s.max_steps] if s.max_steps else []
        return max([*shares, *([self.known_seconds / (60 * s.minutes)] if s.minutes else [])])

    def agreed(self, received: list[int]) -> list[bool]:
        """Whether a signal was received, the minutes are used up, and a checkpoint is due: in any of the processes."""
        now, minutes = time.monotonic(), self.settings.minutes
        self.seconds = now - self.began
        over = minutes is not None and self.seconds >= 60 * minutes
        found = [bool(received), over, now >= self.next_checkpoint]
        if self.fabric.world_size == 1:
            self.known_seconds = self.seconds
            return found
        if (self.step - self.first) % AGREEMENT:
            return [False, False, False]
        flags = torch.tensor([*found, self.seconds], dtype=torch.float32, device=self.fabric.device)
        *found, self.known_seconds = cast(torch.Tensor, self.fabric.all_reduce(flags, reduce_op="max")).tolist()
        return [bool(flag) for flag in found]

    def training_step(self, parts: Sequence[Batch]) -> None:
        """One optimizer step on a batch, whose gradient is accumulated over its parts."""
        s, fabric = self.settings, self.fabric
        generator = torch.Generator(fabric.device).manual_seed(mixed_seed(s.seed, self.step))
        u = self.model.noise(s.batch_size, generator)[fabric.global_rank :: fabric.world_size]
        torch.manual_seed(mixed_seed(s.seed, self.step, fabric.global_rank + 1))  # of dropout
        if s.aggressive:
            self.schedule.select()
        self.optimizer.zero_grad()
        total, amount, found = 0.0, 0, []
        if s.flip or s.shift:
            parts = self.augmented(parts, generator)
        for k, ((x, y), noise) in enumerate(zip(parts, u.chunk(len(parts)), strict=True)):
            with fabric.no_backward_sync(self.module, enabled=k < len(parts) - 1):
                with torch.autocast(fabric.device.type, torch.bfloat16, enabled=s.precision == "bf16-mixed"):
                    terms = self.module(x, y, noise)
                loss = self.unit.from_nats(self.loss(terms))
                fabric.backward(loss / len(parts))
            found.append(self.unit.from_nats(terms.loss().detach()))
            if s.aggressive:
                total += len(x) * float(loss.detach())
                amount += self.model.modality.amount(x)
        self.losses.append(torch.stack(found).mean())
        self.update()
        if s.aggressive:
            self.schedule.after(total, amount)

    def augmented(self, parts: Sequence[Batch], generator: torch.Generator) -> list[Batch]:
        """The batch's parts with their samples mirrored and shifted at random, as the settings have it."""
        s, fabric, found = self.settings, self.fabric, []
        mirrored = torch.rand(s.batch_size, generator=generator, device=fabric.device) < (0.5 if s.flip else 0)
        shape = (s.batch_size, 2)
        shifts = torch.randint(-s.shift, s.shift + 1, shape, generator=generator, device=fabric.device)
        each = (a[fabric.global_rank :: fabric.world_size].chunk(len(parts)) for a in (mirrored, shifts))
        for (x, y), *chosen in zip(parts, *each, strict=True):
            found.append((self.model.modality.augment(x, *chosen), y))
        return found

    def loss(self, terms: Terms) -> torch.Tensor:
        """The objective, with this step's weight of the rate and with the free nats."""
        s = self.settings
        step = self.schedule.rounds if s.aggressive else self.step
        return terms.loss(s.beta * rate_weight(s, step), s.free_nats, s.free_nats_per_dim)

    def update(self) -> None:
        """Clip the gradient and take a step, which is skipped where the gradient is not finite.

        Both by what AdamW's fused step takes from gradient scalers: what to divide gradients by, and whether to update
        at all.
        """
        optimizer: Any = self.optimizer
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.norm = nn.utils.get_total_norm(gradients)
        bad = (~self.norm.isfinite()).float()
        optimizer.grad_scale = (self.norm / self.settings.clip).clamp(min=1).float()
        optimizer.found_inf = bad
        rate = learning_rate(self.settings, self.step, self.done())
        for group in optimizer.param_groups:
            group["lr"] = group["lr_scale"] * rate
        optimizer.step()
        self.step += 1
        self.losses[-1] = torch.where(bad > 0, math.nan, self.losses[-1])
        self.skipped += bad
        self.skipped_in_a_row.add_(1).mul_(bad)
        if self.step % NON_FINITE == 0 and self.skipped_in_a_row >= NON_FINITE:
            text = f"training stopped at step {self.step}: {NON_FINITE} steps in a row had no finite gradient"
            raise InputError(f"{text}; try less than {self.settings.lr:g}, or a longer warmup", "lr")
        with torch.no_grad():
            d = average_decay(self.settings.ema, self.step)
            get_ema_multi_avg_fn(d)(list(self.average.parameters()), list(self.model.parameters()), None)

    def evaluate(self, callbacks: Sequence[Callback] = ()) -> None:
        """Evaluate the averaged weights on held-out data; adds a row of figures to ``rows``, and keeps the best."""
        self.fit_statistics()
        self.average_losses()
        loss = float(torch.stack(self.losses).nanmean()) if self.losses else math.nan
        self.losses.clear()
        row = self.fabric.broadcast(self.figures(loss) if self.fabric.is_global_zero else {})
        best = self.keep_best(self.average, self.step, row[f"test_{self.unit.key}"])
        row |= {"best_step": best.step, f"best_{self.unit.key}": best.bound}
        self.rows.append(row)
        for callback in callbacks:
            callback.on_evaluation(self, row)
        self.checkpointed()

    def checkpoint(self, callbacks: Sequence[Callback] = ()) -> None:
        """Let the training be kept between evaluations; before the first one its averaged weights can be used, too."""
        if not self.rows:
            self.fit_statistics()
        self.average_losses()
        for callback in callbacks:
            callback.on_checkpoint(self)
        self.checkpointed()

    def checkpointed(self) -> None:
        self.fabric.barrier()
        self.next_checkpoint = time.monotonic() + 60 * self.settings.checkpoint_minutes

    def fit_statistics(self) -> None:
        """Set the statistics that the averaged weights are evaluated with."""
        n = min(len(self.data), STATISTICS)
        parts = math.ceil(n / 512)  # of equal size, so that each counts alike
        kept = [self.average.get_submodule(name) for name in self.settings.frozen]
        fit_statistics(self.average, batches(self.average, self.data.spread(n - n % parts), n // parts), kept)

    def average_losses(self) -> None:
        """Average the losses since the last evaluation, step by step, over the processes."""
        if self.losses:
            losses = self.fabric.all_reduce(torch.stack(self.losses), reduce_op="mean")
            self.losses = list(cast(torch.Tensor, losses))

    def keep_best(self, model: LatentModel, step: int, bound: float) -> Best:
        """The best so far, with a model's weights if these are it."""
        if self.best is None or bound < self.best.bound or math.isnan(self.best.bound):
            weights = {name: w.to("cpu", copy=True) for name, w in model.state_dict().items()}
            self.best = Best(weights, step, bound)
        return self.best

    def resume_best(self, model: LatentModel) -> None:
        """Resume with the weights that were best, evaluated anew, since other samples may be held out now."""
        step = int(self.rows[-1]["step"]) if model.step is None else model.step
        self.keep_best(model, step, self.held_out(model)[self.unit.key])

    def held_out(self, model: LatentModel) -> dict[str, Any]:
        """The bounds of a model on the held-out samples that evaluations take."""
        return summary(model, bounds(model, self.test.spread(self.settings.eval_samples), allow_nan=True), 1)

    def figures(self, loss: float) -> Row:
        """The figures of the averaged weights, with the average ``loss`` of training since the last evaluation."""
        model, unit, interval = self.average, self.unit, self.settings.eval_interval
        found = self.held_out(model)
        if self.schedule.due(interval) and self.step % interval == 0:
            test = self.test.spread(self.settings.eval_samples)
            self.schedule.evaluated(latent_information(self.model.eval(), test).mutual_information)
            self.train_mode()
        metrics: dict[str, Any] = self.posterior_std()
        for path, module in model.named_modules():
            for name, value in cast(Any, module).metrics().items() if hasattr(module, "metrics") else ():
                metrics[f"{path}.{name}" if name in metrics else name] = value  # of a decoder's own latent
        return {
            "step": self.step,
            "seconds": round(time.monotonic() - self.began, 1),
            f"train_{unit.key}": loss,
            f"test_{unit.key}": found[unit.key],
            f"test_rate_{unit.key}": unit.from_nats(found["rate"]),
            f"test_distortion_{unit.key}": unit.from_nats(found["distortion"]),
            "gradient_norm": float(self.norm),
            "skipped_steps": int(self.skipped),
            **{name: float(value) for name, value in metrics.items()},
        }

    @torch.no_grad()
    def posterior_std(self) -> dict[str, Any]:
        """The averaged weights' mean standard deviation of q(z|x), where it is Gaussian, of up to 64 held-out samples.

        A rate that vanishes shows as a deviation that rises to that of the prior.
        """
        model = self.average
        x, y = next(batches(model, self.test.spread(64), 64))
        found = model.gaussian_of(model.preprocess(x)[0], y) if math.prod(model.latent) else None
        return {} if found is None else {"posterior_std": found[1].exp().mean()}

    # What a checkpoint holds

    def state(self) -> dict[str, Any]:
        """All that training needs to resume: tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state,
            "step": self.step,
            "seconds": time.monotonic() - self.began,
            "skipped": [float(self.skipped), float(self.skipped_in_a_row)],
            "losses": torch.stack(self.losses) if self.losses else torch.empty(0),
            "rows": self.rows,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a ``state``; raises ``InputError`` where the optimizer's is of another model."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        moments, groups = state["optimizer"]["state"], self.optimizer.state_dict()["param_groups"]
        known: dict[str, torch.Tensor] = {}
        for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            if i in moments:  # a parameter has them from its first step on
                known |= {f"{i}.step": p.new_zeros(()), f"{i}.exp_avg": p, f"{i}.exp_avg_sq": p}
        found = {f"{i}.{name}": tensor for i, values in moments.items() for name, tensor in values.items()}
        check_fit("optimizer", found, known, "the run's config.yaml")
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.state, self.step, self.seconds = state["schedule"], state["step"], state["seconds"]
        self.skipped, self.skipped_in_a_row = torch.tensor(state["skipped"], device=self.fabric.device)
        self.losses, self.rows = list(state["losses"].flatten()), state["rows"]


def compiled(model: nn.Module) -> Any:
    """The model as one graph; on a GPU replayed whole (CUDA graphs), so that no kernel waits for Python.

    Raises ``InputError`` without a C++ compiler.
    """
    if not any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])):
        raise InputError("expected a C++ compiler on this machine (g++ or clang++), found none", "compile")
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return torch.compile(model, fullgraph=True, dynamic=False, mode=mode)


def make_fabric(settings: TrainSettings) -> Fabric:
    """Fabric on the machine's devices; raises ``InputError`` for devices that it has not got.

    Precision is not Fabric's to set: it would round the inputs to bfloat16, not only the networks' products.
    """
    asked = {name: getattr(settings, name) for name in ("accelerator", "devices", "nodes", "strategy")}
    try:
        if settings.devices > (most := max(torch.accelerator.device_count(), os.cpu_count() or 1, 8)):
            raise InputError(f"expected at most {most} on this machine, found {settings.devices}", "devices")
        return Fabric(**{"num_nodes" if name == "nodes" else name: value for name, value in asked.items()})
    except (ValueError, RuntimeError, ImportError) as error:
        changed = [name for name, value in asked.items() if value != getattr(TrainSettings(), name)] or ["accelerator"]
        first, *others = [name for name in changed if f"{name}=" in str(error)] or changed
        found = " with ".join([str(asked[first]), *(f"{name} {asked[name]}" for name in others)])
        raise InputError(f"{found}: not possible on this machine: {error}", first) from None
