"""Comparisons of models that differ in one setting, trained for equal times or equal numbers of steps.

usage: python benchmarks/experiments.py NAME --shared DIR --out OUT [--minutes M | --steps N] [--seeds 0,1,2]

DIR holds the data sets. Each run is one ``fvae train`` with one thread; finished runs are not repeated, interrupted
ones are resumed. Writes table.md, table.csv, commands.txt and compare/ (curves and samples) in OUT/NAME/DATA.
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
from quality import quality, smaller, train_features

import fvae
from fvae.data import load_data
from fvae.data.pictures import to_uint8
from fvae.files import write_text
from fvae.runs.compare import compare
from fvae.runs.config import read_config
from fvae.runs.folder import read_metrics
from fvae.settings import DataSettings

FVAE = [sys.executable, "-m", "fvae"]
TRAIN = [sys.executable, str(Path(__file__).with_name("core_minutes.py"))]
SAMPLES = 1000  # of each model, for FID and KID

DATA = {
    "fashion": (["--data", "fashion_train.npz", "--data.size", "32"], "fashion_test.npz"),
    "fashion28": (["--data", "fashion_train.npz"], "fashion_test.npz"),
    "cifar10": (["--data", "cifar10_train.npz"], "cifar10_test.npz"),
    "mnist": (["--data", "mnist_train.npz", "--data.size", "32"], "mnist_test.npz"),
    "faces32": (["--data", "celeba64.zip", "--data.size", "32"], ""),
    "faces64": (["--data", "celeba64.zip"], ""),
}


@dataclass
class Run:
    """One model of a comparison."""

    name: str
    recipe: str
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


def part(name: str, **settings: Any) -> dict[str, Any]:
    """Settings of a part of the model, as the command line names them."""
    return {f"{name}.{setting}": value for setting, value in settings.items()}


SMALL_F = part("coder", squeezes=1, blocks=1, hidden=48) | part("flow", levels=3, depth=6, width=64)
GLOW = part("flow", levels=3, depth=6, width=96)


def on_grid(channels: int, levels: int, sigma: float = 0.2, std: str = "fixed") -> dict[str, Any]:
    """f-VAE with latents on a grid of so many channels, at 1 / 2^levels of the image's height and width."""
    coder = part("coder", kind="grid", channels=channels, width=32, levels=levels)
    posterior = part("posterior", sigma=sigma, std=std, normalize=True)
    return coder | posterior | part("flow", levels=2, depth=6, width=128) | part("decoder", sigma=0.2)


FACES = on_grid(12, 3) | part("coder", upsampling="shuffle") | part("flow", depth=12)  # f_vae_faces
AS_FACES = {"lr": 1e-3, "lr_decay": "cosine", "flip": True, "ema": 0.99}  # its training
PIXEL_FLOW = part("decoder", kind="flow") | {f"decoder.flow.{k}": v for k, v in {"levels": 3, "depth": 4}.items()}


def faces(name: str, recipe: str = "f_vae_reduced", model: dict[str, Any] | None = None, **train: Any) -> Run:
    """``f_vae_faces`` with some of its settings changed, or another model trained as it is."""
    return Run(name, recipe, FACES | (model or {}) if recipe == "f_vae_reduced" else model or {}, AS_FACES | train)


def grid_of_faces() -> list[Run]:
    """Latents of 64x64 images: as many on other grids, more and fewer, and each type of sigma_1."""
    learned = part("posterior", std="scalar", sigma=0.2)
    return [
        faces("8x8, 12 channels, sigma_1 0.2"),
        faces("4x4, 48 channels", model=part("coder", levels=4, channels=48, width=16)),
        faces("16x16, 3 channels", model=part("coder", levels=2, channels=3)),
        *(faces(f"{n} channels", model=part("coder", channels=n)) for n in (4, 32)),
        *(faces(f"sigma_1 {s}", model=part("posterior", sigma=s)) for s in (0.1, 0.3, 0.5)),
        faces("sigma_1 learned", model=learned),
    ]


def controls() -> list[Run]:
    """f-VAE on faces, and what is left of it without its parts: the three controls of Su and Wu (2018)."""
    vae = {k: v for k, v in FACES.items() if k.startswith("coder")} | part("decoder", sigma=0.2)
    return [
        faces("f-VAE"),
        faces("autoencoder: E, G", "vae", vae, beta=0.0),
        faces("VAE: E, G", "vae", vae),
        faces("Glow: F", "glow", part("flow", levels=4, depth=8, width=128)),
    ]


def joint() -> list[Run]:
    """A flow as the decoder from the start, and what may keep its latent from collapse."""
    return [
        faces("no measure", model=PIXEL_FLOW),
        faces("the rate's weight rises over 2,000 steps", model=PIXEL_FLOW, anneal="linear", anneal_steps=2000),
        faces("1,500 free nats", model=PIXEL_FLOW, free_nats=1500.0),
    ]


