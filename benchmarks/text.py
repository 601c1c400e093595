"""Remedies against posterior collapse: text_vae of one size and budget, compared with a language model.

usage: python benchmarks/text.py DATA --shared DIR --out OUT [--minutes M | --steps N] [--samples K] [--size small|full]
       [--anneal N] [--only REMEDY ...]

DIR holds the data sets. Each run is one ``fvae train`` with one thread and one ``fvae evaluate`` on the whole test
file; finished runs are not repeated, interrupted ones are resumed. Writes table.md, table.csv and kl.png in
OUT/DATA/SIZE_seedN/.
"""

import argparse
import json
import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments import FVAE, finish, flags, to_csv, to_markdown

from fvae.files import replacing, write_text
from fvae.runs.folder import read_metrics

DATA = {
    "ptb": ("ptb_train.txt.gz", "ptb_test.txt.gz", {"held_out": 0.02}),
    "yahoo": ("yahoo_train.txt.gz", "yahoo_test.txt.gz", {"held_out": 0.02}),
    "yelp": ("yelp_short_train.txt.gz", "yelp_short_test.txt.gz", {"held_out": 0.02}),
}
SIZES = {  # the published LSTM on PTB has 256 units
    "small": {"embedding": 128, "hidden": 128, "dropout": 0.3, "softmax": "adaptive"},
    "full": {"embedding": 256, "hidden": 256, "dropout": 0.4, "softmax": "adaptive"},
}
TRAIN = {"batch_size": 64, "lr": 2e-3, "eval_interval": 250, "eval_samples": 256, "accelerator": "cpu"}
GAUSSIAN = {"posterior": "gaussian"}
BN = {"posterior": "two-sided", "posterior.tau": 0.3}
ANNEAL = {"anneal": "linear"}
CYCLE = {"anneal": "cyclical"}
TRANSFORMER = {"decoder": "transformer"}
NO_SKIP = {"decoder.skip": False}
REMEDIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # recipe, settings of the model, of training
    "language model": ("language_model", {}, {}),
    "none, no skip": ("text_vae", GAUSSIAN | NO_SKIP, {}),
    "none": ("text_vae", GAUSSIAN, {}),
    "linear annealing": ("text_vae", GAUSSIAN, ANNEAL),
    "cyclical annealing": ("text_vae", GAUSSIAN, CYCLE),
    "free bits, 4 nats": ("text_vae", GAUSSIAN, {"free_nats": 4}),
    "annealing, free bits, 4.5": ("text_vae", GAUSSIAN, ANNEAL | {"free_nats": 4.5}),
    "free bits, 1/8 each": ("text_vae", GAUSSIAN, {"free_nats_per_dim": 0.125}),
    "beta 0.4": ("text_vae", GAUSSIAN, {"beta": 0.4}),
    "fixed deviation 0.6": ("text_vae", {"posterior": "noise", "posterior.std": "fixed", "posterior.sigma": 0.6}, {}),
    "BN one-sided, gamma 0.6": ("text_vae", {"posterior": "one-sided", "posterior.gamma": 0.6}, {}),
    "BN two-sided, no skip": ("text_vae", BN | NO_SKIP, {}),
    "BN two-sided, tau 0.3": ("text_vae", BN, {}),
    "word dropout 0.25": ("text_vae", GAUSSIAN | {"decoder.word_dropout": 0.25}, {}),
    "aggressive, annealing": ("text_vae", GAUSSIAN, ANNEAL | {"aggressive": True}),
    "BN two-sided, flow prior": ("text_vae", BN | {"flow": "glow", "flow.depth": 4, "flow.width": 128}, {}),
    "transformer, language model": ("language_model", TRANSFORMER, {}),
    "transformer, none": ("text_vae", GAUSSIAN | TRANSFORMER, {}),
    "transformer, BN two-sided": ("text_vae", BN | TRANSFORMER, {}),
    "transformer, annealing, free bits, 4.5": ("text_vae", GAUSSIAN | TRANSFORMER, ANNEAL | {"free_nats": 4.5}),
}
CURVES = ("none, no skip", "none", "linear annealing", "free bits, 4 nats", "BN two-sided, tau 0.3")
FIGURES = ("nats", "tighter_nats", "perplexity", "rate", "distortion")
FIGURES += ("mutual_information", "active_units", "shuffled_gap")


