"""``fvae evaluate``: bounds on the negative log-likelihood, and what the latent says of the data."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from fvae.cli.parser import Parser, at_least, path
from fvae.cli.progress import with_progress
from fvae.cli.run_data import data_of, devices, load_model, need_columns, say, say_trivial, seeded
from fvae.data import Samples, TypedTable
from fvae.errors import InputError
from fvae.files import need_file, write_text
from fvae.metrics import Bounds, bounds, has_gaussian_posterior, latent_information, nats_by_column, summary, verdict
from fvae.metrics.latent import ACTIVE_VARIANCE
from fvae.metrics.tables import table_quality
from fvae.model import LatentModel

TIME_LIMIT = 100  # seconds for the bounds, after which no batch is begun; the latent's figures take as long again
FITTED = 50  # samples at least, and ten a column, to which a trivial model is fitted; uniform bins need none
LATENT_SAMPLES = 10_000  # at most, since mutual information takes the square of their number
LATENT_VALUES = 10_000_000  # of their codes together, at most


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_data("the held-out part; all of another source without splits")
    add_scoring(parser)
    n_help = f"how many samples to evaluate (default: as many as {TIME_LIMIT} seconds allow)"
    parser.add_argument("--n", type=at_least(1), metavar="N", help=n_help)
    q_help = "tables: compare drawn rows with the held-out and the training ones (needs scikit-learn)"
    parser.add_argument("--quality", action="store_true", help=q_help)
    t_help = "with --quality, a categorical column to be learned from drawn rows"
    parser.add_argument("--target", metavar="COLUMN", help=t_help)
    parser.add_argument("--json", type=path, metavar="FILE", help="write the figures there")
    args = parser.parse(argv)
    if args["json"]:
        if args["json"].suffix not in ("", ".json"):
            raise InputError(f"{args['json']}: expected a name that ends in .json", "json")
        need_file(args["json"], "json")
    model = load_model(args["run"], args["device"])
    if args["target"] and not args["quality"]:
        raise InputError("expected --quality beside it, found none", "target")
    if args["quality"]:
        check_target(need_columns(model, args["run"], "quality"), args["target"])
    samples = draws(model, args["samples"])
    whole, what = data_of(model, args)
    order = np.random.default_rng(0).permutation(len(whole))[: args["n"]]
    progress = partial(with_progress, "evaluating") if args["n"] else within_limit
    scores = bounds(model, whole.take(order), samples, args["seed"], args["batch_size"], progress)
    order = order[: len(scores.loss)]
    data, scores = whole.take(np.sort(order)), Bounds(*(a[np.argsort(order)] for a in scores))
    if len(data) < len(whole):
        noun = data.modality.noun
        say([f"evaluated {len(data)} of {len(whole)} {noun}, drawn at random; --n {len(whole)} evaluates all"])
    say_infinite(data, scores.loss)
    found = {**summary(model, scores, samples), "left_out": len(whole) - len(data)}
    found = {"run": str(args["run"]), "recipe": model.config["recipe"], "data": what, "seed": args["seed"], **found}
    found["step"] = model.step
    found |= model.modality.figures(data, found)
    known = data.spread(min(LATENT_SAMPLES, LATENT_VALUES // max(1, math.prod(model.latent))))
    if has_gaussian_posterior(model, data) and len(known) > 1:
        information = latent_information(model, known, args["seed"], args["batch_size"] or 64)
        found |= information._asdict() | {"verdict": verdict(information, len(known))}
    if columns := nats_by_column(model, data, args["seed"]):
        found["nats_by_column"] = columns
    if args["quality"]:
        found["quality"] = quality(model, data, args)
    found["skipped"] = data.skipped
    if args["json"]:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        write_text(args["json"], json.dumps(finite, indent=2) + "\n")
    print_report(model, found, len(data), len(known))
    needed = 1 if model.modality.bits else max(FITTED, 10 * (model.modality.dims or 0))
    if "data.source" not in args and len(data) >= needed:
        say_trivial(model, found[model.modality.unit.key], data, data, args["run"], model.step)


def add_scoring(parser: Parser) -> None:
    """Flags of how bounds are computed."""
    parser.add_samples()
    parser.add_seed()
    size_help = "samples in a batch (default: 64, more of tables and small images)"
    parser.add_argument("--batch_size", type=at_least(1), metavar="N", help=size_help)
    parser.add_argument("--device", choices=devices(), help=f"where to compute (default: {devices()[-1]})")


def within_limit(batches: Iterable[Any], total: int) -> Iterator[Any]:
    """The batches that can be begun within the time limit, with their progress."""
    began = time.monotonic()
    for batch in with_progress(f"evaluating for at most {TIME_LIMIT} s", batches, total):
        yield batch
        if time.monotonic() - began > TIME_LIMIT:
            return


def check_target(table: TypedTable, target: str | None) -> None:
    """Refuse a target that is no categorical column; raises ``InputError``."""
    levels = [column.name for column in table.schema.columns if len(column.levels) > 1]
    if target is not None and target not in levels:
        raise InputError(f"expected a categorical column ({', '.join(levels[:10])}), found {target}", "target")


def quality(model: LatentModel, data: Samples, args: dict[str, Any]) -> dict[str, Any]:
    """Figures of as many drawn rows as there are to evaluate, against these and the training rows."""
    table = need_columns(model, args["run"])
    train, _ = data_of(model, {"run": args["run"], "split": "train"})
    drawn = table.sample(model, max(len(data), 1000), seeded(args["seed"]))
    return table_quality(table.schema, drawn, train.values, data.values, args["target"], args["seed"])._asdict()


def say_quality(found: dict[str, Any]) -> None:
    """Figures of drawn rows, with what each is for rows of the data."""
    worst = sorted(found["marginals"], key=found["marginals"].__getitem__, reverse=True)[:3]
    listed = ", ".join(f"{name} {found['marginals'][name]:.3f}" for name in worst)
    print(f"drawn rows  {found['failure_to_tell']:.3f}  a boosted classifier's failure to tell them (1: it can't)")
    print(f"            {listed}: largest total variations of columns")
    print(f"            {found['pairs']:.3f}  mean total variation of pairs of columns")
    print(
        f"            {found['closest_share']:.1%} are nearer to a training row than to a held-out one (copies: 100 %)"
    )
    if found["accuracy_of_drawn"] is not None:
        drawn, real = found["accuracy_of_drawn"], found["accuracy_of_real"]
        print(f"            {drawn:.1%} accuracy of a classifier trained on them, {real:.1%} on real rows")


def say_columns(model: LatentModel, nats: dict[str, float]) -> None:
    """The nats of each column given the latent, the largest first, and whether they are of densities."""
    schema = model.modality.recipe_shape
    kinds = {c.name: "density" if c.type == "continuous" else "probability" for c in schema.columns}
    width = max(map(len, nats))
    print("columns     nats each, given the latent")
    for name in sorted(nats, key=nats.__getitem__, reverse=True):
        print(f"            {name:{width}}  {nats[name]:8.3f}  {kinds[name]}")


def say_infinite(data: Samples, nats: np.ndarray) -> np.ndarray:
    """Count and name infinite bounds; returns which samples averages are over: the others, where there are any."""
    kept = np.isfinite(nats)
    if not kept.all():
        first, n, noun = data.names[int(np.argmin(kept))], len(nats), data.modality.noun
        say([f"{n - kept.sum()} of {n} {noun} have an infinite score, the first {first}; averages are over the others"])
    return kept if kept.any() else ~kept


def draws(model: LatentModel, samples: int | None) -> int:
    """How many u to draw for each sample: 1 where nothing is drawn."""
    samples = model.modality.default_draws if samples is None else samples
    return samples if math.prod(model.noise_shape) else 1


def print_report(model: LatentModel, found: dict[str, Any], n: int, known: int) -> None:
    """Figures of n samples, and of ``known`` for those of the latent."""
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
        if found["second_rate"]:
            print(
                f"rate        {found['second_rate']:.2f} nats of it for the decoder's own latent; the latent below is z"
            )
        print(f"latent      {mutual:.2f} nats of mutual information, of {math.log(known):.2f} at most")
        print(f"            {active} (variance of the mean above {ACTIVE_VARIANCE})")
        print(f"            {found['shuffled_gap']:.2f} nats more with the latent of another sample")
        floor = f"; the rate is at least {found['rate_floor']:.2f} nats by its settings" if found["rate_floor"] else ""
        print(f"            {found['marginal_kl']:.2f} nats at most of marginal KL from the prior{floor}")
        print(
            f"            codes of mean {found['code_mean']:.2f}, variance {found['code_variance']:.2f} (prior: 0, 1)"
        )
        print(f"            {found['verdict']}")
    print(f"likelihood  {found['likelihood']}")
    if "nats_by_column" in found:
        say_columns(model, found["nats_by_column"])
    if "quality" in found:
        say_quality(found["quality"])
    if found["step"] is not None:
        print(f"weights     of step {found['step']}, chosen on held-out samples")
