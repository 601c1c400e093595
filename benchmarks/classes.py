"""Whether a class-conditional VAE draws the requested digit, as judged by a separately trained classifier.

usage: python benchmarks/classes.py --shared DIR --out OUT [--steps 5000] [--seed 0]

Trains ``cvae`` on MNIST (28x28, 8 bits) and a small convolutional classifier on the same training images, draws 200
samples of each class at temperatures 1 and 0.8, and reports the share that the classifier assigns to that class. Then
trains ``cvae`` with two latent dimensions and decodes the digit 9 on a grid of the latent's quantiles. Writes
classes.md, samples.png and nine.png.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from labels import judge, predict, train_classifier

import fvae
from fvae.data import load_data
from fvae.data.pictures import save_picture, sheet, to_uint8
from fvae.files import write_text
from fvae.settings import DataSettings

SAMPLES = 200  # per class


def train_cvae(source: Path, out: Path, steps: int, seed: int, *model: str) -> None:
    words = ["train", "cvae", "--data", str(source), "--out", str(out), f"--train.steps={steps}", "--train.lr=2e-3"]
    words += [f"--train.seed={seed}", "--train.batch_size=64", "--train.accelerator=cpu", "--train.eval_interval=500"]
    words += [*model, *(["--resume"] if (out / "config.yaml").exists() else [])]
    print("fvae", *words, flush=True)
    subprocess.run([sys.executable, "-m", "fvae", *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = args.shared / "mnist_train.npz"
    train_cvae(source, args.out / "cvae", args.steps, args.seed)
    train_cvae(source, args.out / "cvae_2", args.steps // 2, args.seed, "--model.coder.size=2")
    sets = [load_data(DataSettings(source=str(args.shared / f"mnist_{part}.npz")), "all") for part in ("train", "test")]
    (x, y), (x_test, y_test) = ((torch.from_numpy(s.values), torch.from_numpy(s.labels)) for s in sets)
    net = train_classifier(x, y)
    right = (predict(net, x_test) == y_test).float().mean()
    text = f"The classifier is right about {right:.1%} of the {len(x_test):,} test images.\n\n"
    text += f"| samples classified as their class, of {SAMPLES} | " + " | ".join(map(str, range(10))) + " | all |\n"
    text += "|---|" + "---:|" * 11 + "\n"
    model = fvae.load(args.out / "cvae")
    for temperature in (1.0, 0.8):
        shares, rows = judge(model, net, SAMPLES, temperature, args.seed)
        cells = [f"{share:.1%}" for share in [*shares, float(np.mean(shares))]]
        text += f"| T = {temperature:g} | " + " | ".join(cells) + " |\n"
    save_picture(sheet(rows, [str(digit) for digit in range(10)]), args.out / "samples.png")
    write_text(args.out / "classes.md", text)
    print(text)
    plane = fvae.load(args.out / "cvae_2")
    quantiles = torch.special.ndtri(torch.linspace(0.02, 0.98, 12))
    e = torch.cartesian_prod(quantiles, quantiles)
    with torch.no_grad():
        grid = to_uint8(plane.decode(e, torch.full((len(e),), 9)), 8)
    save_picture(sheet(list(grid.reshape(12, 12, *grid.shape[1:]))), args.out / "nine.png")


if __name__ == "__main__":
    main()
