"""``fvae interpolate``: between two or four samples."""

import sys
from dataclasses import replace

import numpy as np

from fvae.cli.encode import encoded
from fvae.cli.parser import Parser, at_least
from fvae.cli.reconstruct import OUT_HELP
from fvae.cli.run_data import data_of, label_number, load_model, need_visible, say, with_labels
from fvae.data.files import argument_named
from fvae.errors import InputError
from fvae.interpolation import grid, label_weights


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
    parser.add_argument("--steps", type=int, default=9, metavar="N", help=steps_help)
    parser.add_argument("--labels", metavar="K,K,...", help="of the named ends, where the run was trained with labels")
    parser.add_out(OUT_HELP, required=False)
    parser.flags["ends"] = "END"
    args = parser.parse(argv)
    run, ends, out, steps = args["run"], args["ends"], args["out"], args["steps"]
    at_least("steps", steps, 2)
    if ends and len(ends) not in (2, 4):
        raise InputError(f"expected 2 images or sentences (a row) or 4 (a square), found {len(ends)}", "ends")
    model = load_model(run)
    need_visible(model, run, out)
    modality = model.modality
    if args["labels"] is not None and not ends:
        raise InputError(
            "expected images to be named, whose labels these are; held-out images have their own", "labels"
        )
    if ends:
        words = None if args["labels"] is None else args["labels"].split(",")
        if words is not None and len(words) != len(ends):
            text = f"expected one for each of {len(ends)} {modality.noun}, found {len(words)}"
            raise InputError(text, "labels")
        numbers = None if words is None else np.array([label_number(model, run, word, "labels") for word in words])
        with argument_named("ends"):
            samples = replace(modality.read(ends), labels=numbers)
        say(samples.modality.notes(samples, f"these {modality.noun}"))
        with argument_named("labels"):
            samples = with_labels(model, samples)
    else:
        samples, what = data_of(model, args)
        if len(samples) < (corners := args["corners"] or modality.default_corners):
            text = f"expected {corners} {modality.noun} or more to interpolate between, found {len(samples)} of {what}"
            raise InputError(f"{text}; name {corners} {modality.noun}, or --split all")
        samples = samples.spread(corners)
    e, y = encoded(model, samples)
    weights = label_weights(model, y, steps)
    rows = [
        modality.decode(model, row, None if weights is None else weights[i]) for i, row in enumerate(grid(e, steps))
    ]
    modality.write_sheet(rows, None, out or sys.stdout)
    if out is not None:
        print(out)
