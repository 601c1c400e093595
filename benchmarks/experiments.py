"""Comparisons: runs that differ in one thing, trained for equal minutes or equal steps, and what came of them.

usage: python benchmarks/experiments.py NAME --shared DIR --out OUT [--minutes M | --steps N] [--seeds 0,1,2]

DIR holds the data sets. Each run is one ``fvae train`` with one thread; finished ones are not run again, those
that were stopped go on. Writes OUT/NAME/DATA/table.md, table.csv, curves.png and samples.png, and the commands.
"""

import argparse
import csv
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import quality, train_features

import fvae
from fvae.compare import compare
from fvae.data import load_data
from fvae.data.pictures import to_uint8
from fvae.files import write_text
from fvae.runs import read_metrics, read_yaml
from fvae.settings import DataSettings

FVAE = [sys.executable, "-m", "fvae.cli"]
SAMPLES = 1000  # a model, for FID and KID

DATA = {
    "fashion": (["--data", "fashion_train.npz", "--data.size", "32"], "fashion_test.npz"),
    "fashion28": (["--data", "fashion_train.npz"], "fashion_test.npz"),
    "cifar10": (["--data", "cifar10_train.npz"], "cifar10_test.npz"),
    "mnist": (["--data", "mnist_train.npz", "--data.size", "32"], "mnist_test.npz"),
    "faces32": (["--data", "celeba64.zip", "--data.size", "32"], ""),
}


@dataclass
class Run:
    """One model of a comparison."""

    name: str
    recipe: str
    model: dict[str, Any] = field(default_factory=dict)


SMALL_F = {"squeezes": 1, "blocks": 1, "hidden": 48, "levels": 3, "depth": 6, "width": 64}
GLOW = {"levels": 3, "depth": 6, "width": 96}


def models(vae: dict[str, int]) -> list[Run]:
    """Of like parameter counts: 0.4 million for grey images, 0.85 for colour ones."""
    return [
        Run("vae", "vae", vae),
        Run("glow", "glow", GLOW),
        Run("f_vae", "f_vae", SMALL_F | {"hidden": 96, "width": 96}),
        Run("f_vae_general", "f_vae_general", SMALL_F | {"hidden": 96, "rounds": 2, "width": 80}),
    ]


def settings() -> list[Run]:
    """A small f-VAE, and each of its settings changed alone, but for the kinds of its sigmas."""
    return changed(
        {
            "E, G: none": {"blocks": 0},
            "E, G: 2 blocks": {"blocks": 2},
            "E, G: hidden 96": {"hidden": 96},
            "E, G: convnext": {"block": "convnext"},
            "E, G: 2 squeezes": {"squeezes": 2},
            "G: tanh": {"tanh": True},
            "F: 2 levels": {"levels": 2},
            "F: shuffled": {"mixing": "shuffle"},
            "F: additive": {"coupling": "additive"},
            **{f"sigmas: from {s}": {"sigma_1": s, "sigma_2": s} for s in (0.0025, 0.02, 0.1)},
            **{f"sigmas: pace {p}": {"pace": p} for p in (1, 10, 100)},
        }
    )


def sigmas() -> list[Run]:
    """The same small f-VAE, and each kind of sigma_1 and of sigma_2."""
    return changed(
        {
            "sigma_1: one a channel": {"sigma_1_kind": "channel"},
            "sigma_1: a network's": {"sigma_1_kind": "network"},
            **{
                f"sigma_1: fixed {s}": {"sigma_1_kind": "fixed", "sigma_1": s, "normalised": True}
                for s in (0.1, 0.3, 0.5)
            },
            **{f"sigma_2: at least {s}": {"sigma_2": 2 * s, "sigma_2_least": s} for s in (0.02, 0.05)},
            "sigma_2: dequantised": {"bins": "dequantised"},
            "sigma_2: closed form": {"bins": "dequantised", "sigma_2_kind": "closed"},
        }
    )