def sizes(recipe: str, size: str, model: dict[str, Any]) -> dict[str, Any]:
    """The settings of a size: the LSTM encoder's, and those that the decoder has."""
    units = ("embedding", "hidden")
    decoder = {k: v for k, v in SIZES[size].items() if k != "embedding" or model.get("decoder") != "transformer"}
    encoder = {k: SIZES[size][k] for k in units} if recipe == "text_vae" else {}
    return {f"encoder.{k}": v for k, v in encoder.items()} | {f"decoder.{k}": v for k, v in decoder.items()}


def figures(folder: Path, test: Path, samples: int) -> dict[str, Any]:
    """The evaluation of one finished run on the test file."""
    kept = Path(f"{folder}.json")
    fresh = kept.exists() and kept.stat().st_mtime >= (folder / "metrics.csv").stat().st_mtime
    if not fresh or not matches(json.loads(kept.read_text()), samples):
        words = ["evaluate", str(folder), "--data", str(test), "--samples", str(samples), "--json", str(kept)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*FVAE, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(kept.read_text())


def matches(found: dict[str, Any], samples: int) -> bool:
    """Whether an evaluation took this number of samples; a model without a latent takes one."""
    return found["samples"] == samples or found["recipe"] == "language_model"


def draw(runs: dict[str, Path], path: Path) -> None:
    """Plot the held-out rate over the steps of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, folder in runs.items():
        rows = read_metrics(folder)
        axes.plot([row["step"] for row in rows], [row["test_rate_nats"] for row in rows], "o-", ms=3, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel("held-out KL, nats per sentence")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    budgets = parser.add_mutually_exclusive_group()
    budgets.add_argument("--minutes", type=float, help="of each run (default: 15)")
    budgets.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument(
        "--anneal", type=int, default=2000, help="steps of a linear rise; a cyclical one takes a quarter of them"
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=REMEDIES, metavar="REMEDY", help="(default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    budget: dict[str, float] = {"steps": args.steps} if args.steps else {"minutes": args.minutes or 15.0}
    training, test, data = DATA[args.data]
    names = args.only or list(REMEDIES)
    out = args.out / args.data / f"{args.size}_seed{args.seed}"
    jobs = []
    for name in names:
        recipe, model, train = REMEDIES[name]
        train = budget | TRAIN | {"seed": args.seed} | train
        if kind := train.get("anneal"):
            train["anneal_steps"] = args.anneal if kind == "linear" else args.anneal // 4
        folder = out / "".join(c if c.isalnum() else "_" for c in name)
        source = ["--data", str(args.shared / training), *flags("data", data), "--out", str(folder)]
        settings = [*flags("model", sizes(recipe, args.size, model) | model), *flags("train", train)]
        jobs.append(([*FVAE, "train", recipe, *source, *settings], folder, budget))
    write_text(out / "commands.txt", "".join(shlex.join(["fvae", *words[3:]]) + "\n" for words, _, _ in jobs))
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda job: finish(*job), jobs))
        found = list(pool.map(lambda job: figures(job[1], args.shared / test, args.samples), jobs))
    header = ["remedy", "steps", "minutes", *FIGURES]
    rows = []
    for name, (_, folder, _), figure in zip(names, jobs, found, strict=True):
        last = read_metrics(folder)[-1]
        rows.append([name, int(last["step"]), last["seconds"] / 60, *(figure.get(key) for key in FIGURES)])
    lines = [[f"{v:.2f}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in rows]
    markdown = to_markdown([header, *lines])
    write_text(out / "table.md", markdown)
    write_text(out / "table.csv", to_csv([header, *rows]))
    if curves := {name: folder for name, (_, folder, _) in zip(names, jobs, strict=True) if name in CURVES}:
        draw(curves, out / "kl.png")
    print(f"{out}\n{markdown}", flush=True)


if __name__ == "__main__":
    main()
