"""How training shows itself in a terminal or a notebook: a bar with the loss and the time left."""

import time
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fvae.training.trainer import Callback, Row, Trainer

REFRESH = 0.2  # seconds: the loss is read from the device a few times a second, not at each step


class ProgressBar(Callback):
    """Progress towards the end of a training's steps or minutes, whichever is nearer, on standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.shown = self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.bar = Progress(*columns, *times, console=self.console)
        self.held_out, self.updated = "", 0.0

    def fraction_done(self, trainer: Trainer) -> float:
        """How much of the training is done, 0 .. 1."""
        steps, minutes = trainer.settings.max_steps, trainer.settings.minutes
        return max(trainer.step / steps if steps else 0.0, trainer.seconds / (60 * minutes) if minutes else 0.0)

    def status(self, trainer: Trainer) -> str:
        loss = f"  loss {float(trainer.losses[-1]):.4f} {trainer.unit.name}" if trainer.losses else ""
        return f"step {trainer.step}{loss}{self.held_out}"

    def on_step(self, trainer: Trainer) -> None:
        if not self.shown or time.monotonic() - self.updated < REFRESH:
            return
        if not self.updated:
            self.task = self.bar.add_task("training", total=1.0)
            self.bar.start()
        self.updated = time.monotonic()
        self.bar.update(self.task, completed=self.fraction_done(trainer), description=self.status(trainer))

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        self.held_out = f"  held-out {row[f'test_{trainer.unit.key}']:.4f}"

    def on_end(self, trainer: Trainer) -> None:
        if self.updated:  # rich would print an empty line for a bar that never was
            self.bar.stop()
