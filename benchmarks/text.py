"""Ways against a vanishing KL, at one size and budget: text_vae on sentences, beside a language model.

usage: python benchmarks/text.py DATA --shared DIR --out OUT [--minutes M | --steps N] [--samples K] [--size small|full]
       [--anneal N] [--only WAY ...]

DIR holds the data sets. Each run is one ``fvae train`` with one thread and one ``fvae evaluate`` on the whole test
file; finished ones are not run again, those that were stopped go on. Writes table.md, table.csv, kl.png
under OUT/DATA/SIZE_seedN/.
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
from fvae.runs import read_metrics

DATA = {
    "ptb": ("ptb_train.txt.gz", "ptb_test.txt.gz", {"held_out": 0.02}),
    "yahoo": ("yahoo_train.txt.gz", "yahoo_test.txt.gz", {"held_out": 0.02}),
    "yelp": ("yelp_short_train.txt.gz", "yelp_short_test.txt.gz", {"held_out": 0.02}),
}
SIZES = {  # the published LSTM on PTB has 256 units
    "small": {"embedding": 128, "hidden": 128, "dropout": 0.3, "softmax": "adaptive"},
    "full": {"embedding": 256, "hidden": 256, "dropout": 0.4, "softmax": "adaptive"},
}
TRAIN = {"batch_size": 64, "lr": 2e-3, "every": 250, "test_images": 256, "accelerator": "cpu"}
GAUSSIAN = {"posterior": "gaussian"}
ANNEAL = {"anneal": "linear"}
CYCLE = {"anneal": "cyclical"}
TRANSFORMER = {"decoder": "transformer"}
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # recipe, settings of the model, of training
    "language model": ("language_model", {}, {}),
    "none, no skip": ("text_vae", GAUSSIAN | {"skip": False}, {}),
    "none": ("text_vae", GAUSSIAN, {}),
    "linear annealing": ("text_vae", GAUSSIAN, ANNEAL),
    "cyclical annealing": ("text_vae", GAUSSIAN, CYCLE),
    "free bits, 4 nats": ("text_vae", GAUSSIAN, {"free_nats": 4}),
    "annealing, free bits, 4.5": ("text_vae", GAUSSIAN, ANNEAL | {"free_nats": 4.5}),
    "free bits, 1/8 each": ("text_vae", GAUSSIAN, {"free_nats_each": 0.125}),
    "beta 0.4": ("text_vae", GAUSSIAN, {"beta": 0.4}),
    "fixed deviation 0.6": ("text_vae", {"posterior": "fixed", "std": 0.6}, {}),
    "BN one-sided, gamma 0.6": ("text_vae", {"posterior": "one-sided", "gamma": 0.6}, {}),
    "BN two-sided, no skip": ("text_vae", {"posterior": "two-sided", "tau": 0.3, "skip": False}, {}),
    "BN two-sided, tau 0.3": ("text_vae", {"posterior": "two-sided", "tau": 0.3}, {}),
    "word dropout 0.25": ("text_vae", GAUSSIAN | {"word_dropout": 0.25}, {}),
    "aggressive, annealing": ("text_vae", GAUSSIAN, ANNEAL | {"aggressive": True}),
    "BN two-sided, flow prior": ("text_vae", {"posterior": "two-sided", "tau": 0.3, "prior": "flow"}, {}),
    "transformer, language model": ("language_model", TRANSFORMER, {}),
    "transformer, none": ("text_vae", GAUSSIAN | TRANSFORMER, {}),
    "transformer, BN two-sided": ("text_vae", {"posterior": "two-sided", "tau": 0.3} | TRANSFORMER, {}),
    "transformer, annealing, free bits, 4.5": ("text_vae", GAUSSIAN | TRANSFORMER, ANNEAL | {"free_nats": 4.5}),
}
CURVES = ("none, no skip", "none", "linear annealing", "free bits, 4 nats", "BN two-sided, tau 0.3")
FIGURES = ("nats", "tighter_nats", "perplexity", "rate", "distortion")
FIGURES += ("mutual_information", "active_units", "shuffled_gap")


def figures(folder: Path, test: Path, samples: int) -> dict[str, Any]:
    """What one finished run says of the test file."""
    kept = Path(f"{folder}.json")
    fresh = kept.exists() and kept.stat().st_mtime >= (folder / "metrics.csv").stat().st_mtime
    if not fresh or not answers(json.loads(kept.read_text()), samples):
        words = ["evaluate", str(folder), "--data", str(test), "--samples", str(samples), "--json", str(kept)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*FVAE, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(kept.read_text())


def answers(told: dict[str, Any], samples: int) -> bool:
    """Whether an evaluation was one of so many samples, of which a model without a latent takes one."""
    return told["samples"] == samples or told["recipe"] == "language_model"


def draw(runs: dict[str, Path], path: Path) -> None:
    """The held-out rate over the steps of training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, folder in runs.items():
        rows = read_metrics(folder)
        axes.plot([row["step"] for row in rows], [row["test_rate_nats"] for row in rows], "o-", ms=3, label=name)
    axes.set_xlabel("steps")
    axes.set_ylabel("held-out KL, nats a sentence")
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
    parser.add_argument("--anneal", type=int, default=2000, help="steps up to weight 1; of a cycle, a quarter of them")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=WAYS, metavar="WAY", help="(default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    budget: dict[str, float] = {"steps": args.steps} if args.steps else {"minutes": args.minutes or 15.0}
    training, test, data = DATA[args.data]
    names = args.only or list(WAYS)
    out = args.out / args.data / f"{args.size}_seed{args.seed}"
    jobs = []
    for name in names:
        recipe, model, train = WAYS[name]
        train = budget | TRAIN | {"seed": args.seed} | train
        if kind := train.get("anneal"):
            train["anneal_steps"] = args.anneal if kind == "linear" else args.anneal // 4
        folder = out / "".join(c if c.isalnum() else "_" for c in name)
        source = ["--data", str(args.shared / training), *flags("data", data), "--out", str(folder)]
        settings = [*flags("model", SIZES[args.size] | model), *flags("train", train)]
        jobs.append(([*FVAE, "train", recipe, *source, *settings], folder, budget))
    write_text(out / "commands.txt", "".join(shlex.join(["fvae", *words[3:]]) + "\n" for words, _, _ in jobs))
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda job: finish(*job), jobs))
        found = list(pool.map(lambda job: figures(job[1], args.shared / test, args.samples), jobs))
    header = ["way", "steps", "minutes", *FIGURES]
    rows = []
    for name, (_, folder, _), told in zip(names, jobs, found, strict=True):
        last = read_metrics(folder)[-1]
        rows.append([name, int(last["step"]), last["seconds"] / 60, *(told.get(key) for key in FIGURES)])
    lines = [[f"{v:.2f}" if isinstance(v, float) else "" if v is None else str(v) for v in row] for row in rows]
    markdown = to_markdown([header, *lines])
    write_text(out / "table.md", markdown)
    write_text(out / "table.csv", to_csv([header, *rows]))
    if curves := {name: folder for name, (_, folder, _) in zip(names, jobs, strict=True) if name in CURVES}:
        draw(curves, out / "kl.png")
    print(f"{out}\n{markdown}", flush=True)


if __name__ == "__main__":
    main()
