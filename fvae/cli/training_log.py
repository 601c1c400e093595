"""How a training shows itself on standard error."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from fvae.cli import progress
from fvae.cli.run_data import say, say_skipped
from fvae.data import inspect
from fvae.files import write_text
from fvae.settings import DataSettings
from fvae.training.progress import ProgressBar
from fvae.training.trainer import Row, Trainer


class TrainingLog(ProgressBar):
    """What is trained and what is unusual about its data; then the bar, with a line that stays for each evaluation.

    Without a terminal there is a line now and then instead of the bar.
    """

    def __init__(self, data: DataSettings, out: Path):
        super().__init__()
        self.data, self.out, self.printed = data, out, time.monotonic()

    def on_start(self, trainer: Trainer) -> None:
        model, settings, train, test = trainer.model, trainer.settings, trainer.data, trainer.test
        modality, recipe = train.modality, model.config["recipe"]
        if self.data.labels and not model.classes:
            takes = "labels with --model.classes N" if "classes" in model.config["settings"] else "no labels"
            say([f"warning: --data.labels {self.data.labels}: not used: {recipe} takes {takes}"])
        say_skipped(train.skipped + test.skipped, len(train) + len(test), modality, self.out)
        say(seen := inspect(replace(train, modality=model.modality), test))  # as the model has them: in its bits
        say(described := modality.description())
        counts = f"{len(train)} {modality.noun} of {modality.size} and {len(test)} held out"
        write_text(self.out / "data.txt", "\n".join([counts, *seen, *described, ""]))
        if settings.batch_size > len(train):
            more = f"more than the {len(train)} training {modality.noun}, which come several times in each"
            say([f"warning: --train.batch_size {settings.batch_size}: {more}"])
        if trainer.begun:
            say([f"begun from {settings.init}: {trainer.begun}"])
        if settings.freeze:
            size = sum(p.numel() for p in model.parameters() if p.requires_grad)
            say([f"frozen: {', '.join(settings.frozen)}; {size:,} parameters are trained"])
        if trainer.changed:
            say([f"resumed with {', '.join(trainer.changed)}"])
        steps, minutes = settings.max_steps, settings.minutes
        ends = [f"{n:g} {unit}" for n, unit in ((steps, "steps"), (minutes, "minutes")) if n is not None]
        size = sum(p.numel() for p in model.parameters())
        since = f"from step {trainer.step} to " if trainer.step else ""
        if steps is not None and trainer.step >= steps:
            say([f"{self.out}: --train.steps {steps}: nothing to do, it is at step {trainer.step}"])
        elif minutes is not None and trainer.seconds >= 60 * minutes:
            spent = trainer.seconds / 60
            say([f"{self.out}: --train.minutes {minutes:g}: nothing to do, it was trained for {spent:.2g} minutes"])
        else:
            say([f"training {self.out}: {size:,} parameters, {counts}, {since}{' or '.join(ends)}"])

    def on_step(self, trainer: Trainer) -> None:
        super().on_step(trainer)
        if not self.shown and time.monotonic() - self.printed > progress.INTERVAL:
            self.printed = time.monotonic()
            self.print(f"{self.status(trainer)}  {self.fraction_done(trainer):.0%}")

    def on_evaluation(self, trainer: Trainer, row: Row) -> None:
        key, skipped = trainer.unit.key, row["skipped_steps"]
        figures = f"train {row[f'train_{key}']:.4f}  held-out {row[f'test_{key}']:.4f} {trainer.unit.name}"
        note = f"  {skipped} non-finite steps skipped" if skipped else ""
        self.print(f"step {row['step']}  {row['seconds']:.0f} s  {figures}{note}")

    def print(self, line: str) -> None:
        """Print a line, above the bar where it is shown."""
        if self.shown:
            self.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)
