"""Outlier detection on the tables of ADBench: ``fvae.Density`` beside the detectors of scikit-learn, in one process.

usage: python benchmarks/adbench.py --data FOLDER --out OUT [--seeds 0,1] [--tables a,b] [--methods kNN,f-VAE]
       [--contaminated] [--set '{"recipe": "vae"}']

FOLDER holds .npz files of X (N, D) and y (1: outlier). Half of the normal rows train, the others and all outliers are
tested; --contaminated trains on all rows, and tests on them. At most 10,000 training rows are taken. Scikit-learn's
methods see columns standardized by the training rows and clipped to +-10. Writes scores.csv and table.md: AUROC of each
table, its mean, the mean rank, and seconds a table.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM

import fvae
from fvae.files import write_csv, write_text

MOST = 10_000  # training rows


def knn(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    return -NearestNeighbors(n_neighbors=5).fit(x).kneighbors(new)[0][:, -1]


def isolation(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    return IsolationForest(random_state=seed).fit(x).score_samples(new)


def one_class(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    return OneClassSVM().fit(x[:5000]).score_samples(new)


def gaussians(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    k = min(10, max(1, len(x) // 50))
    return GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(x).score_samples(new)


def kernels(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    return KernelDensity(bandwidth="scott").fit(x[:5000]).score_samples(new)


def tails(x: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """The sum over columns of the log of the smaller tail's share, as ECOD's (Li et al., 2022)."""
    order, n = np.sort(x, 0), len(x)
    found = np.zeros(len(new))
    for column, values in zip(order.T, new.T, strict=True):
        left = (1 + np.searchsorted(column, values, "right")) / (n + 1)
        right = (1 + n - np.searchsorted(column, values, "left")) / (n + 1)
        found += np.log(np.minimum(left, right).clip(1 / (n + 1)))
    return found


PEERS = {
    "kNN": knn, "IForest": isolation, "OCSVM": one_class, "GMM": gaussians, "KDE": kernels, "tails": tails,
}  # fmt: skip


def density(x: np.ndarray, new: np.ndarray, seed: int, settings: dict[str, Any]) -> np.ndarray:
    return fvae.Density(random_state=seed, **settings).fit(x).score_samples(new)


def split(x: np.ndarray, y: np.ndarray, seed: int, contaminated: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, rows to test, and which of these are outliers."""
    r = np.random.default_rng(seed)
    if contaminated:
        return x[r.permutation(len(x))[:MOST]], x, y
    normal = r.permutation(np.flatnonzero(y == 0))
    train, rest = normal[: len(normal) // 2], np.r_[normal[len(normal) // 2 :], np.flatnonzero(y == 1)]
    return x[train[:MOST]], x[rest], y[rest]


def standardized(x: np.ndarray, new: np.ndarray) -> list[np.ndarray]:
    mean, std = x.mean(0), x.std(0)
    return [((a - mean) / np.where(std > 0, std, 1)).clip(-10, 10) for a in (x, new)]


def table_of(scores: list[dict[str, Any]], methods: list[str]) -> str:
    """Markdown: mean AUROC over seeds of each table, then means, ranks and seconds."""
    tables = sorted({row["table"] for row in scores})

    def mean(table: str, method: str, key: str = "auroc") -> float:
        return float(np.mean([r[key] for r in scores if (r["table"], r["method"]) == (table, method)]))

    lines = [["table", *methods], ["---"] * (len(methods) + 1)]
    grid = np.array([[mean(t, m) for m in methods] for t in tables])
    lines += [[t, *(f"{100 * v:.1f}" for v in row)] for t, row in zip(tables, grid, strict=True)]
    ranks = (-grid).argsort(1).argsort(1) + 1
    lines += [["mean", *(f"{100 * v:.1f}" for v in grid.mean(0))], ["mean rank", *(f"{v:.2f}" for v in ranks.mean(0))]]
    lines += [["seconds", *(f"{np.mean([mean(t, m, 'seconds') for t in tables]):.1f}" for m in methods)]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tables", help="names before .npz or their numbers, with commas (default: all)")
    parser.add_argument("--methods", default=",".join([*PEERS, "f-VAE"]))
    parser.add_argument("--contaminated", action="store_true")
    parser.add_argument("--set", type=json.loads, default={}, help="arguments of fvae.Density, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wanted = args.tables.split(",") if args.tables else None
    paths = sorted(args.data.glob("*.npz"))
    paths = [p for p in paths if not wanted or p.stem in wanted or p.stem.split("_")[0] in wanted]
    methods, scores = args.methods.split(","), []
    for path in paths:
        with np.load(path) as file:
            x, y = file["X"].astype(float), file["y"].astype(int)
        for seed in map(int, args.seeds.split(",")):
            train, new, outlier = split(x, y, seed, args.contaminated)
            scaled = standardized(train, new)
            for method in methods:
                began = time.perf_counter()
                found = density(train, new, seed, args.set) if method == "f-VAE" else PEERS[method](*scaled, seed)
                seconds = time.perf_counter() - began
                auroc = roc_auc_score(outlier, -found)
                scores.append({"table": path.stem, "method": method, "seed": seed, "auroc": auroc, "seconds": seconds})
                print(f"{path.stem} {x.shape} seed {seed} {method}: {100 * auroc:.1f} {seconds:.1f} s", flush=True)
        write_csv(args.out / "scores.csv", list(scores[0]), [list(map(str, row.values())) for row in scores])
    markdown = table_of(scores, methods)
    write_text(args.out / "table.md", markdown)
    print(markdown)


if __name__ == "__main__":
    main()
