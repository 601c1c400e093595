"""How training shows itself: a bar with the loss and the time left or, without a terminal, a line now and then."""

import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fvae.train import seconds
from fvae.watch import LINE_EVERY


class ProgressBar(Callback):
    """Progress towards the run's steps or minutes, whichever is nearer, on standard error."""

    def __init__(self, steps: int, minutes: float | None):
        self.steps, self.minutes = steps, minutes
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.console = Console(stderr=True)
        self.bar = Progress(*columns, *times, console=self.console)
        self.shown, self.drawn = False, 0.0

    def on_train_start(self, trainer: Trainer, training: LightningModule) -> None:
        self.shown = self.console.is_terminal and trainer.is_global_zero
        self.drawn = time.monotonic()
        if self.shown:
            self.task = self.bar.add_task("training", total=1.0)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, training: Any, *_: Any) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or now - self.drawn < (0.2 if self.shown else LINE_EVERY):
            return  # the loss is read from the device a few times a second, not at each step
        self.drawn = now
        done = trainer.global_step / self.steps if self.steps > 0 else 0.0
        if self.minutes is not None:
            done = max(done, seconds(trainer) / (60 * self.minutes))
        loss = f"loss {float(training.losses[-1]):.4f} {training.unit.name}" if training.losses else ""
        if self.shown:
            self.bar.update(self.task, completed=done, description=f"step {trainer.global_step}  {loss}")
        else:
            print(f"step {trainer.global_step}  {done:.0%}  {loss}", file=sys.stderr, flush=True)

    def teardown(self, *_: Any, **__: Any) -> None:
        if self.shown:  # rich would print an empty line for a bar that never was
            self.bar.stop()

    def say(self, line: str) -> None:
        """A line that stays, above the bar."""
        if self.console.is_terminal:
            self.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
