"""What each command does. The command line (``fvae.cli``) reads the flags; here they are Python arguments.

Raises ``UserError`` for what its user can mend and ``MachineError`` for what the machine refused.
"""

import csv
import io
import json
import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvae.bound import LatentModel, bits_per_dim
from fvae.checkpoint import load
from fvae.data.images import Images, Shape, load_images, read_files
from fvae.errors import UserError
from fvae.evaluate import batches, bounds, spread, summary, to_bins
from fvae.files import need_file, need_folder, write_text
from fvae.outputs import need_images_out, need_picture, read_codes, write_arrays, write_images
from fvae.pictures import save_picture, sheet, to_uint8
from fvae.recipes import RECIPES
from fvae.runs import KEPT, check_same, read_metrics, run_images, write_config
from fvae.settings import DataSettings, TrainSettings

TEMPERATURES = "0,0.5,0.6,0.7,0.8,0.9,1"


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions of ten bits would make encode and decode inexact
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def recipes() -> None:
    """Print what can be trained, a line each."""
    for name, make in RECIPES.items():
        print(f"{name:8}  {(make.__doc__ or '').splitlines()[0]}")


def train(
    recipe: str, model: dict[str, Any], data: DataSettings, settings: TrainSettings, run: Path, resume: bool
) -> None:
    """Train a recipe on images into the folder ``run``, or go on with the run that is there."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from fvae.progress import ProgressBar
    from fvae.train import make_trainer, step_to_resume
    from fvae.train import train as fit

    settings.check()
    need_folder("--out", run)
    quiet()
    first = rank_zero_only.rank == 0
    held = [name for name in KEPT if first and (run / name).exists()]
    begun = "config.yaml" in held
    if held and not resume:
        raise UserError(f"--out {run}: holds a run already; give --resume to go on with it, or another folder")
    if held and not begun:
        raise UserError(f"--resume: {run} has {held[0]} but no config.yaml to go on from; take another --out")
    if begun and not (run / KEPT[-1]).exists() and (run / "metrics.csv").exists() and len(read_metrics(run)) > 1:
        raise UserError(f"--resume: {run} is trained but has no {KEPT[-1]} to go on from; take another --out")
    images = load_images(data, "train")
    test = load_images(data, "test", images.shape)
    torch.manual_seed(settings.seed)
    try:
        built = RECIPES[recipe](images.shape, **model)
    except UserError as error:
        raise UserError(f"--model: {error}") from None
    make_trainer(settings, logger=False)  # what it refuses, it refuses before anything is written
    if begun:
        check_same(run, recipe, built.config["settings"], data, settings)
        step_to_resume(run, built, images)
    if first:  # also of a run that goes on, whose budget and place may be new
        write_config(run, recipe, built.config["settings"], data, settings)
        say_skipped(images.skipped + test.skipped, len(images) + len(test), run)
    bar = ProgressBar(settings.max_steps, settings.minutes)
    try:
        last = fit(built, images, test, run, settings, resume, bar, bar.say if first else lambda line: None)
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(f"interrupted; fvae train --out {run} --resume goes on with it") from None
    if first:
        print(f"{run}: step {last['step']}, held-out {last['test_bits_per_dim']:.4f} bits/dim")


def quiet() -> None:
    """Keep Lightning's advertisements and its advice on what this library does on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def size(shape: Shape) -> str:
    """A shape as people say it."""
    c, h, w = shape
    return f"{h}x{w} {'grey' if c == 1 else 'rgb'}"


def say_skipped(skipped: list[str], read: int, run: Path | None = None) -> None:
    """Count and name the files that were left out; a run has the list in ``skipped.txt``, where it is long."""
    if not skipped:
        return
    shown = skipped if run is None or len(skipped) <= 3 else [*skipped[:3], f"... (all in {run / 'skipped.txt'})"]
    print(f"skipped {len(skipped)} of {len(skipped) + read} files: {'; '.join(shown)}", file=sys.stderr)
    if run is not None:
        write_text(run / "skipped.txt", "\n".join(skipped) + "\n")


def images_of(
    run: Path, model: LatentModel, data: DataSettings, split: str | None, whole: bool = False
) -> tuple[Images, str]:
    """The images to use a run on and what they are in words (see ``run_images``), having said what was left out."""
    images, what = run_images(run, data, split, model.shape, whole)
    say_skipped(images.skipped, len(images))
    return images, what


