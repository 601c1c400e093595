"""``fvae score``: one bound a sample, as CSV of name, nats and, of images, bits/dim."""

from functools import partial

from fvae.cli.evaluate import draws
from fvae.cli.parser import Parser
from fvae.cli.progress import with_progress
from fvae.cli.run_data import data_of, load_model
from fvae.errors import InputError
from fvae.files import need_file, write_csv
from fvae.metrics import bounds


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_data("all of --data; without it, the run's held-out part")
    parser.add_samples()
    parser.add_seed()
    parser.add_out("a .csv")
    args = parser.parse(argv)
    out = args["out"]
    if out.suffix.lower() != ".csv":
        raise InputError(f"{out}: expected a name that ends in .csv", "out")
    need_file(out)
    model = load_model(args["run"])
    samples, unit = draws(model, args["samples"]), model.modality.unit
    data, what = data_of(model, args, whole=True)
    found = bounds(model, data, samples, args["seed"], progress=partial(with_progress, "scoring"))
    nats = found.tighter if samples > 1 else found.loss
    columns = {"nats": [f"{v:.4f}" for v in nats], unit.key: [f"{unit.from_nats(v):.6f}" for v in nats]}
    write_csv(out, ["name", *columns], zip(data.names, *columns.values(), strict=True))
    average = f"{unit.from_nats(float(nats.mean())):.4f} {unit.name} on average"
    print(f"{out}: {len(data)} {data.modality.noun} of {what}, {average}")
