"""What each command does. The command line (``fvae.cli``) reads the flags; here they are Python arguments.

Raises ``UserError`` for what its user can mend and ``MachineError`` for what the machine refused.
"""

import json
import logging
import math
import sys
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvae.checkpoint import load, read_config
from fvae.checks import (
    at_least,
    at_most_seed,
    check_labels,
    data_of,
    need_latent,
    need_visible,
    say,
    say_skipped,
)
from fvae.data import Samples, load_data, modality_of
from fvae.data.pictures import save_picture, sheet
from fvae.data.text import VOCABULARY, Text, Vocabulary, Writing
from fvae.errors import UserError
from fvae.evaluate import batches, bounds, gaussian_posterior, summary
from fvae.files import need_file, need_folder, write_arrays, write_csv, write_text
from fvae.information import ACTIVE, information
from fvae.model import LatentModel
from fvae.recipes import RECIPES
from fvae.runs import KEPT, check_same, read_metrics, write_config
from fvae.settings import DataSettings, TrainSettings

FEW = 10  # images in a row of a sweep, where nobody says how many
TEMPERATURES = "0,0.5,0.6,0.7,0.8,0.9,1"


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions of ten bits would make encode and decode inexact
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def recipes() -> None:
    """Print what can be trained, a line each."""
    for name, make in RECIPES.items():
        print(f"{name:13}  {(make.__doc__ or '').splitlines()[0]}")


def train(
    recipe: str, model: dict[str, Any], data: DataSettings, settings: TrainSettings, run: Path, resume: bool
) -> None:
    """Train a recipe on data into the folder ``run``, or go on with the run that is there."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from fvae.progress import ProgressBar
    from fvae.train import check_training, make_trainer, step_to_resume
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
    kind = modality_of(data.source)
    if (kind is Text) != RECIPES[recipe].takes_text:
        needs = "text needs a text recipe, as text_vae" if kind is Text else f"{recipe} needs text, a .txt or .txt.gz"
        raise UserError(f"--data {data.source}: {needs}")
    own = text_begun(run, data.longest) if kind is Text and begun else None
    samples = load_data(data, "train", own)
    test = load_data(data, "test", samples.modality)
    test = test.numbered_as(samples.modality.classes, f"--data {data.source}, held out")
    torch.manual_seed(settings.seed)
    try:
        built = RECIPES[recipe](samples.shape, **model)
    except UserError as error:
        raise UserError(f"--model: {error}") from None
    where = f"--model.classes {built.classes}: --data {data.source}"
    check_labels(built, samples, where, each=True)
    check_labels(built, test, where)
    classes = samples.modality.classes if built.classes else ()
    built.modality = samples.modality.kept_by(built.modality, classes)
    if data.labels and not built.classes:
        takes = "takes labels with --model.classes N" if "classes" in built.config["settings"] else "takes no labels"
        print(f"warning: --data.labels {data.labels}: not used: {recipe} {takes}", file=sys.stderr)
    check_training(built, samples, settings)  # what is refused, is refused before anything is written
    make_trainer(settings, logger=False)
    if begun:
        check_same(run, recipe, built.config["settings"], data, settings)
        step_to_resume(run, built, samples)
    if first:  # also of a run that goes on, whose budget and place may be new
        samples.modality.save(run)
        write_config(run, recipe, built.config["settings"], data, settings)
        say_skipped(samples.skipped + test.skipped, len(samples) + len(test), samples.modality, run)
        say(samples.modality.notes_of_training(samples, test))
        if settings.batch_size > len(samples):
            more = f"more than the {len(samples)} training {samples.modality.noun}, which come several times in each"
            print(f"warning: --train.batch_size {settings.batch_size}: {more}", file=sys.stderr)
    bar = ProgressBar(settings.max_steps, settings.minutes)
    try:
        last = fit(built, samples, test, run, settings, resume, bar, bar.say if first else lambda line: None)
    except SIGTERMException:
        print(f"fvae: terminated; fvae train --out {run} --resume goes on with it", file=sys.stderr)
        raise SystemExit(143) from None  # as of a program that takes no notice of the signal
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt(f"interrupted; fvae train --out {run} --resume goes on with it") from None
    if first:
        told = built.modality.unit
        print(f"{run}: step {last['step']}, held-out {last[f'test_{told.key}']:.4f} {told.name}")


def quiet() -> None:
    """Keep Lightning's advertisements and its advice on what this library does on purpose off the screen."""
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def evaluate(
    run: Path, data: DataSettings, split: str | None, samples: int | None, seed: int, out: Path | None
) -> dict[str, Any]:
    """Print the bound on the negative log-likelihood of held-out data, or of others, and maybe write it as JSON.

    Of text also the perplexity, and of Gaussian posteriors of flat latents what they say of the data.
    """
    model = load(run, device())
    samples = model.modality.draws if samples is None else samples
    at_least("--samples", samples, 1)
    samples = samples if math.prod(model.noise_shape) else 1  # nothing is drawn
    at_most_seed(seed)
    if out:
        need_file("--json", out)
    data_, what = data_of(run, model, data, split)
    told = model.modality.unit
    found = summary(model, bounds(model, data_, samples, seed, watch="evaluating"), samples)
    found = {"run": str(run), "recipe": model.config["recipe"], "data": what, "seed": seed, **found}
    found |= model.modality.figures(data_, found)
    if gaussian_posterior(model, data_):
        found |= information(model, data_, seed)._asdict()
    found["skipped"] = data_.skipped
    if out:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        write_text(out, json.dumps(finite, indent=2) + "\n")
    draws = f"; {samples} draw{'s' if samples > 1 else ''} of u each" if math.prod(model.noise_shape) else ""
    bits = f", {found['bits']} bits" if found["bits"] else ""
    print(f"{found['recipe']} {run} on {what}: {len(data_)} {data_.modality.noun} of {model.modality.size}{bits}")
    error = f" +- {found[f'{told.key}_error']:.4f}" if len(data_) > 1 else ""
    print(f"{told.name:10}  {found[told.key]:.4f}{error}  {found['bound']}{draws}")
    if samples > 1:
        print(f"            {found[f'tighter_{told.key}']:.4f}  importance-weighted bound of {samples} draws")
    parts = f"= rate {found['rate']:.2f} + distortion {found['distortion']:.2f}"
    print(f"nats        {found['nats']:.2f} an image {parts}" if told.key != "nats" else f"            {parts}")
    if "perplexity" in found:
        print(f"perplexity  {found['perplexity']:.2f}  a token, of {found['tokens']:,}, ends of sentences counted")
    if gaussian_posterior(model, data_):
        most, active = math.log(len(data_)), f"{found['active_units']} of {found['units']} units active"
        mutual = round(found["mutual_information"], 2) + 0.0  # no "-0.00"
        print(f"latent      {mutual:.2f} nats of mutual information, of {most:.2f} at most")
        print(f"            {active} (variance of the mean above {ACTIVE})")
        print(f"            {found['shuffled_gap']:.2f} nats more with the latent of another sample")
    print(f"noise       {found['noise']}")
    return found


