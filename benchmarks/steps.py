"""A training step of ``fvae.fit``: read by the loader or on one batch in memory, and plain or fused.

usage: python benchmarks/steps.py --out DIR [--rounds N] [--threads N]

Each contender is trained for some steps in each round, one after the other in one process. The time of a step includes
all of it: loader, noise, forward, backward, clipping, AdamW, averaged weights and loop. Reported is the median over all
steps of all rounds. Writes DIR/steps.md.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from speed import conditions, markdown
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from plain import plain

from fvae import fit
from fvae.files import write_text
from fvae.model import LatentModel
from fvae.recipes import f_vae, glow
from fvae.training import Callback, Trainer
from fvae.training.loader import Loader

WARM = 5  # warm-up steps of each run, which are not counted
DEMO = {"flow": {"levels": 2, "depth": 5, "width": 64}, "bits": 4}  # the model of fvae demo


class Clock(Callback):
    """A callback that records when each step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_start(self, trainer: Trainer) -> None:
        self.times.append(time.perf_counter())

    def on_step(self, trainer: Trainer) -> None:
        self.times.append(time.perf_counter())

    def steps(self) -> list[float]:
        return [1e3 * (b - a) for a, b in itertools.pairwise(self.times)][WARM:]


@dataclass
class Contender:
    name: str
    model: Callable[[], LatentModel]
    pixels: np.ndarray
    batch: int
    steps: int
    around: Callable[[LatentModel], AbstractContextManager[None]] = lambda model: nullcontext()


def run(contender: Contender) -> list[float]:
    """The times of the steps of one run, in milliseconds."""
    torch.manual_seed(0)
    model = contender.model()
    clock, settings = Clock(), {"steps": contender.steps, "batch_size": contender.batch, "eval_interval": 10**6}
    with contender.around(model):
        fit(model, contender.pixels, contender.pixels, eval_samples=8, progress=False, callbacks=[clock], **settings)
    return clock.steps()


@contextmanager
def resident(model: LatentModel) -> Iterator[None]:
    """Replace the loader by one batch in memory."""

    def since(loader: Loader, t: int) -> Iterator[list]:
        return itertools.repeat([(torch.from_numpy(loader.data.values[: loader.sampler.batch_size]), None)])

    with mock.patch.object(Loader, "since", since):
        yield


@contextmanager
def plainly(model: LatentModel) -> Iterator[None]:
    """Separate flows and layers, torch's clipping by norm and torch's averaged model."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def update(trainer: Trainer) -> None:
        trainer.norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.settings.clip)
        for group in trainer.optimizer.param_groups:
            group["lr"] = group["lr_scale"] * trainer.settings.lr
        trainer.optimizer.step()
        trainer.step += 1
        average.update_parameters(trainer.model)

    with plain(model), mock.patch.object(Trainer, "update", update):
        yield


def demo() -> LatentModel:
    return f_vae((1, 8, 8), **DEMO)


def small_glow() -> LatentModel:
    return glow((3, 32, 32))


def tables(rounds: int) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """The median step of each contender, under a title; ratios are to the first contender of each table."""
    random = np.random.default_rng(0)
    digits, pictures = (random.integers(0, 256, (n, *s), np.uint8) for n, s in ((1700, (1, 8, 8)), (5000, (3, 32, 32))))
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=pictures.shape)
        mapped[:] = pictures
        groups = {
            "The step of fvae demo, plain and fused": [
                Contender("plain implementation", demo, digits, 128, 40, plainly),
                Contender("fvae", demo, digits, 128, 40),
            ],
            "Loader, the model of fvae demo, batch 128": [
                Contender("one batch in memory", demo, digits, 128, 60, resident),
                Contender("loaded from memory", demo, digits, 128, 60),
            ],
            "Loader, Glow (8 steps a level, width 256), batch 16": [
                Contender("one batch in memory", small_glow, pictures, 16, 12, resident),
                Contender("loaded from memory", small_glow, pictures, 16, 12),
                Contender("loaded from a memory map", small_glow, mapped, 16, 12),
            ],
        }
        for title, contenders in groups.items():
            times: dict[str, list[float]] = {c.name: [] for c in contenders}
            for _ in range(rounds):
                for c in contenders:
                    times[c.name] += run(c)
            yield title, [(name, statistics.median(t)) for name, t in times.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    text = f"# Steps of real runs\n\n{conditions('cpu', args.rounds, kept=True)}"
    for title, rows in tables(args.rounds):
        first = rows[0][1]
        lines = [[name, f"{ms:.1f}", f"{ms / first:.3f}"] for name, ms in rows]
        table = f"\n## {title}\n\n{markdown(['contender', 'ms per step', 'ratio'], lines)}"
        print(table, flush=True)
        text += table
    write_text(args.out / "steps.md", text)


if __name__ == "__main__":
    main()
