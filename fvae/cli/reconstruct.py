"""``fvae reconstruct``: data beside what the model makes of their codes."""

import sys

from fvae.cli.parser import Parser, at_least
from fvae.cli.run_data import data_of, load_model, need_visible, say, seeded
from fvae.metrics import encode

OUT_HELP = "a picture; for text a .txt (default: printed)"


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_data("the held-out part; all of another source without splits")
    parser.add_argument(
        "--n", type=at_least(1, 100_000), default=20, metavar="N", help="images or sentences (default: 20)"
    )
    parser.add_out(OUT_HELP, required=False)
    args = parser.parse(argv)
    out = args["out"]
    model = load_model(args["run"])
    need_visible(model, args["run"], out)
    modality = model.modality
    if getattr(model.decoder, "exact", False):
        recipe = model.config["recipe"]
        say([f"{args['run']}: a {recipe} reconstructs exactly by construction, which proves nothing of its training"])
    samples, what = data_of(model, args)
    samples = samples.spread(args["n"])
    generator = seeded(0) if model.decoder_temperature else None
    data = modality.to_output(samples.values)
    back = modality.decode(model, *encode(model, samples), generator=generator)
    rows = []
    for i in range(0, len(samples), modality.row_length):
        here = slice(i, i + modality.row_length)
        rows += [data[here], back[here]]
    modality.write_sheet(rows, ["data", "model"] * (len(rows) // 2), out or sys.stdout)
    if out is not None:
        print(f"{out}: {len(samples)} {modality.noun} of {what}, {modality.error(data, back)}")
