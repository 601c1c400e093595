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
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fvae.checkpoint import load
from fvae.checks import (
    at_least,
    at_most_seed,
    check_labels,
    data_of,
    need_latent,
    need_seen,
    say_cut,
    say_discrete,
    say_skipped,
    say_unknown,
)
from fvae.data import Samples, load_data
from fvae.data.images import read_files
from fvae.data.texts import holds_text
from fvae.data.vectors import discrete
from fvae.errors import UserError
from fvae.evaluate import batches, bits_of, bounds, gaussian_posterior, summary, to_bins, unit
from fvae.files import need_file, need_folder, write_text
from fvae.information import ACTIVE, information
from fvae.kinds import KINDS, Images, Kind, Sentences, Writing, kind_of, vocabulary_begun
from fvae.model import LatentModel
from fvae.outputs import read_codes, write_arrays
from fvae.pictures import save_picture, sheet, to_uint8
from fvae.recipes import RECIPES
from fvae.runs import KEPT, VOCABULARY, check_same, read_metrics, write_config
from fvae.settings import DataSettings, TrainSettings

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
    text = holds_text(data.source)
    if text != RECIPES[recipe].takes_text:
        needs = "text needs a text recipe, as text_vae" if text else f"{recipe} needs text, a .txt or .txt.gz"
        raise UserError(f"--data {data.source}: {needs}")
    own = vocabulary_begun(run, data.longest) if text and begun else None
    samples = load_data(data, "train", None, own)
    test = load_data(data, "test", samples.shape, samples.vocabulary)
    test = test.numbered_as(samples.classes, f"--data {data.source}, held out")
    torch.manual_seed(settings.seed)
    try:
        built = RECIPES[recipe](samples.shape, **model)
    except UserError as error:
        raise UserError(f"--model: {error}") from None
    where = f"--model.classes {built.classes}: --data {data.source}"
    check_labels(built, samples, where, each=True)
    check_labels(built, test, where)
    built.config |= {"columns": samples.columns} if samples.columns else {}
    built.config |= {"vocabulary": samples.vocabulary.digest} if samples.vocabulary else {}
    built.config |= {"labels": samples.classes} if built.classes and samples.classes else {}
    if data.labels and not built.classes:
        takes = "takes labels with --model.classes N" if "classes" in built.config["settings"] else "takes no labels"
        print(f"warning: --data.labels {data.labels}: not used: {recipe} {takes}", file=sys.stderr)
    check_training(built, samples, settings)  # what is refused, is refused before anything is written
    make_trainer(settings, logger=False)
    if begun:
        check_same(run, recipe, built.config["settings"], data, settings)
        step_to_resume(run, built, samples)
    if first:  # also of a run that goes on, whose budget and place may be new
        if samples.vocabulary:
            write_text(run / VOCABULARY, samples.vocabulary.text)
        write_config(run, recipe, built.config["settings"], data, settings)
        say_skipped(samples.skipped + test.skipped, len(samples) + len(test), run, samples.vocabulary is not None)
        say_cut(samples.cut + test.cut, data.longest)
        if samples.vocabulary:
            say_unknown(samples, "the training sentences", words=data.tokens == "word")
            say_unknown(test, "the held-out sentences", words=data.tokens == "word")
        say_discrete(discrete(samples) if samples.columns else [])
        if settings.batch_size > len(samples):
            more = f"more than the {len(samples)} training {samples.noun}, which come several times in each"
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
        told = unit(built)
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
    kind = KINDS[len(model.shape)]
    samples = kind.draws if samples is None else samples
    at_least("--samples", samples, 1)
    samples = samples if math.prod(model.noise_shape) else 1  # nothing is drawn
    at_most_seed(seed)
    if out:
        need_file("--json", out)
    data_, what = data_of(run, model, data, split)
    told = unit(model)
    found = summary(model, bounds(model, data_, samples, seed, watch="evaluating"), samples)
    found = {"run": str(run), "recipe": model.config["recipe"], "data": what, "seed": seed, **found}
    if data_.vocabulary:
        found |= perplexity(data_, found)
    if gaussian_posterior(model, data_):
        found |= information(model, data_, seed)._asdict()
    found["skipped"] = data_.skipped
    if out:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        write_text(out, json.dumps(finite, indent=2) + "\n")
    draws = f"; {samples} draw{'s' if samples > 1 else ''} of u each" if math.prod(model.noise_shape) else ""
    bits = f", {found['bits']} bits" if found["bits"] else ""
    print(f"{found['recipe']} {run} on {what}: {len(data_)} {data_.noun} of {data_.size}{bits}")
    error = f" +- {found[f'{told.key}_error']:.4f}" if len(data_) > 1 else ""
    print(f"{told.name:10}  {found[told.key]:.4f}{error}  {found['bound']}{draws}")
    if samples > 1:
        print(f"            {found[f'tighter_{told.key}']:.4f}  importance-weighted bound of {samples} draws")
    parts = f"= rate {found['rate']:.2f} + distortion {found['distortion']:.2f}"
    print(f"nats        {found['nats']:.2f} an image {parts}" if told.key != "nats" else f"            {parts}")
    if data_.vocabulary:
        print(f"perplexity  {found['perplexity']:.2f}  a token, of {found['tokens']:,}, ends of sentences counted")
    if gaussian_posterior(model, data_):
        most, active = math.log(len(data_)), f"{found['active_units']} of {found['units']} units active"
        mutual = round(found["mutual_information"], 2) + 0.0  # no "-0.00"
        print(f"latent      {mutual:.2f} nats of mutual information, of {most:.2f} at most")
        print(f"            {active} (variance of the mean above {ACTIVE})")
        print(f"            {found['shuffled_gap']:.2f} nats more with the latent of another sample")
    print(f"noise       {found['noise']}")
    return found


