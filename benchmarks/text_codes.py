"""How well a linear classifier predicts the polarity of reviews from their latent codes, for each of several runs.

usage: python benchmarks/text_codes.py RUN [RUN ...] --shared DIR --out OUT [--train 20000]

The runs are of text_vae, trained without labels, as made by ``benchmarks/text.py yelp``. ``fvae encode`` computes the
codes of the first ``--train`` labeled sentences and of all test sentences; logistic regression is fitted to the former
and evaluated on the latter. Baselines are the share of the more frequent label, and a regression on the presence of
words. Writes OUT/codes.md.
"""

import argparse
import os
import subprocess
from pathlib import Path

import numpy as np
from experiments import FVAE
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fvae.data.text import read_lines
from fvae.files import write_bytes, write_text


def lines(shared: Path, part: str, kind: str) -> list[str]:
    path = shared / f"yelp_short_{part}.{kind}.gz"
    return read_lines(path)


def codes(run: Path, sentences: Path, out: Path) -> np.ndarray:
    words = ["encode", str(run), "--data", str(sentences), "--out", str(out)]
    subprocess.run([*FVAE, *words], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return np.load(out)["codes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=20_000)
    args = parser.parse_args()
    first = {"train": args.train, "test": None}
    text = {part: lines(args.shared, part, "txt")[:n] for part, n in first.items()}
    labels = {part: np.array(lines(args.shared, part, "labels")[:n], dtype=int) for part, n in first.items()}
    files = {part: args.out / f"{part}.txt" for part in text}
    for part, path in files.items():
        write_bytes(path, "".join(line + "\n" for line in text[part]).encode())
    share = max(labels["test"].mean(), 1 - labels["test"].mean())
    rows = [("the more frequent label", share)]
    bag = make_pipeline(CountVectorizer(binary=True, token_pattern=r"\S+"), LogisticRegression(max_iter=2000))
    rows.append(("presence of words", bag.fit(text["train"], labels["train"]).score(text["test"], labels["test"])))
    for run in args.runs:
        found = {part: codes(run, path, args.out / f"{run.name}_{part}.npz") for part, path in files.items()}
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        score = linear.fit(found["train"], labels["train"]).score(found["test"], labels["test"])
        rows.append((f"codes of {run.name}, {found['test'].shape[1]} values", score))
    markdown = "| from | accuracy |\n|---|---:|\n" + "".join(f"| {name} | {score:.1%} |\n" for name, score in rows)
    write_text(args.out / "codes.md", markdown)
    print(markdown, end="")


if __name__ == "__main__":
    main()