def changed(changes: dict[str, dict[str, Any]]) -> list[Run]:
    """The small f-VAE as it is, and with each of the changes alone."""
    return [Run(name, "f_vae", SMALL_F | change) for name, change in ({"as it is": {}} | changes).items()]


COLOUR_MODELS = models({"latent": 128, "width": 20})

EXPERIMENTS: dict[str, dict[str, list[Run]]] = {  # data set: runs
    "models": {
        "fashion": models({"latent": 64, "width": 16}),
        "cifar10": COLOUR_MODELS,
        "faces32": COLOUR_MODELS,
    },
    "others": {  # beside "models": as large, or as their kind is
        "fashion": [
            Run("nice", "nice", {"width": 256, "hidden": 3}),
            Run("realnvp", "realnvp", {"levels": 3, "depth": 3, "width": 84}),
            Run("noisy_flow", "noisy_flow", GLOW),
            Run("f_vae_reduced", "f_vae_reduced", {"latent": 64, "width": 16, "flow_depth": 4, "flow_width": 96}),
            Run("bn_vae", "bn_vae", {"latent": 64, "width": 16, "levels": 3}),
        ],
    },
    "mixing": {
        "cifar10": [Run(mixing, "glow", GLOW | {"mixing": mixing}) for mixing in ("reverse", "shuffle", "conv")],
    },
    "coupling": {
        "cifar10": [
            Run(
                f"{coupling}{'' if actnorm else ', no actnorm'}",
                "glow",
                GLOW | {"coupling": coupling, "actnorm": actnorm},
            )
            for coupling in ("additive", "affine")
            for actnorm in (True, False)
        ],
    },
    "settings": {"fashion": settings(), "cifar10": settings()},
    "sigmas": {"fashion": sigmas(), "cifar10": sigmas()},
    "dimension": {
        "fashion": [
            Run(f"d = D / {k}", "f_vae_reduced", {"latent": 1024 // k, "width": 32, "flow_depth": 4, "flow_width": 128})
            for k in (1, 4, 16, 64)
        ],
    },
    "published": {
        "cifar10": [
            Run("glow", "glow", {"levels": 3, "depth": 8, "width": 128}),
            Run("realnvp", "realnvp", {"levels": 3, "depth": 3, "width": 64}),
        ],
        "fashion28": [
            Run("glow", "glow", {"levels": 2, "depth": 8, "width": 128}),
            Run("realnvp", "realnvp", {"levels": 2, "depth": 3, "width": 64}),
        ],
    },
}


def command(run: Run, data: str, shared: Path, folder: Path, budget: dict[str, float], seed: int) -> list[str]:
    source = [str(shared / a) if a.endswith((".npz", ".zip")) else a for a in DATA[data][0]]
    train = budget | {"seed": seed, "batch_size": 32, "lr": 2e-3, "every": 100}
    train |= {"test_images": 128, "accelerator": "cpu"}
    settings = flags("model", run.model) + flags("train", train)
    return [*FVAE, "train", run.recipe, *source, "--out", str(folder), *settings]


def flags(group: str, values: dict[str, Any]) -> list[str]:
    """Settings as the command takes them."""
    return [f"--{group}.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()]


def finish(words: list[str], folder: Path, budget: dict[str, float]) -> None:
    """Train a run, or the rest of it; says so if it fails."""
    if (folder / "metrics.csv").exists():
        last = read_metrics(folder)[-1]
        if last["seconds"] >= 60 * budget.get("minutes", math.inf) or last["step"] >= budget.get("steps", math.inf):
            return
    resume = ["--resume"] if (folder / "config.yaml").exists() else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "a") as log:
        done = subprocess.run([*words, *resume], env=environment, stdout=log, stderr=log, check=False)
    print(f"{folder}: {'done' if done.returncode == 0 else f'FAILED, see {folder}.log'}", flush=True)


@torch.no_grad()
def figures(folder: Path, test: str, shared: Path, features: Path) -> dict[str, float]:
    """What one finished run says of its test images, and how its samples look at T = 1 and 0.8."""
    kept = Path(f"{folder}.json")
    last = read_metrics(folder)[-1]
    if not kept.exists():
        source = ["--data", str(shared / test)] if test else []
        words = ["evaluate", str(folder), *source, "--samples", "4", "--json", str(kept)]
        subprocess.run([*FVAE, *words], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(kept.read_text())
    model = fvae.load(folder)
    settings = read_yaml(folder / "config.yaml")["data"]
    train = load_data(DataSettings(**settings), "train")
    real = load_data(
        DataSettings(**(settings | {"source": str(shared / test)} if test else settings)), "all" if test else "test"
    )
    net = train_features(train.values, features)
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": last["step"],
        "bits/dim": found["bits_per_dim"],
        "4-sample bound": found["tighter_bits_per_dim"],
        "training images/s": last["step"] * 32 / last["seconds"],
    }
    for temperature in (1.0, 0.8):
        generator = torch.Generator().manual_seed(0)
        began = time.perf_counter()
        parts = [
            to_uint8(model.sample(100, model.draw_labels(100, generator), temperature, generator), model.decoder.bits)
            for _ in range(SAMPLES // 100)
        ]
        row["sampled images/s"] = SAMPLES / (time.perf_counter() - began)
        samples = np.concatenate(parts).transpose(0, 3, 1, 2)
        row |= {f"{name}, T = {temperature:g}": value for name, value in quality(net, real.values, samples).items()}
    return row


def tables(rows: list[tuple[str, list[dict[str, float]]]]) -> tuple[str, str]:
    """Markdown and CSV: the mean over seeds, +- half of the range where there are several."""

    def told(values: list[float]) -> str:
        middle, spread = float(np.mean(values)), (max(values) - min(values)) / 2
        digits = 0 if abs(middle) >= 1000 else 1 if abs(middle) >= 100 else 3 if abs(middle) < 10 else 2
        return f"{middle:,.{digits}f}" + (f" +- {spread:.{digits}f}" if len(values) > 1 and spread else "")

    names = list(rows[0][1][0])
    lines = [[label, *(told([row[name] for row in found]) for name in names)] for label, found in rows]
    seeds = [[label, i, *row.values()] for label, found in rows for i, row in enumerate(found)]
    return to_markdown([["model", *names], *lines]), to_csv([["model", "seed", *names], *seeds])


def to_markdown(rows: list[list[str]]) -> str:
    """A table whose first row is its header."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def to_csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    budgets = parser.add_mutually_exclusive_group()
    budgets.add_argument("--minutes", type=float, help="of each run (default: 10)")
    budgets.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", help="data sets, with commas between (default: all of the comparison)")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    budget = {"steps": args.steps} if args.steps else {"minutes": args.minutes or 10.0}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for data in args.only.split(",") if args.only else EXPERIMENTS[args.name]:
        runs = EXPERIMENTS[args.name][data]
        out = args.out / args.name / data
        jobs = []
        for seed in seeds:
            for run in runs:
                folder = out / f"seed{seed}" / re.sub(r"\W+", "_", run.name)
                jobs.append((command(run, data, args.shared, folder, budget, seed), folder, budget))
        write_text(out / "commands.txt", "".join(shlex.join(["fvae", *words[3:]]) + "\n" for words, _, _ in jobs))
        with ThreadPoolExecutor(args.workers) as pool:
            list(pool.map(lambda job: finish(*job), jobs))
        rows: dict[str, list[dict[str, float]]] = {}
        for run, (_, folder, _) in zip(runs * len(seeds), jobs, strict=True):
            rows.setdefault(run.name, []).append(
                figures(folder, DATA[data][1], args.shared, args.out / f"{data}.features")
            )
        markdown, text = tables(list(rows.items()))
        write_text(out / "table.md", markdown)
        write_text(out / "table.csv", text)
        compare([folder for _, folder, _ in jobs[: len(runs)]], out / "compare")
        print(f"{out}\n{markdown}", flush=True)


if __name__ == "__main__":
    main()