def perplexity(data: Samples, found: dict[str, Any]) -> dict[str, Any]:
    """exp(nats / tokens) of all text together, by the best bound there is."""
    tokens = int(np.count_nonzero(data.values))
    nats = found.get("tighter_nats", found["nats"]) * len(data)
    with np.errstate(over="ignore"):  # of a run that went astray it is infinite
        return {"tokens": tokens, "perplexity": float(np.exp(nats / tokens))}


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
    kind = kind_of(model, run)
    if sweep and not isinstance(kind, Images):
        raise UserError(f"--temperatures: makes a row of images for each; {run} holds {kind.noun}: --temperature")
    kind.need_out(out, folder=not sweep)
    how = writing(kind, token_temperature, top_p, beam)
    number = None if label is None else label_number(model, run, "--label", label)
    temperature = kind.temperature if temperature is None else temperature
    try:
        values = [temperature] if temperatures is None else [float(part) for part in temperatures.split(",")]
    except ValueError:
        raise UserError(f"--temperatures: expected numbers with commas between them, found {temperatures}") from None
    for t in values:
        at_least("--temperatures" if sweep else "--temperature", t, 0)
    n = n if n is not None else kind.few if sweep else kind.many
    at_least("--n", n, 1)
    at_most_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    e = model.codes(n, generator)
    y = model.draw_labels(n, generator)
    y = torch.full_like(y, number) if y is not None and number is not None else y
    rows = [kind.decoded(t * e, y, writing=how, generator=generator) for t in values]
    labels = None if y is None else y.cpu().numpy()
    if not sweep or out is None:
        kind.write(rows[0], out, labels)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": np.stack(rows), "temperatures": np.array(values)}
        write_arrays(out, **arrays, **({} if labels is None else {"labels": labels}))
    else:
        save_picture(sheet(rows, [f"T = {t:g}" for t in values]), out)
    if out is not None:
        print(out)


def writing(kind: Kind, temperature: float | None, top_p: float | None, beam: int | None) -> Writing:
    """How sentences are written; refuses flags of text for other kinds, and values that can't be meant."""
    flags = {"--token_temperature": temperature, "--top_p": top_p, "--beam": beam}
    given = [flag for flag, value in flags.items() if value is not None]
    if given and not isinstance(kind, Sentences):
        raise UserError(f"{given[0]}: is for text; {kind.run} holds {kind.noun}")
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
    kind = need_seen(model, run, "reconstruct", out)
    samples, what = data_of(run, model, data, split)
    samples = samples.spread(n)
    back = kind.decoded(*encoded(model, samples))
    if out is None or isinstance(kind, Sentences):
        kind.write(spaced(zip(samples.vocabulary.lines(samples.values), back, strict=True)), out)
        if out is not None:
            print(f"{out}: {len(samples)} sentences of {what}, each above what the model makes of its code")
        return
    bits = bits_of(model)
    data_rows = to_uint8(torch.from_numpy(to_bins(samples.values, bits)), bits)
    rows, labels = [], []
    for i in range(0, len(samples), 10):
        rows += [data_rows[i : i + 10], back[i : i + 10]]
        labels += ["data", "model"]
    save_picture(sheet(rows, labels), out)
    error = np.sqrt(((data_rows.astype(float) - back) ** 2).mean())
    print(f"{out}: {len(samples)} images of {what}, root mean square error {error:.3f} of 255")


