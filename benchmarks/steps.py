"""A training step inside real runs of ``fvae.train``: with its feed against one resident batch, and plain against fast.

usage: python benchmarks/steps.py --out DIR [--rounds N] [--threads N]

Each contender is trained for some steps in each round, one after the other in one process; a step is the time from one
batch's arrival to the next one's, everything in it: feed, noise, forward, backward, clipping, AdamW, average and loop.
The median over all steps of all rounds counts. Writes DIR/steps.md.
"""

import argparse
import itertools
import logging
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
from lightning import Callback
from speed import conditions, markdown
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from plain import plain

from fvae.data.samples import Samples
from fvae.demo import MODEL
from fvae.files import write_text
from fvae.model import LatentModel
from fvae.recipes import f_vae, glow
from fvae.settings import TrainSettings
from fvae.train import Training, train

WARM = 5  # steps of each run that don't count


class Clock(Callback):
    """When each batch arrived."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
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
    """The times of the steps of one run, in ms."""
    torch.manual_seed(0)
    model = contender.model()
    images = Samples(contender.pixels, [""] * len(contender.pixels))
    settings = TrainSettings(steps=contender.steps, batch_size=contender.batch, every=10**6, test_images=8)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contender.around(model):
        train(model, images, images, Path(folder), settings, progress=clock, report=lambda line: None)
    return clock.steps()


@contextmanager
def resident(model: LatentModel) -> Iterator[None]:
    """One batch, over and over."""

    def feed(training: Training) -> Iterator[list]:
        return itertools.repeat([torch.from_numpy(training.data.values[: training.settings.batch_size]), None])

    with mock.patch.object(Training, "train_dataloader", feed):
        yield


@contextmanager
def plainly(model: LatentModel) -> Iterator[None]:
    """Each flow and layer on its own, torch's clipping by norm and its averaged model."""
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))

    def clip(training: Training, optimizer: object, **_: object) -> None:
        training.norm = nn.utils.clip_grad_norm_(training.model.parameters(), training.settings.clip)

    with (
        plain(model),
        mock.patch.object(Training, "configure_gradient_clipping", clip),
        mock.patch.object(Training, "update_average", lambda training, n: average.update_parameters(training.model)),
    ):
        yield


def demo() -> LatentModel:
    return f_vae((1, 8, 8), **MODEL)


def small_glow() -> LatentModel:
    return glow((3, 32, 32))


def tables(rounds: int) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """The median step of each contender, under a title; the first of each table is what the others are measured by."""
    random = np.random.default_rng(0)
    digits, pictures = (random.integers(0, 256, (n, *s), np.uint8) for n, s in ((1700, (1, 8, 8)), (5000, (3, 32, 32))))
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=pictures.shape)
        mapped[:] = pictures
        groups = {
            "fvae demo's step: plain against fast": [
                Contender("plain implementation", demo, digits, 128, 40, plainly),
                Contender("fvae", demo, digits, 128, 40),
            ],
            "Feed, fvae demo's model, batch 128": [
                Contender("one resident batch", demo, digits, 128, 60, resident),
                Contender("fed from memory", demo, digits, 128, 60),
            ],
            "Feed, Glow (8 steps a level, width 256), batch 16": [
                Contender("one resident batch", small_glow, pictures, 16, 12, resident),
                Contender("fed from memory", small_glow, pictures, 16, 12),
                Contender("fed from a memory map", small_glow, mapped, 16, 12),
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
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    text = f"# Steps of real runs\n\n{conditions('cpu', args.rounds, kept=True)}"
    for title, rows in tables(args.rounds):
        first = rows[0][1]
        lines = [[name, f"{ms:.1f}", f"{ms / first:.3f}"] for name, ms in rows]
        table = f"\n## {title}\n\n{markdown(['contender', 'ms a step', 'ratio'], lines)}"
        print(table, flush=True)
        text += table
    write_text(args.out / "steps.md", text)


if __name__ == "__main__":
    main()
