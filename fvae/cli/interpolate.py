"""``fvae interpolate``: between two or four samples."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fvae.cli.parser import Parser, at_least, temperature
from fvae.cli.reconstruct import OUT_HELP
from fvae.cli.run_data import data_of, decode_alike, label_number, load_model, need_visible, say, with_labels
from fvae.data import Samples
from fvae.data.files import argument_named
from fvae.errors import InputError
from fvae.interpolation import grid, label_weights
from fvae.metrics import encode
from fvae.model import LatentModel


def run(parser: Parser, argv: list[str]) -> None:
    """The straight line between the codes of two samples, or the square between those of four, decoded.

    Of a model with labels the way leads from label to label too.
    """
    parser.add_run()
    ends_help = "2 or 4 images or sentences (default: held-out ones)"
    parser.add_argument("ends", nargs="*", metavar="END", help=ends_help)
    parser.add_data("the held-out part; all of another source without splits")
    corners_help = "how many to take where none are named (default: 4; for text 2)"
    parser.add_argument("--corners", type=int, choices=[2, 4], help=corners_help)
    steps_help = "images or sentences from one end to the other (default: 9)"
    parser.add_argument("--steps", type=at_least(2, 1000), default=9, metavar="N", help=steps_help)
    parser.add_argument("--labels", metavar="K,K,...", help="of the named ends, where the run was trained with labels")
    drawn_help = "between codes that the model draws, by --seed and --temperature, instead of codes of data"
    parser.add_argument("--drawn", action="store_true", help=drawn_help)
    parser.add_seed()
    t_help = "standard deviation of codes that are drawn (default: 0.8 for images, else 1)"
    parser.add_argument("--temperature", type=temperature, metavar="T", help=t_help)
    parser.add_out(OUT_HELP, required=False)
    parser.flags["ends"] = "END"
    args = parser.parse(argv)
    run, out, steps = args["run"], args["out"], args["steps"]
    model = load_model(run)
    need_visible(model, run, out)
    if args["temperature"] is not None and not args["drawn"]:
        raise InputError("expected --drawn, whose codes it is of, found none", "temperature")
    if args["drawn"]:
        e, y = drawn_ends(model, args)
    else:
        e, y = encode(model, named_ends(model, args) if args["ends"] else held_out_ends(model, args))
    weights = label_weights(model, y, steps)
    rows = [
        decode_alike(model, row, None if weights is None else weights[i], args["seed"])
        for i, row in enumerate(grid(e, steps))
    ]
    model.modality.write_sheet(rows, None, out or sys.stdout)
    if out is not None:
        print(out)


def drawn_ends(model: LatentModel, args: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Codes that are drawn, with labels where the model takes them; raises ``InputError`` for ends that are named."""
    if args["ends"] or args["labels"] is not None:
        raise InputError("expected no ends and no labels to be named, since both are drawn", "drawn")
    generator = torch.Generator().manual_seed(args["seed"])
    t = model.modality.temperature if args["temperature"] is None else args["temperature"]
    n = args["corners"] or model.modality.default_corners
    return t * model.codes(n, generator), model.draw_labels(n, generator)


def named_ends(model: LatentModel, args: dict[str, Any]) -> Samples:
    """The images or sentences that are given, with their labels; raises ``InputError``."""
    ends, noun, labels = args["ends"], model.modality.noun, None
    if len(ends) not in (2, 4):
        raise InputError(f"expected 2 images or sentences (a row) or 4 (a square), found {len(ends)}", "ends")
    if args["labels"] is not None:
        words = args["labels"].split(",")
        if len(words) != len(ends):
            raise InputError(f"expected one for each of {len(ends)} {noun}, found {len(words)}", "labels")
        labels = np.array([label_number(model, args["run"], word, "labels") for word in words])
    with argument_named("ends"):
        samples = replace(model.modality.read(ends), labels=labels)
    with argument_named("labels"):
        samples = with_labels(model, samples)
    say(samples.modality.notes(samples, f"these {noun}"))
    return samples


def held_out_ends(model: LatentModel, args: dict[str, Any]) -> Samples:
    """As many samples of the data as the ends that are asked for; raises ``InputError`` for fewer."""
    if args["labels"] is not None:
        raise InputError(
            "expected images to be named, whose labels these are; held-out images have their own", "labels"
        )
    samples, what = data_of(model, args)
    corners, noun = args["corners"] or model.modality.default_corners, model.modality.noun
    if len(samples) < corners:
        text = f"expected {corners} {noun} or more to interpolate between, found {len(samples)} of {what}"
        raise InputError(f"{text}; name {corners} {noun}, or --split all")
    return samples.spread(corners)