def spaced(groups: Iterable[Iterable[str]]) -> np.ndarray:
    """Lines, with an empty one between groups."""
    return np.array([line for group in groups for line in (*group, "")][:-1], dtype=object)


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
    kind = need_seen(model, run, "interpolate", out)
    corners = corners or (2 if isinstance(kind, Sentences) else 4)
    if labels is not None and not ends:
        raise UserError("--labels: are those of the images named; held-out images have their own")
    if ends:
        words = None if labels is None else labels.split(",")
        if words is not None and len(words) != len(ends):
            raise UserError(f"--labels: expected one for each of {len(ends)} {kind.noun}, found {len(words)}")
        numbers = None if words is None else np.array([label_number(model, run, "--labels", word) for word in words])
        if isinstance(kind, Sentences):
            if not all(map(str.strip, ends)):
                raise UserError("interpolate: expected sentences, found an empty one")
            values, cut = kind.vocabulary.numbers(ends)
            samples = Samples(values, list(ends), vocabulary=kind.vocabulary, cut=cut)
            say_cut(cut, kind.vocabulary.longest)
            say_unknown(samples, "these sentences")
        else:
            samples = read_files([Path(end) for end in ends], model.shape)
        samples = replace(samples, labels=numbers)
        check_labels(model, samples, f"interpolate: {run} was trained with labels; --labels")
    else:
        samples, what = data_of(run, model, data, split)
        if len(samples) < corners:
            text = f"expected {corners} {kind.noun} or more to go between, found {len(samples)} of {what}"
            raise UserError(f"interpolate: {text}; name {corners} {kind.ends}, or --split all")
        samples = samples.spread(corners)
    e, y = encoded(model, samples)
    across = torch.linspace(0, 1, steps, device=e.device)[:, None]

    def way(a: torch.Tensor) -> list[torch.Tensor]:
        lines = [torch.lerp(a[i], a[i + 1], across) for i in range(0, len(a), 2)]  # each (steps, D)
        return lines if len(lines) == 1 else [torch.lerp(lines[0], lines[1], t) for t in across]

    weights = [None] * steps if y is None else way(torch.nn.functional.one_hot(y, model.classes).to(e.dtype))
    rows = [kind.decoded(*row) for row in zip(way(e), weights, strict=False)]
    if isinstance(kind, Sentences) or out is None:
        kind.write(spaced(rows), out)
    else:
        save_picture(sheet(rows), out)
    if out is not None:
        print(out)


def label_number(model: LatentModel, run: Path, flag: str, text: str) -> int:
    """The number of a label that is named, or numbered; raises ``UserError``."""
    if not model.classes:
        raise UserError(f"{flag} {text}: {run} holds a {model.config['recipe']}, which was trained without labels")
    names = model.config.get("labels", [])
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
    kind = kind_of(model, run)
    kind.need_out(out)
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
    back = kind.decoded(torch.from_numpy(e.astype(np.float32)).to(device()), y)
    kind.write(back, out, labels if model.classes else None)
    print(f"{out}: {len(e)} {kind.noun}")


def score(run: Path, data: DataSettings, split: str | None, samples: int | None, seed: int, out: Path) -> None:
    """One bound a sample: CSV of name, nats and, of images, bits/dim, of the K-sample bound for K > 1."""
    at_most_seed(seed)
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name that ends in .csv")
    need_file("--out", out)
    model = load(run, device())
    samples = KINDS[len(model.shape)].draws if samples is None else samples
    at_least("--samples", samples, 1)
    samples = samples if math.prod(model.noise_shape) else 1  # nothing is drawn
    data_, what = data_of(run, model, data, split, whole=True)
    found = bounds(model, data_, samples, seed, watch="scoring")
    nats, told = found.tighter if samples > 1 else found.loss, unit(model)
    columns = {"nats": [f"{v:.4f}" for v in nats], told.key: [f"{told.of(v):.6f}" for v in nats]}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *columns])
    writer.writerows(zip(data_.names, *columns.values(), strict=True))
    write_text(out, text.getvalue())
    average = told.of(float(nats.mean()))
    print(f"{out}: {len(data_)} {data_.noun} of {what}, {average:.4f} {told.name} on average")


def compare(runs: list[Path], out: Path, n: int, seed: int) -> None:
    """Curves, table and samples of several runs side by side."""
    from fvae.compare import compare as side_by_side

    at_least("--n", n, 1)
    at_most_seed(seed)
    need_folder("--out", out)
    written = side_by_side(runs, out, n, seed, device())
    print(f"{out}: {', '.join(written)}")
