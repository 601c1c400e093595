"""Faces: FID, KID and sharpness of the samples of runs, at temperatures of the latent and of the decoder.

usage: python benchmarks/faces.py --data SRC --out OUT [--size N] [--n 500] [--z T,T,...] [--x T,T,...] RUN [RUN ...]

The features are of a small network that is trained here on the training images, at 32x32 pixels (see quality.py). The
floor is the distance between the two halves of the held-out images; "copies" is the share of samples whose nearest
training image, in these features, is nearer than that of 99 % of held-out images. Writes table.md and
a sheet of samples of each run into OUT.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from quality import quality, smaller, train_features

import fvae
from fvae.data import load_data
from fvae.data.pictures import save_picture, square, to_uint8
from fvae.files import write_text
from fvae.settings import DataSettings


@torch.no_grad()
def draw(model: fvae.LatentModel, n: int, z: float, x: float) -> np.ndarray:
    """n samples (n, C, H, W) uint8 at a temperature of the latent and one of the decoder, of seed 0."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        model.sample(min(50, n - i), temperature=z, generator=generator, decoder_temperature=x) for i in range(0, n, 50)
    ]
    return to_uint8(torch.cat(parts), model.modality.bits).transpose(0, 3, 1, 2)


@torch.no_grad()
def nearest(net: torch.nn.Module, samples: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The distance of each sample's features to those of the nearest training image."""
    a, b = (torch.cat([net(torch.from_numpy(part)) for part in np.array_split(x, 20)]) for x in (samples, train))
    return torch.cdist(a, b).min(1).values.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--z", default="0.7,0.8,1")
    parser.add_argument("--x", default="0,0.6,0.8,1")
    args = parser.parse_args()
    data = DataSettings(source=args.data, size=args.size)
    train, test = (load_data(data, part).values for part in ("train", "test"))
    small_train, small_test = smaller(train), smaller(test)
    net = train_features(small_train, args.out / "features.pt")
    floor = quality(net, test[::2], test[1::2])["FID"]
    limit = np.quantile(nearest(net, small_test, small_train), 0.01)
    lines = [
        f"{args.n} samples each against {len(test)} held-out images; FID between halves of these {floor:.2f}",
        "",
        "| run | T of z | T of the decoder | FID | KID x 1000 | sharpness | copies |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in args.runs:
        model = fvae.load(run)
        decoder = list(map(float, args.x.split(","))) if model.decoder_temperature else [0.0]
        for z in map(float, args.z.split(",")):
            for x in decoder:
                samples = draw(model, args.n, z, x)
                found = quality(net, test, samples)
                copies = float((nearest(net, smaller(samples), small_train) < limit).mean())
                shown = f"{found['FID']:.2f} | {found['KID x 1000']:.1f} | {found['sharpness']:.2f} | {copies:.1%}"
                lines.append(f"| {run.name} | {z:g} | {x:g} | {shown} |")
                print(lines[-1], flush=True)
                save_picture(square(samples[:36].transpose(0, 2, 3, 1)), args.out / f"{run.name}_{z:g}_{x:g}.png")
    write_text(args.out / "table.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
