"""``fvae score``: one bound a sample, as CSV of name, nats, of images bits/dim, and of several draws an error."""

from functools import partial

from fvae.cli.evaluate import add_scoring, draws, say_infinite
from fvae.cli.parser import Parser
from fvae.cli.progress import with_progress
from fvae.cli.run_data import data_of, load_model
from fvae.errors import InputError
from fvae.files import need_file, write_csv
from fvae.metrics import bounds


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run()
    parser.add_data("all of --data; without it, the run's held-out part")
    add_scoring(parser)
    parser.add_out("a .csv")
    args = parser.parse(argv)
    out = args["out"]
    if out.suffix.lower() != ".csv":
        raise InputError(f"{out}: expected a name that ends in .csv", "out")
    need_file(out)
    model = load_model(args["run"], args["device"])
    samples, unit = draws(model, args["samples"]), model.modality.unit
    data, what = data_of(model, args, whole=True)
    found = bounds(model, data, samples, args["seed"], args["batch_size"], partial(with_progress, "scoring"))
    nats = found.tighter if samples > 1 else found.loss
    columns = {"nats": nats, unit.key: unit.from_nats(nats)} | ({"nats_error": found.error} if samples > 1 else {})
    texts = [[f"{value:.10g}" for value in column] for column in columns.values()]
    write_csv(out, ["name", *columns], zip(data.names, *texts, strict=True))
    average = f"{unit.from_nats(float(nats[say_infinite(data, nats)].mean())):.4f} {unit.name} on average"
    print(f"{out}: {len(data)} {data.modality.noun} of {what}, {average}")
