"""One command for a machine with a GPU: its tests, the speed and memory of a training step, and minutes of training.

usage: python benchmarks/gpu.py --data SRC --out OUT [--minutes 5] [--batches 64,256] [--size 64] [--device cuda]

Runs the tests that are marked gpu; times training steps of f_vae_faces and of Glow in float32, in bfloat16 and
compiled, each at every batch size; trains f_vae_faces on SRC for the minutes given, and draws samples. Writes
table.md, and the run in OUT/faces. On a CPU (--device cpu, small sizes) it shows that the command works.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import fvae
from fvae.data import Images, Samples
from fvae.files import write_text
from fvae.recipes import RECIPES
from fvae.runs.config import config_path, read_config
from fvae.training import Callback

MODES = {
    "float32": {},
    "bfloat16": {"precision": "bf16-mixed"},
    "compiled": {"compile": True},
    "bfloat16 compiled": {"precision": "bf16-mixed", "compile": True},
}
ROOT = Path(__file__).parent.parent


class Times(Callback):
    """The seconds of each step, once the device has finished it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, trainer) -> None:
        if trainer.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def images(n: int, size: int) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return Samples(pixels, [str(i) for i in range(n)], modality=Images((3, size, size)))


def measure(make, size: int, batch: int, steps: int, accelerator: str, mode: dict) -> tuple[float, float]:
    """Milliseconds a training step (the median, after a third of the steps) and GiB of the device's memory."""
    torch.manual_seed(0)
    watch = Times()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    settings = {"steps": steps, "batch_size": batch, "eval_interval": 10**9, "eval_samples": 2, "progress": False}
    test = images(2, size)
    fvae.fit(make(), images(2 * batch, size), test, **settings, **mode, accelerator=accelerator, callbacks=[watch])
    warm = watch.times[steps // 3 :]
    seconds = statistics.median(np.diff(warm))
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return 1000 * seconds, memory


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batches", default="64,256")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--modes", default=",".join(MODES), help=f"of {', '.join(MODES)}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--no-tests", action="store_true")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU, found none; --device cpu --size 16 --batches 2 --minutes 0.1 tries the command")
    accelerator, name = ("gpu", torch.cuda.get_device_name()) if args.device == "cuda" else ("cpu", "CPU")
    lines = [f"{name}, torch {torch.__version__}, images of 3x{args.size}x{args.size}", ""]
    if not args.no_tests:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py"]
        found = subprocess.run(tests, cwd=ROOT, capture_output=True, text=True, check=False)
        lines += [f"Tests marked gpu: {(found.stdout.strip().splitlines() or ['none ran'])[-1]}", ""]
    content = read_config(config_path("f_vae_faces"))
    shape = (3, args.size, args.size)
    recipes = {
        "f_vae_faces": lambda: RECIPES[content["recipe"]](shape, **content["model"]),
        "glow": lambda: RECIPES["glow"](shape, flow={"levels": 3, "depth": 8, "width": 256}),
    }
    lines += ["| model | batch | | ms a step | images/s | GiB |", "|---|---:|---|---:|---:|---:|"]
    for model, make in recipes.items():
        for batch in map(int, args.batches.split(",")):
            for mode in args.modes.split(","):
                try:
                    ms, memory = measure(make, args.size, batch, args.steps, accelerator, MODES[mode])
                    lines.append(f"| {model} | {batch} | {mode} | {ms:.1f} | {1000 * batch / ms:.0f} | {memory:.2f} |")
                except (RuntimeError, ValueError) as error:  # out of memory, or no compiler
                    lines.append(f"| {model} | {batch} | {mode} | {str(error).splitlines()[0][:60]} | | |")
                print(lines[-1], flush=True)
    write_text(args.out / "table.md", "\n".join([*lines, ""]))
    run = args.out / "faces"
    train = ["train", "--config", "f_vae_faces", "--data", args.data, "--data.size", str(args.size), "--out", str(run)]
    train += ["--train.minutes", str(args.minutes), "--train.accelerator", accelerator, "--train.eval_interval", "500"]
    for command in (train, ["sample", str(run), "--out", str(args.out / "faces.png")]):
        subprocess.run([sys.executable, "-m", "fvae", *command], check=True)
    last = (run / "metrics.csv").read_text().splitlines()[-1]
    write_text(args.out / "table.md", "\n".join([*lines, "", f"f_vae_faces, {args.minutes:g} minutes: {last}", ""]))


if __name__ == "__main__":
    main()
