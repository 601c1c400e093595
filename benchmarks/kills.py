"""Trainings that are killed again and again, and resumed: they must end as one that was left alone.

usage: python benchmarks/kills.py --out FILE.md [--kills 100] [--seed 0]

For images, a table and text, in one process and in two, ``fvae train`` is stopped at random moments by kill -9, SIGINT
or SIGTERM and resumed until it ends; then it is begun anew, until so many kills are done. Checked after each: files are
whole, and a model that is there loads. Checked at each end: all weights, those in training too, are bit-equal to those
of a run that was never stopped. Writes a table.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fvae import load
from fvae.files import write_text
from fvae.runs.folder import CHECKPOINT

SIGNALS = {"kill -9": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
SHORT = "--train.steps 60 --train.eval_interval 10 --train.eval_samples 32 --train.batch_size 16"
MODELS = {
    "images": "f_vae --data digits --model.flow.levels 2 --model.flow.depth 1 --model.flow.width 8 --model.bits 4",
    "table": "realnvp --data rows.csv --model.flow.depth 2 --model.flow.width 16",
    "text": "text_vae --data lines.txt --model.latent 4 --model.encoder.hidden 16 --model.decoder.hidden 16",
}
PROCESSES = {1: "", 2: "--train.devices 2 --train.strategy ddp"}


class Case(NamedTuple):
    name: str
    processes: int
    argv: list[str]


def cases() -> list[Case]:
    return [
        Case(name, n, f"{model} {SHORT} {more}".split())
        for name, model in MODELS.items()
        for n, more in PROCESSES.items()
    ]


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3))
    np.savetxt(folder / "rows.csv", rows, delimiter=",", header="a,b,c", comments="")
    words = [f"word{i}" for i in range(30)]
    lines = (" ".join(words[j] for j in rng.integers(0, 30, rng.integers(2, 9))) for _ in range(300))
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")


def start(case: Case, run: Path, folder: Path) -> subprocess.Popen:
    argv = [sys.executable, "-m", "fvae", "train", *case.argv, "--out", str(run), "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(argv, cwd=folder, env=environment, start_new_session=True, **quiet)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights to use, and those in training."""
    last = torch.load(run / CHECKPOINT, weights_only=True)
    return {**load(run).state_dict(), **{f"training {name}": w for name, w in last["model"].items()}}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> int:
    """How many values differ, in any bit."""
    assert a.keys() == b.keys()
    return sum(int((a[name] != b[name]).sum()) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, lines = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder)
        every = cases()
        for i, case in enumerate(every):
            kills = args.kills // len(every) + (i < args.kills % len(every))
            lines.append(try_case(case, kills, rng, folder))
            print(lines[-1], flush=True)
    columns = ["data", "processes", *SIGNALS, "in training", "seconds lost at most", "runs ended", "values that differ"]
    head = [f"    python benchmarks/kills.py --kills {args.kills} --seed {args.seed}", ""]
    head += [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    write_text(args.out, "\n".join([*head, *lines]) + "\n")


def try_case(case: Case, kills: int, rng: random.Random, folder: Path) -> str:
    """Stop and resume one training; the line of the table."""
    name = f"{case.name}_{case.processes}"
    whole, began = folder / f"{name}_whole", time.monotonic()
    assert start(case, whole, folder).wait() == 0, f"{case.name}: the training itself fails"
    duration = time.monotonic() - began
    expected = weights(whole)
    count: Counter[str] = Counter()
    run, differ, lost = folder / f"{name}_0", 0, 0.0
    while sum(count[s] for s in SIGNALS) < kills or not count["ended"]:
        child, started = start(case, run, folder), time.time()
        sent = rng.choice(list(SIGNALS))
        try:
            done = sum(count[s] for s in SIGNALS) >= kills
            status = child.wait(None if done else rng.uniform(0.1, 1.1) * duration)
        except subprocess.TimeoutExpired:
            stopped = time.time()
            os.killpg(child.pid, SIGNALS[sent])
            status = child.wait()
            count[sent] += 1
            count["in training"] += (run / "config.yaml").exists()
            kept = [path.stat().st_mtime for path in (run / "config.yaml", run / CHECKPOINT) if path.exists()]
            lost = max([lost, *(stopped - max(started, *kept) for _ in kept[:1])])
        if status == 0:
            differ += differing(expected, weights(run))
            count["ended"] += 1
            run = folder / f"{name}_{count['ended']}"
        elif (run / "model.safetensors").exists():
            load(run)
    figures = [count[s] for s in SIGNALS] + [count["in training"], f"{lost:.1f}", count["ended"], differ]
    return f"| {case.name} | {case.processes} | {' | '.join(map(str, figures))} |"


if __name__ == "__main__":
    main()
