"""``fvae steer``: images moved along the direction between two sets of images."""

import sys

from fvae.cli.parser import Parser, numbers, strength
from fvae.cli.reconstruct import OUT_HELP
from fvae.cli.run_data import decode_alike, load_model, need_visible, read_samples, say
from fvae.data.files import argument_named
from fvae.errors import InputError
from fvae.interpolation import direction
from fvae.metrics import encode


def run(parser: Parser, argv: list[str]) -> None:
    """Decode e + s d for each image's code e and strength s, where d leads from one set's mean code to another's."""
    parser.add_run()
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="what to move: images, or sentences")
    parser.add_argument("--away", required=True, metavar="SRC", help="data to lead away from, as for --data")
    parser.add_argument("--towards", required=True, metavar="SRC", help="data to lead towards")
    strengths_help = "multiples of the direction, as in --strengths=-1,0,2 (default: -1,0,1,2)"
    default = [-1.0, 0.0, 1.0, 2.0]
    parser.add_argument("--strengths", type=numbers(strength), default=default, metavar="S,S,...", help=strengths_help)
    parser.add_out(OUT_HELP, required=False)
    parser.flags |= {"images": "IMAGE"}
    args = parser.parse(argv)
    model = load_model(args["run"])
    need_visible(model, args["run"], args["out"])
    if model.classes:
        raise InputError(f"{args['run']}: expected a run without labels, found one of {model.classes} classes")
    sets = []
    for name in ("away", "towards"):
        try:
            sets.append(encode(model, read_samples(model, args["run"], args[name]))[0])
        except InputError as error:
            raise InputError(error.message, name) from None
    with argument_named("images"):
        samples = model.modality.read(args["images"])
    say(samples.modality.notes(samples, "these images"))
    e, d = encode(model, samples)[0], direction(*sets)
    rows = [decode_alike(model, e + s * d) for s in args["strengths"]]
    model.modality.write_sheet(rows, [f"{s:+g}" for s in args["strengths"]], args["out"] or sys.stdout)
    if args["out"] is not None:
        print(f"{args['out']}: {len(e)} {model.modality.noun}, a direction of length {float(d.norm()):.3g}")