def decays() -> list[Run]:
    """A constant learning rate, and one that falls as a cosine."""
    vae = part("coder", size=64, width=16)
    kinds = {"vae": vae, "glow": part("flow", levels=3, depth=4, width=64), "f_vae": SMALL_F}
    return [
        Run(f"{name}, {decay}, {lr:g}", name, model, {"lr": lr, "lr_decay": decay})
        for name, model in kinds.items()
        for decay, lr in (("none", 1e-3), ("cosine", 1e-3), ("cosine", 2e-3))
    ]


def models(vae: dict[str, Any]) -> list[Run]:
    """Models of similar parameter counts: 0.4 million for gray images, 0.85 million for color images."""
    return [
        Run("vae", "vae", vae),
        Run("glow", "glow", GLOW),
        Run("f_vae", "f_vae", SMALL_F | part("coder", hidden=96) | part("flow", width=96)),
        Run(
            "f_vae_general",
            "f_vae_general",
            SMALL_F | part("coder", hidden=96) | part("flow", width=80) | {"rounds": 2},
        ),
    ]


def settings() -> list[Run]:
    """A small f-VAE, and variants that each change one of its settings, except the type of its sigmas."""
    return changed(
        {
            "E, G: none": part("coder", blocks=0),
            "E, G: 2 blocks": part("coder", blocks=2),
            "E, G: hidden 96": part("coder", hidden=96),
            "E, G: convnext": part("coder", block="convnext"),
            "E, G: 2 squeezes": part("coder", squeezes=2),
            "G: tanh": part("coder", tanh=True),
            "F: 2 levels": part("flow", levels=2),
            "F: shuffle": part("flow", mixing="shuffle"),
            "F: additive": part("flow", coupling="additive"),
            **{f"sigmas: from {s}": part("posterior", sigma=s) | part("decoder", sigma=s) for s in (0.0025, 0.02, 0.1)},
            **{
                f"sigmas: lr_scale {s}": part("posterior", lr_scale=s) | part("decoder", lr_scale=s)
                for s in (1, 10, 100)
            },
        }
    )


def sigmas() -> list[Run]:
    """The same small f-VAE, and variants with each other type of sigma_1 and of sigma_2."""
    return changed(
        {
            "sigma_1: one per channel": part("posterior", std="channel"),
            "sigma_1: from a network": part("posterior", std="network"),
            **{f"sigma_1: fixed {s}": part("posterior", std="fixed", sigma=s, normalize=True) for s in (0.1, 0.3, 0.5)},
            **{f"sigma_2: at least {s}": part("decoder", sigma=2 * s, least=s) for s in (0.02, 0.05)},
            "sigma_2: density": part("decoder", likelihood="density"),
            "sigma_2: closed form": part("decoder", likelihood="density", std="optimal"),
        }
    )


def changed(changes: dict[str, dict[str, Any]]) -> list[Run]:
    """The small f-VAE with its base settings, and with each of the changes alone."""
    return [Run(name, "f_vae", SMALL_F | change) for name, change in ({"base": {}} | changes).items()]


COLOR_MODELS = models(part("coder", size=128, width=20))

