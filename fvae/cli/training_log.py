"""How a training shows itself on standard error."""

import sys
import time

from fvae.cli import progress
from fvae.training.progress import ProgressBar
from fvae.training.trainer import Row, Trainer


class TrainingLog(ProgressBar):
    """The bar, with a line that stays for each evaluation; without a terminal also a line now and then."""

    def __init__(self, steps: int | None, minutes: float | None):
        super().__init__(steps, minutes)
        self.printed = time.monotonic()

    def say(self, line: str) -> None:
        if self.shown:
            self.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_step(self, trainer: Trainer) -> None:
        super().on_step(trainer)
        if not self.shown and time.monotonic() - self.printed > progress.INTERVAL:
            self.printed = time.monotonic()
            self.say(f"{self.status(trainer)}  {self.share(trainer):.0%}")

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        key, skipped = trainer.unit.key, row["skipped_steps"]
        figures = f"train {row[f'train_{key}']:.4f}  held-out {row[f'test_{key}']:.4f} {trainer.unit.name}"
        note = f"  {skipped} non-finite steps skipped" if skipped else ""
        self.say(f"step {row['step']}  {row['seconds']:.0f} s  {figures}{note}")
