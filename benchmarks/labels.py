"""Whether labelled runs draw the class that they are asked for, as judged by a separately trained classifier.

usage: python benchmarks/labels.py --train FILE --test FILE --out OUT [--n 200] [--temperatures 1,0.8] RUN [RUN ...]

The runs are of 28x28 gray images with labels (``--model.classes``). The classifier, of two convolutions, is trained
on the training images, and its own share of right answers on the test images is given, too. Writes labels.md and a
sheet of samples of each run, a row for each class.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import fvae
from fvae.data import load_data
from fvae.data.pictures import save_picture, sheet, to_uint8
from fvae.files import write_text
from fvae.settings import DataSettings


def train_classifier(x: torch.Tensor, y: torch.Tensor, steps: int = 1500) -> nn.Module:
    """Train a network of two convolutions, from images (N, 1, 28, 28) in 0 .. 255 to the logits of ten classes."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(64 * 49, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        loss = F.cross_entropy(net(x[batch].float() / 255), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def predict(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The class of each of the images (N, 1, 28, 28) in 0 .. 255, as a classifier reads them."""
    return torch.cat([net(part.float() / 255).argmax(1) for part in images.split(500)])


@torch.no_grad()
def judge(
    model: fvae.LatentModel, net: nn.Module, n: int, temperature: float, seed: int = 0
) -> tuple[list[float], list[np.ndarray]]:
    """The share of n samples of each class that a classifier reads as that class, and a row of twelve of them each."""
    generator = torch.Generator().manual_seed(seed)
    shares, rows = [], []
    for label in range(model.classes):
        images = to_uint8(model.sample(n, torch.full((n,), label), temperature, generator), 8)
        found = predict(net, torch.from_numpy(images).permute(0, 3, 1, 2))
        shares.append((found == label).float().mean().item())
        rows.append(images[:12])
    return shares, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200, help="samples of each class")
    parser.add_argument("--temperatures", default="1,0.8")
    parser.add_argument("--steps", type=int, default=4000, help="of training the classifier")
    args = parser.parse_args()
    torch.set_num_threads(1)
    (x, y), (x_test, y_test) = (
        (torch.from_numpy(s.values), torch.from_numpy(s.labels))
        for s in (load_data(DataSettings(source=source), "all") for source in (args.train, args.test))
    )
    net = train_classifier(x, y, args.steps)
    right = (predict(net, x_test) == y_test).float().mean()
    classes = int(y.max()) + 1
    lines = [
        f"The classifier is right about {right:.1%} of {len(x_test):,} test images; {args.n} samples of each class",
        "",
        "| run | T | " + " | ".join(map(str, range(classes))) + " | all |",
        "|---|---:|" + "---:|" * (classes + 1),
    ]
    for run in args.runs:
        model = fvae.load(run)
        for t in map(float, args.temperatures.split(",")):
            shares, rows = judge(model, net, args.n, t)
            cells = " | ".join(f"{share:.1%}" for share in [*shares, float(np.mean(shares))])
            lines.append(f"| {run.name} | {t:g} | {cells} |")
            print(lines[-1], flush=True)
            save_picture(sheet(rows, list(map(str, range(classes)))), args.out / f"{run.name}_{t:g}.png")
    write_text(args.out / "labels.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
