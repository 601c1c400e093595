"""``fvae sample``: draw from a model."""

import sys

import numpy as np
import torch

from fvae.cli.parser import Parser, add_setting, assignments, at_least, numbers, temperature
from fvae.cli.run_data import label_number, load_model, need_columns
from fvae.data import Generation
from fvae.data.pictures import save_picture, sheet
from fvae.errors import InputError
from fvae.files import write_arrays

CANDIDATES = 128  # draws of a row given some of its columns, of which one is taken by its weight
SWEEP_LENGTH = 10  # images in a row of --temperatures, unless --n says otherwise


@torch.no_grad()
def run(parser: Parser, argv: list[str]) -> None:
    """Draw images (a grid, an .npz, a folder, or one labelled row a temperature), rows of a table, or sentences."""
    parser.add_run()
    n_help = "how many (default: 64; for text 10; 10 a row with --temperatures)"
    parser.add_argument("--n", type=at_least(1, 10**7), metavar="N", help=n_help)
    t_help = "standard deviation of the code (default: 0.8 for images, else 1)"
    parser.add_argument("--temperature", type=temperature, metavar="T", help=t_help)
    d_help = "standard deviation of the decoder's noise (default: 0, its mean; of a flow decoder 0.7)"
    parser.add_argument("--decoder_temperature", type=temperature, metavar="T", help=d_help)
    sweep_help = "images: a labelled row for each, of the same codes"
    parser.add_argument("--temperatures", type=numbers(temperature), metavar="T,T,...", help=sweep_help)
    label_help = "draw this class, by its number or name, where the run was trained with labels"
    parser.add_argument("--label", metavar="K", help=label_help)
    g_help = "tables: draw the other columns given these, as age=40,sex=Female"
    parser.add_argument("--given", type=assignments, action="append", metavar="COLUMN=VALUE,...", help=g_help)
    for name, field in Generation.model_fields.items():
        add_setting(parser, name, field, field.default)
    parser.add_seed()
    out_help = "a picture, an .npz, or a folder of PNGs; a .csv or .npz for tables; a .txt (default: printed) for text"
    parser.add_out(out_help, required=False)
    args = parser.parse(argv)
    run, out = args["run"], args["out"]
    model = load_model(run)
    modality, sweep = model.modality, args["temperatures"]
    if sweep and modality.noun != "images":
        raise InputError(f"expected a run on images, found one on {modality.noun}; use --temperature", "temperatures")
    modality.check_out(out, folder=not sweep)
    options = modality.decode_options(**{name: args[name] for name in Generation.model_fields if name in args})
    if args["decoder_temperature"] is not None:
        if modality.noun == "sentences" or getattr(model.decoder, "draw", None) is None:
            raise InputError(f"{run}: expected a decoder with noise, found none", "decoder_temperature")
        options["decoder_temperature"] = args["decoder_temperature"]
    given = together(args["given"] or [])
    if given:
        need_columns(model, run, "given")
        if args["temperature"] not in (None, 1.0) or model.classes:
            raise InputError("expected no temperature and no labels beside given columns, found some", "given")
    number = None if args["label"] is None else label_number(model, run, args["label"], "label")
    values = sweep or [modality.temperature if args["temperature"] is None else args["temperature"]]
    n = args["n"] or (SWEEP_LENGTH if sweep else modality.default_n)
    generator = torch.Generator().manual_seed(args["seed"])
    if given:
        row = need_columns(model, run, "given").row(given).to(model.like.device)
        drawn = model.impute(row.expand(n, -1), candidates=CANDIDATES, generator=generator)
        modality.write(drawn.cpu().numpy(), out)
        print(out)
        return
    e, y = model.codes(n, generator), model.draw_labels(n, generator)
    y = torch.full_like(y, number) if y is not None and number is not None else y
    state = generator.get_state()
    rows = [modality.decode(model, t * e, y, generator=generator.set_state(state), **options) for t in values]
    labels = None if y is None else y.cpu().numpy()
    if not sweep:
        modality.write(rows[0], out or sys.stdout, labels)
    elif out.suffix.lower() == ".npz":
        arrays = {"images": np.stack(rows), "temperatures": np.array(values)}
        write_arrays(out, **arrays, **({} if labels is None else {"labels": labels}))
    else:
        save_picture(sheet(rows, [f"T = {t:g}" for t in values]), out)
    if out is not None:
        print(out)


def together(assigned: list[dict[str, str]]) -> dict[str, str]:
    """The values of one or several --given; raises ``InputError`` for a column that has two."""
    found: dict[str, str] = {}
    for values in assigned:
        if twice := sorted(found.keys() & values.keys()):
            raise InputError(f"{twice[0]}: expected one value, found {found[twice[0]]} and {values[twice[0]]}", "given")
        found |= values
    return found