EXPERIMENTS: dict[str, dict[str, list[Run]]] = {  # data set: runs
    "models": {
        "fashion": models(part("coder", size=64, width=16)),
        "cifar10": COLOR_MODELS,
        "faces32": COLOR_MODELS,
    },
    "others": {  # in addition to "models": of a similar size where the recipe allows it
        "fashion": [
            Run("nice", "nice", part("flow", width=256, hidden=3)),
            Run("realnvp", "realnvp", part("flow", levels=3, depth=3, width=84)),
            Run("noisy_flow", "noisy_flow", GLOW),
            Run("f_vae_reduced", "f_vae_reduced", part("coder", size=64, width=16) | part("flow", depth=4, width=96)),
            Run("bn_vae", "bn_vae", part("coder", size=64, width=16, levels=3)),
        ],
    },
    "mixing": {
        "cifar10": [
            Run(mixing, "glow", GLOW | part("flow", mixing=mixing)) for mixing in ("reverse", "shuffle", "conv")
        ],
    },
    "coupling": {
        "cifar10": [
            Run(
                f"{coupling}{'' if actnorm else ', no actnorm'}",
                "glow",
                GLOW | part("flow", coupling=coupling, actnorm=actnorm),
            )
            for coupling in ("additive", "affine")
            for actnorm in (True, False)
        ],
    },
    "settings": {"fashion": settings(), "cifar10": settings()},
    "sigmas": {"fashion": sigmas(), "cifar10": sigmas()},
    "dimension": {
        "fashion": [
            Run(
                f"d = D / {k}",
                "f_vae_reduced",
                part("coder", size=1024 // k, width=32) | part("flow", depth=4, width=128),
            )
            for k in (1, 4, 16, 64)
        ],
    },
    "grid": {
        data: [
            Run("4x4, 16 channels", "f_vae_reduced", on_grid(16, 3)),
            Run("8x8, 4 channels", "f_vae_reduced", on_grid(4, 2)),
            Run("8x8, 12 channels", "f_vae_reduced", on_grid(12, 2)),
        ]
        for data in ("fashion", "cifar10")
    },
    "latents": {"faces64": grid_of_faces()},
    "controls": {"faces64": controls()},
    "joint": {"faces64": joint()},
    "decay": {"fashion": decays()},
    "fixed": {
        "fashion": [
            Run(
                name,
                "f_vae_reduced",
                part("coder", size=64, width=16) | part("flow", depth=4, width=96) | part("posterior", **posterior),
            )
            for name, posterior in {
                "sigma_1 learned from 0.1": {},
                "learned from 0.1, normalized": {"normalize": True},
                **{f"fixed {s}, normalized": {"std": "fixed", "sigma": s, "normalize": True} for s in (0.1, 0.2, 0.3)},
            }.items()
        ],
    },
    "splits": {
        "cifar10": [
            Run(f"{name}, {split}", recipe, settings | part("flow", split_prior=split))
            for name, recipe, settings in (("glow", "glow", GLOW), ("realnvp", "realnvp", part("flow", width=64)))
            for split in ("conditional", "unconditional")
        ],
    },
    "norms": {
        "fashion": [
            Run(name, "bn_vae", part("coder", size=64, width=16, levels=3) | part("posterior", **posterior))
            for name, posterior in {
                "none": {"kind": "gaussian"},
                "one-sided": {"kind": "one-sided"},
                "two-sided, root mean square": {"kind": "two-sided"},
                "two-sided, batch": {"kind": "two-sided", "deviations": "batch"},
                "layer norm": {"kind": "layer-norm"},
            }.items()
        ],
    },
    "published": {
        "cifar10": [
            Run("glow", "glow", part("flow", levels=3, depth=8, width=128)),
            Run("realnvp", "realnvp", part("flow", levels=3, depth=3, width=64)),
        ],
        "fashion28": [
            Run("glow", "glow", part("flow", levels=2, depth=8, width=128)),
            Run("realnvp", "realnvp", part("flow", levels=2, depth=3, width=64)),
        ],
    },
}


def command(run: Run, data: str, shared: Path, folder: Path, budget: dict[str, float], seed: int) -> list[str]:
    source = [str(shared / a) if a.endswith((".npz", ".zip")) else a for a in DATA[data][0]]
    train = budget | {"seed": seed, "batch_size": 32, "lr": 2e-3, "eval_interval": 100}
    train |= {"eval_samples": 128, "accelerator": "cpu"} | run.train
    settings = flags("model", run.model) + flags("train", train)
    return [*TRAIN, "train", run.recipe, *source, "--out", str(folder), *settings]


def flags(group: str, values: dict[str, Any]) -> list[str]:
    """Settings as flags of ``fvae train``."""
    return [f"--{group}.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()]


def finish(words: list[str], folder: Path, budget: dict[str, float]) -> None:
    """Train a run, or resume it; reports a failure."""
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
    """The bounds of one finished run on its test images, and the quality of its samples at T = 1 and 0.8."""
    kept = Path(f"{folder}.json")
    last = read_metrics(folder)[-1]
    if not kept.exists():
        source = ["--data", str(shared / test)] if test else []
        words = ["evaluate", str(folder), *source, "--samples", "4", "--json", str(kept)]
        subprocess.run([*FVAE, *words], check=True, stdout=subprocess.DEVNULL)
    found = json.loads(kept.read_text())
    model = fvae.load(folder)
    settings = read_config(folder / "config.yaml")["data"]
    train = load_data(DataSettings(**settings), "train")
    real = load_data(
        DataSettings(**(settings | {"source": str(shared / test)} if test else settings)), "all" if test else "test"
    )
    net = train_features(smaller(train.values), features)
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
            to_uint8(model.sample(100, model.draw_labels(100, generator), temperature, generator), model.modality.bits)
            for _ in range(SAMPLES // 100)
        ]
        row["sampled images/s"] = SAMPLES / (time.perf_counter() - began)
        samples = np.concatenate(parts).transpose(0, 3, 1, 2)
        row |= {f"{name}, T = {temperature:g}": value for name, value in quality(net, real.values, samples).items()}
    return row


def tables(rows: list[tuple[str, list[dict[str, float]]]]) -> tuple[str, str]:
    """Markdown and CSV tables: the mean over seeds, +- half of the range where there are several."""

    def formatted(values: list[float]) -> str:
        middle, spread = float(np.mean(values)), (max(values) - min(values)) / 2
        digits = 0 if abs(middle) >= 1000 else 1 if abs(middle) >= 100 else 3 if abs(middle) < 10 else 2
        return f"{middle:,.{digits}f}" + (f" +- {spread:.{digits}f}" if len(values) > 1 and spread else "")

    names = list(rows[0][1][0])
    lines = [[label, *(formatted([row[name] for row in found]) for name in names)] for label, found in rows]
    seeds = [[label, i, *row.values()] for label, found in rows for i, row in enumerate(found)]
    return to_markdown([["model", *names], *lines]), to_csv([["model", "seed", *names], *seeds])


def to_markdown(rows: list[list[str]]) -> str:
    """A Markdown table whose first row is the header."""
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
    parser.add_argument("--only", help="data sets, separated by commas (default: all of the comparison)")
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
        write_text(out / "commands.txt", "".join(shlex.join(["fvae", *words[2:]]) + "\n" for words, _, _ in jobs))
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
