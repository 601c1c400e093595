"""Trainings that run out of disk or of memory again and again, and are resumed: nothing may be lost.

usage: python benchmarks/pressure.py --out FILE.md [--minutes 30] [--seed 0]

``fvae train`` on images, a table and text writes a checkpoint every second into a small file system (a tmpfs, whose
mounting needs root). At a random moment of training the disk is filled but for a few bytes; or a process whose steps
need large blocks of memory may not take more than it has at that moment. Checked after each: the command ended with one
line and status 1, no file is half written, checkpoint and weights load. Then there is room again, and the training is
resumed. Checked at the end of each training: all weights are bit-equal to those of a run that was left alone. Writes a
table.
"""

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from kills import MODELS as KILLED
from kills import differing, weights, write_data

from fvae import load
from fvae.files import write_text
from fvae.runs.folder import CHECKPOINT, read_metrics

SHORT = "--train.steps 1000 --train.eval_interval 100 --train.eval_samples 32 --train.batch_size 16"
LARGE = "realnvp --data rows.csv --model.flow.depth 1 --model.flow.width 16 --train.steps 16 --train.eval_interval 4"
MODELS = {data: f"{model} {SHORT}" for data, model in KILLED.items()}
MODELS["table, large batches"] = f"{LARGE} --train.batch_size 600000"  # blocks too large to be kept between steps
OFTEN = "--train.checkpoint_minutes 0.02"
DISK = 64 * 2**20  # bytes
ROOM = [0, 2**12, 2**13, 2**14, 2**15, 2**16, 2**17, 2**18]  # bytes left on the disk: different files don't fit


class Training:
    """A process of ``fvae train``, begun or resumed."""

    def __init__(self, data: str, run: Path, folder: Path):
        self.run, self.err = run, folder / "stderr"
        argv = [sys.executable, "-m", "fvae", "train", *f"{MODELS[data]} {OFTEN}".split()]
        with open(self.err, "w") as err:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            streams = {"stdout": subprocess.DEVNULL, "stderr": err}
            argv += ["--out", str(run), "--resume"]
            self.process = subprocess.Popen(argv, cwd=folder, env=environment, **streams)

    def runs_for(self, seconds: float) -> bool:
        """Whether it is still training so many seconds after it has begun to."""
        while self.process.poll() is None and "training " not in self.err.read_text():
            time.sleep(0.02)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self) -> tuple[int, list[str]]:
        """Its exit status and its lines on standard error."""
        return self.process.wait(), self.err.read_text().splitlines()


def fill(disk: Path, room: int) -> None:
    """Fill a disk but for ``room`` bytes."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, max(4096, free.f_bavail * free.f_frsize - room))


def limit_memory(pid: int) -> None:
    """Refuse a process more memory than it has."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size, size))


def check(run: Path, status: int, lines: list[str]) -> str:
    """What failed; asserts that it is told in one line, and that all files of the run are whole."""
    said = [line for line in lines if line.startswith("fvae: ")]
    assert (status, said) == (1, lines[-1:]) and not any("Traceback" in line for line in lines), (status, lines)
    assert not [path for path in run.rglob("*") if path.suffix in (".part", ".tmp")]
    if (run / CHECKPOINT).exists():
        torch.load(run / CHECKPOINT, weights_only=True)
    if (run / "model.safetensors").exists():
        load(run)
    if (run / "metrics.csv").exists():
        read_metrics(run)
    name = re.search(rf"could not write {re.escape(str(run))}/(\S+?)(_\d+)?(\.\w+)?:", said[0])
    print(said[0], flush=True)
    return name[1] + (name[3] or "") if name else "memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, failed, ended = random.Random(args.seed), {data: Counter() for data in MODELS}, dict.fromkeys(MODELS, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder, disk = Path(temporary), Path(temporary) / "disk"
        write_data(folder)
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=True)
        try:
            expected, seconds = {}, {}
            for data in MODELS:
                whole = Training(data, folder / data, folder)
                whole.runs_for(0)
                began = time.monotonic()
                assert whole.end()[0] == 0, f"{data}: the training itself fails"
                expected[data], seconds[data] = weights(folder / data), time.monotonic() - began
            over = time.monotonic() + 60 * args.minutes
            while time.monotonic() < over:
                data = rng.choice(list(MODELS))
                run = disk / f"{data}_{ended[data]}"
                training = Training(data, run, folder)
                if training.runs_for(rng.uniform(0, 0.7) * seconds[data]):
                    if data in KILLED:
                        fill(disk, rng.choice(ROOM))
                    else:
                        limit_memory(training.process.pid)
                status, lines = training.end()
                (disk / "ballast").unlink(missing_ok=True)
                if status:
                    failed[data][check(run, status, lines)] += 1
                else:
                    assert not (n := differing(expected[data], weights(run))), f"{run}: {n} values differ"
                    ended[data] += 1
        finally:
            subprocess.run(["umount", disk], check=True)
    names = sorted({name for count in failed.values() for name in count})
    head = [f"    python benchmarks/pressure.py --minutes {args.minutes:g} --seed {args.seed}", ""]
    head += [f"| data | {' | '.join(names)} | runs ended | values that differ |", "|---|" + "---:|" * (len(names) + 2)]
    lines = [f"| {d} | {' | '.join(str(failed[d][name]) for name in names)} | {ended[d]} | 0 |" for d in MODELS]
    write_text(args.out, "\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
