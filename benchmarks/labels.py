"""Whether labelled runs draw the class that they are asked for, as judged by a separately trained classifier.

usage: python benchmarks/labels.py --train FILE --test FILE --out OUT [--n 200] [--temperatures 1,0.8] RUN [RUN ...]

The runs are of 28x28 gray images with labels (``--model.classes``). The classifier is that of ``classes.py``, trained
on the training images, and its own share of right answers on the test images is given, too. Writes labels.md and a
sheet of samples of each run, a row for each class.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from classes import train_classifier

import fvae
from fvae.data import load_data
from fvae.data.pictures import save_picture, sheet, to_uint8
from fvae.files import write_text
from fvae.settings import DataSettings


@torch.no_grad()
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
    with torch.enable_grad():
        net = train_classifier(x, y, args.steps)

    def predict(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([net(part.float() / 255).argmax(1) for part in images.split(500)])

    right = (predict(x_test) == y_test).float().mean()
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
            generator = torch.Generator().manual_seed(0)
            shares, rows = [], []
            for label in range(classes):
                images = to_uint8(model.sample(args.n, torch.full((args.n,), label), t, generator), 8)
                found = predict(torch.from_numpy(images).permute(0, 3, 1, 2))
                shares.append((found == label).float().mean().item())
                rows.append(images[:12])
            cells = " | ".join(f"{share:.1%}" for share in [*shares, float(np.mean(shares))])
            lines.append(f"| {run.name} | {t:g} | {cells} |")
            print(lines[-1], flush=True)
            save_picture(sheet(rows, list(map(str, range(classes)))), args.out / f"{run.name}_{t:g}.png")
    write_text(args.out / "labels.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
