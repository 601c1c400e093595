"""``fvae impute``: the gaps of a table, drawn given what is there."""

import torch

from fvae.cli.parser import Parser, at_least
from fvae.cli.progress import with_progress
from fvae.cli.run_data import data_of, load_model, need_columns, seeded
from fvae.files import write_csv

ROWS = 1000  # at once


def run(parser: Parser, argv: list[str]) -> None:
    """Rows of a table with each missing cell drawn from p(missing|observed), by importance resampling."""
    parser.add_run()
    parser.add_data("all of --data; without it, the run's held-out part")
    c_help = "draws of each row, of which one is taken by its weight (default: 32)"
    parser.add_argument("--candidates", type=at_least(1, 10_000), default=32, metavar="N", help=c_help)
    parser.add_seed()
    parser.add_out("a .csv or .npz")
    args = parser.parse(argv)
    model = load_model(args["run"])
    table = need_columns(model, args["run"])
    model.modality.check_out(args["out"])
    data, what = data_of(model, args, whole=True)
    x, generator = torch.from_numpy(data.values).to(model.like.device), seeded(args["seed"])
    y = torch.from_numpy(data.labels).to(x.device) if model.classes and data.labels is not None else None
    starts = range(0, len(x), ROWS)
    parts = [
        model.impute(x[i : i + ROWS], None if y is None else y[i : i + ROWS], args["candidates"], generator)
        for i in with_progress("imputing", starts, len(starts))
    ]
    filled, out, labels = torch.cat(parts).cpu().numpy(), args["out"], data.labels if model.classes else None
    if out.suffix.lower() == ".csv" and data.table is not None:
        columns = table.filled(
            {name: data.table[name].to_pylist() for name in data.table.column_names}, data.values, filled
        )
        rows = zip(*columns.values(), strict=True)
        write_csv(out, list(columns), [["" if cell is None else str(cell) for cell in row] for row in rows])
    else:
        table.write(filled, out, labels)
    print(f"{out}: {int(x.isnan().sum())} missing cells of {len(x)} rows of {what} drawn")
