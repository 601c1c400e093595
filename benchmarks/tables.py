"""Held-out log-likelihoods of tables: each flow on the UCI sets, trained for the same number of steps.

usage: python benchmarks/tables.py --shared DIR --out OUT [--sets kin40k,protein] [--splits 0] [--steps 1500]

DIR holds ``uci/NAME.data.csv.gz`` and ``uci/NAME.test_mask.csv.gz``. Columns are brought to mean 0 and deviation 1 of
the training rows, so that nats are comparable between tables. Writes uci.md into OUT; finished models are not repeated.
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import fvae
from fvae.files import write_text
from fvae.model import LatentModel

R = fvae.recipes
MODELS: dict[str, Callable[[int], LatentModel]] = {
    "realnvp": lambda d: R.realnvp((d,)),
    "glow, depth 6, width 128": lambda d: R.glow((d,), flow=fvae.Glow(depth=6, width=128)),
    "nsf": lambda d: R.nsf((d,)),
    "nsf, logistics": lambda d: R.nsf((d,), flow=fvae.Glow(depth=6, width=128, coupling="logistics")),
    "maf": lambda d: R.maf((d,)),
    "maf, spline": lambda d: R.maf((d,), flow=fvae.MAF(transform="spline")),
    "maf, logistics": lambda d: R.maf((d,), flow=fvae.MAF(transform="logistics")),
}


def read(folder: Path, name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of a split, standardized by the former; columns of one value are left out."""
    arrays = []
    for kind in ("data", "test_mask"):
        with gzip.open(folder / f"{name}.{kind}.csv.gz", "rt") as file:
            arrays.append(np.loadtxt(file, delimiter=",", dtype=np.float64))
    x, held_out = arrays[0], arrays[1][:, split].astype(bool)
    mean, std = x[~held_out].mean(0), x[~held_out].std(0)
    x = (x[:, std > 0] - mean[std > 0]) / std[std > 0]
    return x[~held_out], x[held_out]


@torch.no_grad()
def nats(model: LatentModel, x: np.ndarray) -> float:
    """The mean of -log p(x) over rows."""
    return -float(torch.cat([model.log_prob(part) for part in torch.from_numpy(x).float().split(1000)]).mean())


def measure(make: Callable[[int], LatentModel], train: np.ndarray, test: np.ndarray, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    model, began = make(train.shape[1]), time.process_time()
    settings = {"steps": steps, "batch_size": 256, "lr": 1e-3, "lr_decay": "cosine", "eval_interval": 250}
    fvae.fit(model, train, eval_samples=1000, allow_degenerate=True, progress=False, **settings)
    return {"nats": nats(model, test), "seconds": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default="kin40k,protein")
    parser.add_argument("--splits", default="0")
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets, splits = args.sets.split(","), [int(k) for k in args.splits.split(",")]
    kept = args.out / "uci.json"
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in sets:
        for split in splits:
            train, test = read(args.shared / "uci", name, split)
            for label, make in MODELS.items():
                key = f"{name}/{split}/{args.steps}/{label}"
                if key not in found:
                    found[key] = measure(make, train, test, args.steps)
                    write_text(kept, json.dumps(found, indent=1))
                    print(key, found[key], flush=True)
    lines = ["| model | " + " | ".join(f"{name}, nats | s" for name in sets) + " |", "|---|" + "---:|---:|" * len(sets)]
    for label in MODELS:
        rows = [[found[f"{name}/{split}/{args.steps}/{label}"] for split in splits] for name in sets]
        cells = [f"{np.mean([r[key] for r in row]):.{n}f}" for row in rows for key, n in (("nats", 3), ("seconds", 0))]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    write_text(args.out / "uci.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