@torch.no_grad()
def sample(
    run: Path,
    n: int | None = None,
    temperature: float | None = None,
    temperatures: str | None = None,
    label: str | None = None,
    token_temperature: float | None = None,
    top_p: float | None = None,
    beam: int | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Draw images (a grid, an .npz, a folder, or one labelled row a temperature), rows of numbers, or sentences."""
    sweep = temperatures is not None
    model = load(run, device())
    modality = model.modality
    if sweep and modality.noun != "images":
        raise UserError(f"--temperatures: makes a row of images for each; {run} holds {modality.noun}: --temperature")
    modality.check_out(out, folder=not sweep)
    how = writing(model, run, token_temperature, top_p, beam)
    number = None if label is None else label_number(model, run, "--label", label)
    temperature = modality.temperature if temperature is None else temperature
    try:
        values = [temperature] if temperatures is None else [float(part) for part in temperatures.split(",")]
    except ValueError:
        raise UserError(f"--temperatures: expected numbers with commas between them, found {temperatures}") from None
    for t in values:
        at_least("--temperatures" if sweep else "--temperature", t, 0)
    n = n if n is not None else FEW if sweep else modality.many
    at_least("--n", n, 1)
    at_most_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    e = model.codes(n, generator)
    y = model.draw_labels(n, generator)
    y = torch.full_like(y, number) if y is not None and number is not None else y
    rows = [modality.decoded(model, t * e, y, writing=how, generator=generator) for t in values]
    labels = None if y is None else y.cpu().numpy()
    if not sweep or out is None:
        modality.write(rows[0], out, labels)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": np.stack(rows), "temperatures": np.array(values)}
        write_arrays(out, **arrays, **({} if labels is None else {"labels": labels}))
    else:
        save_picture(sheet(rows, [f"T = {t:g}" for t in values]), out)
    if out is not None:
        print(out)


def writing(model: LatentModel, run: Path, temperature: float | None, top_p: float | None, beam: int | None) -> Writing:
    """How sentences are written; refuses flags of text for other data, and values that can't be meant."""
    flags = {"--token_temperature": temperature, "--top_p": top_p, "--beam": beam}
    given = [flag for flag, value in flags.items() if value is not None]
    if given and not isinstance(model.modality, Text):
        raise UserError(f"{given[0]}: is for text; {run} holds {model.modality.noun}")
    if beam is not None:
        if len(given) > 1:
            raise UserError(f"{given[0]} and --beam: expected one of them; a beam draws nothing")
        at_least("--beam", beam, 1)
        return Writing(beam=beam)
    found = Writing(1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p)
    at_least("--token_temperature", found.temperature, 0)
    if not 0 < found.top_p <= 1:
        raise UserError(f"--top_p: expected a number above 0 and at most 1, found {found.top_p:g}")
    return found


@torch.no_grad()
def encoded(model: LatentModel, samples: Samples, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Samples to codes (N, D), and their labels where the model takes them."""
    pairs = [(model.encode(x, y), y) for x, y in batches(model, samples, batch_size)]
    labels = [y for _, y in pairs if y is not None]
    return torch.cat([e for e, _ in pairs]), torch.cat(labels) if labels else None


def reconstruct(run: Path, data: DataSettings, split: str | None, n: int, out: Path | None) -> None:
    """Images, or sentences, and what the model makes of their codes."""
    at_least("--n", n, 1)
    model = load(run, device())
    need_visible(model, run, "reconstruct", out)
    modality = model.modality
    samples, what = data_of(run, model, data, split)
    samples = samples.spread(n)
    data_rows, back = modality.known_as(samples.values), modality.decoded(model, *encoded(model, samples))
    rows, labels = [], []
    for i in range(0, len(samples), modality.side_by_side):
        here = slice(i, i + modality.side_by_side)
        rows += [data_rows[here], back[here]]
        labels += ["data", "model"]
    modality.sheet(rows, labels, out)
    if out is not None:
        print(f"{out}: {len(samples)} {modality.noun} of {what}, {modality.error(data_rows, back)}")


def interpolate(
    run: Path,
    ends: list[str],
    data: DataSettings,
    split: str | None,
    corners: int | None,
    steps: int,
    out: Path | None,
    labels: str | None = None,
) -> None:
    """The straight line between the codes of two images, or sentences, or the square between those of four, decoded.

    Of a model with labels the way leads from label to label too.
    """
    at_least("--steps", steps, 2)
    if ends and len(ends) not in (2, 4):
        raise UserError(f"interpolate: expected 2 images or sentences (a row) or 4 (a square), found {len(ends)}")
    model = load(run, device())
    need_visible(model, run, "interpolate", out)
    modality = model.modality
    corners = corners or modality.corners
    if labels is not None and not ends:
        raise UserError("--labels: are those of the images named; held-out images have their own")
    if ends:
        words = None if labels is None else labels.split(",")
        if words is not None and len(words) != len(ends):
            raise UserError(f"--labels: expected one for each of {len(ends)} {modality.noun}, found {len(words)}")
        numbers = None if words is None else np.array([label_number(model, run, "--labels", word) for word in words])
        samples = replace(modality.named(ends), labels=numbers)
        say(samples.modality.notes(samples, f"these {modality.noun}"))
        check_labels(model, samples, f"interpolate: {run} was trained with labels; --labels")
    else:
        samples, what = data_of(run, model, data, split)
        if len(samples) < corners:
            text = f"expected {corners} {modality.noun} or more to go between, found {len(samples)} of {what}"
            raise UserError(f"interpolate: {text}; name {corners} {modality.ends}, or --split all")
        samples = samples.spread(corners)
    e, y = encoded(model, samples)
    across = torch.linspace(0, 1, steps, device=e.device)[:, None]

    def between(a: torch.Tensor) -> list[torch.Tensor]:
        lines = [torch.lerp(a[i], a[i + 1], across) for i in range(0, len(a), 2)]  # each (steps, D)
        return lines if len(lines) == 1 else [torch.lerp(lines[0], lines[1], t) for t in across]

    weights = [None] * steps if y is None else between(torch.nn.functional.one_hot(y, model.classes).to(e.dtype))
    rows = [modality.decoded(model, *row) for row in zip(between(e), weights, strict=False)]
    modality.sheet(rows, None, out)
    if out is not None:
        print(out)


def label_number(model: LatentModel, run: Path, flag: str, text: str) -> int:
    """The number of a label that is named, or numbered; raises ``UserError``."""
    if not model.classes:
        raise UserError(f"{flag} {text}: {run} holds a {model.config['recipe']}, which was trained without labels")
    names = list(model.modality.classes)
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < model.classes:
        return int(text)
    raise UserError(f"{flag} {text}: {run} knows the labels {', '.join(names[:10]) or f'0 to {model.classes - 1}'}")


def encode(run: Path, data: DataSettings, split: str | None, out: Path) -> None:
    """Write the codes of data: an .npz with ``codes`` (N, D), ``names`` and, where known, ``labels``."""
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends in .npz")
    need_file("--out", out)
    model = load(run, device())
    need_latent(model, run, "encode")
    samples, what = data_of(run, model, data, split, whole=True)
    arrays = {"codes": encoded(model, samples)[0].cpu().numpy(), "names": np.array(samples.names)}
    write_arrays(out, **arrays, **({} if samples.labels is None else {"labels": samples.labels}))
    print(f"{out}: {len(samples)} codes of {arrays['codes'].shape[1]} values, of {what}")


def decode(run: Path, codes: Path, out: Path) -> None:
    """Codes from an .npz back to images or rows, by the labels beside them where the model takes labels."""
    e, labels = read_codes(codes)
    model = load(run, device())
    need_latent(model, run, "decode")
    model.modality.check_out(out)
    dims = math.prod(model.latent)
    if e.ndim != 2 or e.shape[1] != dims or e.dtype.kind != "f" or not len(e):
        raise UserError(f"{codes}: expected codes (N, {dims}) of floats for {run}, found {e.shape} of {e.dtype}")
    if not np.isfinite(e).all():
        raise UserError(f"{codes}: expected finite codes, found NaN or infinity")
    if model.classes:
        if labels is None or labels.shape != (len(e),) or labels.dtype.kind not in "iu":
            found = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise UserError(f"{codes}: expected `labels` ({len(e)},), with which {run} was trained, found {found}")
        check_labels(model, Samples(e, [], labels), str(codes))
    y = torch.from_numpy(labels.astype(np.int64)).to(device()) if model.classes and labels is not None else None
    back = model.modality.decoded(model, torch.from_numpy(e.astype(np.float32)).to(device()), y)
    model.modality.write(back, out, labels if model.classes else None)
    print(f"{out}: {len(e)} {model.modality.noun}")


def score(run: Path, data: DataSettings, split: str | None, samples: int | None, seed: int, out: Path) -> None:
    """One bound a sample: CSV of name, nats and, of images, bits/dim, of the K-sample bound for K > 1."""
    at_most_seed(seed)
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name that ends in .csv")
    need_file("--out", out)
    model = load(run, device())
    samples = model.modality.draws if samples is None else samples
    at_least("--samples", samples, 1)
    samples = samples if math.prod(model.noise_shape) else 1  # nothing is drawn
    data_, what = data_of(run, model, data, split, whole=True)
    found = bounds(model, data_, samples, seed, watch="scoring")
    nats, told = found.tighter if samples > 1 else found.loss, model.modality.unit
    columns = {"nats": [f"{v:.4f}" for v in nats], told.key: [f"{told.of(v):.6f}" for v in nats]}
    write_csv(out, ["name", *columns], zip(data_.names, *columns.values(), strict=True))
    average = told.of(float(nats.mean()))
    print(f"{out}: {len(data_)} {data_.modality.noun} of {what}, {average:.4f} {told.name} on average")


def compare(runs: list[Path], out: Path, n: int, seed: int) -> None:
    """Curves, table and samples of several runs side by side."""
    from fvae.compare import compare as side_by_side

    at_least("--n", n, 1)
    at_most_seed(seed)
    need_folder("--out", out)
    written = side_by_side(runs, out, n, seed, device())
    print(f"{out}: {', '.join(written)}")


def read_codes(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays ``codes`` and, where there are, ``labels`` of an .npz; raises ``UserError``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .npz, as fvae encode writes it")
    try:
        if zipfile.is_zipfile(path):  # else NumPy would try a pickle
            with np.load(path, allow_pickle=False) as arrays:
                return np.asarray(arrays["codes"]), arrays.get("labels")
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    raise UserError(f"{path}: expected an .npz with an array `codes` of numbers, as fvae encode writes it")


def text_begun(run: Path, longest: int) -> Text:
    """The text of a run to resume, which before its first evaluation has no model to compare its tokenizer with."""
    if not (run / "config.json").exists():
        known = Vocabulary.read(run / VOCABULARY, longest)
        return Text(known.shape, known=known)
    config = read_config(run)
    return Text(tuple(config["shape"])).restored(config, run)