def at_least(flag: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{flag}: expected {least:g} or more, found {value:g}")
    if value == math.inf:
        raise UserError(f"{flag}: expected a finite number, found {value:g}")


def at_most_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: expected 0 or more and below 2^32, found {seed}")


def evaluate(
    run: Path, data: DataSettings, split: str | None, samples: int, seed: int, out: Path | None
) -> dict[str, Any]:
    """Print the bound on -log p(x) of a run's held-out images, or of others, and maybe write it as JSON."""
    at_least("--samples", samples, 1)
    at_most_seed(seed)
    if out:
        need_file("--json", out)
    model = load(run, device())
    images, what = images_of(run, model, data, split)
    found = summary(model, bounds(model, images.pixels, samples, seed), samples)
    found = {"run": str(run), "recipe": model.config["recipe"], "data": what, "seed": seed, **found}
    found["skipped"] = images.skipped
    if out:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        write_text(out, json.dumps(finite, indent=2) + "\n")
    draws = f"{samples} draw{'s' if samples > 1 else ''} of u an image"
    print(f"{found['recipe']} {run} on {what}: {len(images)} images of {size(model.shape)}, {found['bits']} bits")
    error = f" +- {found['bits_per_dim_error']:.4f}" if len(images) > 1 else ""
    print(f"bits/dim    {found['bits_per_dim']:.4f}{error}  {found['bound']}; {draws}")
    if samples > 1:
        print(f"            {found['tighter_bits_per_dim']:.4f}  importance-weighted bound of {samples} samples")
    print(f"nats        {found['nats']:.2f} an image = rate {found['rate']:.2f} + distortion {found['distortion']:.2f}")
    print(f"noise       {found['noise']}")
    return found


@torch.no_grad()
def sample(
    run: Path,
    n: int | None,
    temperature: float,
    temperatures: str | None,
    label: int | None,
    seed: int,
    out: Path,
) -> None:
    """Draw images from a run: a grid, an .npz or a folder; or one labelled row a temperature."""
    need_images_out(out, folder=temperatures is None)
    model = load(run, device())
    if label is not None:
        raise UserError(f"--label {label}: {run} holds a {model.config['recipe']}, which was trained without labels")
    sweep = temperatures is not None
    try:
        values = [temperature] if temperatures is None else [float(part) for part in temperatures.split(",")]
    except ValueError:
        raise UserError(f"--temperatures: expected numbers with commas between them, found {temperatures}") from None
    for t in values:
        at_least("--temperatures" if sweep else "--temperature", t, 0)
    n = n if n is not None else (10 if sweep else 64)
    at_least("--n", n, 1)
    at_most_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    e = model.noise(n, generator).flatten(1)
    rows = [decoded(model, t * e) for t in values]
    if not sweep:
        write_images(rows[0], out)
    elif out.suffix.lower() == ".npz":
        write_arrays(out, images=np.stack(rows), temperatures=np.array(values))
    else:
        save_picture(sheet(rows, [f"T = {t:g}" for t in values]), out)
    print(out)


@torch.no_grad()
def decoded(model: LatentModel, e: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Codes (N, D) to 8-bit images (N, H, W, C)."""
    return np.concatenate([to_uint8(model.decode(part), model.decoder.bits) for part in e.split(batch_size)])


@torch.no_grad()
def encoded(model: LatentModel, pixels: np.ndarray, batch_size: int = 64) -> torch.Tensor:
    """8-bit images (N, C, H, W) to codes (N, D)."""
    return torch.cat([model.encode(x) for x in batches(pixels, model, batch_size)])


def reconstruct(run: Path, data: DataSettings, split: str | None, n: int, out: Path) -> None:
    """Images and what the model makes of their codes, one row above the other."""
    at_least("--n", n, 1)
    need_picture(out)
    model = load(run, device())
    images, what = images_of(run, model, data, split)
    pixels = spread(images.pixels, n)
    back = decoded(model, encoded(model, pixels))
    bits = model.decoder.bits
    data_rows = to_uint8(torch.from_numpy(to_bins(pixels, bits)), bits)
    rows, labels = [], []
    for i in range(0, len(pixels), 10):
        rows += [data_rows[i : i + 10], back[i : i + 10]]
        labels += ["data", "model"]
    save_picture(sheet(rows, labels), out)
    error = np.sqrt(((data_rows.astype(float) - back) ** 2).mean())
    print(f"{out}: {len(pixels)} images of {what}, root mean square error {error:.3f} of 255")


def interpolate(
    run: Path, ends: list[Path], data: DataSettings, split: str | None, corners: int, steps: int, out: Path
) -> None:
    """The straight line between the codes of two images, or the square between those of four, decoded."""
    at_least("--steps", steps, 2)
    need_picture(out)
    if ends and len(ends) not in (2, 4):
        raise UserError(f"interpolate: expected 2 images (a row) or 4 (a square), found {len(ends)}")
    model = load(run, device())
    if ends:
        pixels = read_files(ends, model.shape).pixels
    else:
        images, what = images_of(run, model, data, split)
        if len(images) < corners:
            text = f"expected {corners} images or more to go between, found {len(images)} of {what}"
            raise UserError(f"interpolate: {text}; name {corners} image files, or --split all")
        pixels = spread(images.pixels, corners)
    e = encoded(model, pixels)
    across = torch.linspace(0, 1, steps, device=e.device)[:, None]
    lines = [torch.lerp(e[i], e[i + 1], across) for i in range(0, len(e), 2)]  # each (steps, D)
    rows = lines if len(lines) == 1 else [torch.lerp(lines[0], lines[1], t) for t in across]
    save_picture(sheet([decoded(model, row) for row in rows]), out)
    print(out)


def encode(run: Path, data: DataSettings, split: str | None, out: Path) -> None:
    """Write the codes of images: an .npz with ``codes`` (N, D), ``names`` and, where known, ``labels``."""
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends in .npz")
    need_file("--out", out)
    model = load(run, device())
    images, what = images_of(run, model, data, split, whole=True)
    arrays = {"codes": encoded(model, images.pixels).cpu().numpy(), "names": np.array(images.names)}
    write_arrays(out, **arrays, **({} if images.labels is None else {"labels": images.labels}))
    print(f"{out}: {len(images)} codes of {arrays['codes'].shape[1]} values, of {what}")


def decode(run: Path, codes: Path, out: Path) -> None:
    """Codes from an .npz back to images."""
    need_images_out(out)
    e = read_codes(codes)
    model = load(run, device())
    dims = math.prod(model.latent)
    if e.ndim != 2 or e.shape[1] != dims or e.dtype.kind != "f" or not len(e):
        raise UserError(f"{codes}: expected codes (N, {dims}) of floats for {run}, found {e.shape} of {e.dtype}")
    if not np.isfinite(e).all():
        raise UserError(f"{codes}: expected finite codes, found NaN or infinity")
    write_images(decoded(model, torch.from_numpy(e.astype(np.float32)).to(device())), out)
    print(f"{out}: {len(e)} images")


def score(run: Path, data: DataSettings, split: str | None, samples: int, seed: int, out: Path) -> None:
    """One bound a file: CSV of name, nats and bits/dim, of the K-sample bound for K > 1."""
    at_least("--samples", samples, 1)
    at_most_seed(seed)
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name that ends in .csv")
    need_file("--out", out)
    model = load(run, device())
    images, what = images_of(run, model, data, split, whole=True)
    found = bounds(model, images.pixels, samples, seed)
    nats = found.tighter if samples > 1 else found.loss
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "nats", "bits_per_dim"])
    dims = math.prod(model.shape)
    writer.writerows(
        [name, f"{v:.4f}", f"{bits_per_dim(v, dims):.6f}"] for name, v in zip(images.names, nats, strict=True)
    )
    write_text(out, text.getvalue())
    print(f"{out}: {len(images)} images of {what}, {bits_per_dim(float(nats.mean()), dims):.4f} bits/dim on average")


def compare(runs: list[Path], out: Path, n: int, seed: int) -> None:
    """Curves, table and samples of several runs side by side."""
    from fvae.compare import compare as side_by_side

    at_least("--n", n, 1)
    at_most_seed(seed)
    need_folder("--out", out)
    side_by_side(runs, out, n, seed, device())
    print(f"{out}: table.md, table.csv, curves.png, samples.png")
