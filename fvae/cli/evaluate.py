"""``fvae evaluate``: bounds on the negative log-likelihood, and what the latent says of the data."""

import json
import math
from functools import partial
from typing import Any

from fvae.cli.parser import Parser, path
from fvae.cli.progress import with_progress
from fvae.cli.run_data import data_of, load_model
from fvae.files import need_file, write_text
from fvae.metrics import bounds, has_gaussian_posterior, latent_information, summary
from fvae.metrics.latent import ACTIVE_VARIANCE
from fvae.model import LatentModel


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_data("the held-out part; all of another source without splits")
    parser.add_samples()
    parser.add_seed()
    parser.add_argument("--json", type=path, metavar="FILE", help="write the figures there")
    args = parser.parse(argv)
    if args["json"]:
        need_file(args["json"], "json")
    model = load_model(args["run"])
    samples = draws(model, args["samples"])
    data, what = data_of(model, args)
    progress = partial(with_progress, "evaluating")
    found = summary(model, bounds(model, data, samples, args["seed"], progress=progress), samples)
    found = {"run": str(args["run"]), "recipe": model.config["recipe"], "data": what, "seed": args["seed"], **found}
    found["step"] = model.step
    found |= model.modality.figures(data, found)
    if has_gaussian_posterior(model, data):
        found |= latent_information(model, data, args["seed"])._asdict()
    found["skipped"] = data.skipped
    if args["json"]:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        write_text(args["json"], json.dumps(finite, indent=2) + "\n")
    print_report(model, found, len(data))


def draws(model: LatentModel, samples: int | None) -> int:
    """How many u to draw for each sample: 1 where nothing is drawn."""
    samples = model.modality.default_draws if samples is None else samples
    return samples if math.prod(model.noise_shape) else 1


def print_report(model: LatentModel, found: dict[str, Any], n: int) -> None:
    unit, modality, samples = model.modality.unit, model.modality, found["samples"]
    drawn = f"; {samples} draw{'s' if samples > 1 else ''} of u each" if math.prod(model.noise_shape) else ""
    bits = f", {found['bits']} bits" if found["bits"] else ""
    error = f" +- {found[f'{unit.key}_error']:.4f}" if n > 1 else ""
    print(f"{found['recipe']} {found['run']} on {found['data']}: {n} {modality.noun} of {modality.size}{bits}")
    print(f"{unit.name:10}  {found[unit.key]:.4f}{error}  {found['bound']}{drawn}")
    if samples > 1:
        print(f"            {found[f'tighter_{unit.key}']:.4f}  importance-weighted bound of {samples} draws")
    parts = f"= rate {found['rate']:.2f} + distortion {found['distortion']:.2f}"
    print(f"nats        {found['nats']:.2f} an image {parts}" if unit.key != "nats" else f"            {parts}")
    if "perplexity" in found:
        print(f"perplexity  {found['perplexity']:.2f}  a token, of {found['tokens']:,}, ends of sentences included")
    if "mutual_information" in found:
        mutual = round(found["mutual_information"], 2) + 0.0  # no "-0.00"
        active = f"{found['active_units']} of {found['units']} units active"
        print(f"latent      {mutual:.2f} nats of mutual information, of {math.log(n):.2f} at most")
        print(f"            {active} (variance of the mean above {ACTIVE_VARIANCE})")
        print(f"            {found['shuffled_gap']:.2f} nats more with the latent of another sample")
    print(f"likelihood  {found['likelihood']}")
    if found["step"] is not None:
        print(f"weights     of step {found['step']}, chosen on held-out samples")
