"""``fvae sample``: draw from a model."""

import sys
from pathlib import Path

import numpy as np
import torch

from fvae.cli.parser import Parser, at_least, check_seed
from fvae.cli.run_data import check_out, label_number, load_model
from fvae.data import Generation, Text
from fvae.data.pictures import save_picture, sheet
from fvae.errors import InputError
from fvae.files import write_arrays
from fvae.model import LatentModel

SWEEP_LENGTH = 10  # images in a row of --temperatures, unless --n says otherwise


@torch.no_grad()
def run(parser: Parser, argv: list[str]) -> None:
    """Draw images (a grid, an .npz, a folder, or one labelled row a temperature), rows of a table, or sentences."""
    parser.add_run()
    n_help = "how many (default: 64; for text 10; 10 a row with --temperatures)"
    parser.add_argument("--n", type=int, metavar="N", help=n_help)
    t_help = "standard deviation of the code (default: 0.8 for images, else 1)"
    parser.add_argument("--temperature", type=float, metavar="T", help=t_help)
    parser.add_argument("--temperatures", metavar="T,T,...", help="images: a labelled row for each, of the same codes")
    label_help = "draw this class, by its number or name, where the run was trained with labels"
    parser.add_argument("--label", metavar="K", help=label_help)
    text_help = "text: divides the logits, 0 is greedy (default: 1)"
    parser.add_argument("--token_temperature", type=float, metavar="T", help=text_help)
    top_help = "text: share of the probability to draw from (default: 1)"
    parser.add_argument("--top_p", type=float, metavar="P", help=top_help)
    beam_help = "text: the most probable sentence that a beam of this width finds"
    parser.add_argument("--beam", type=int, metavar="W", help=beam_help)
    parser.add_seed()
    out_help = "a picture, an .npz, or a folder of PNGs; a .csv or .npz for tables; a .txt (default: printed) for text"
    parser.add_out(out_help, required=False)
    args = parser.parse(argv)
    run, out = args["run"], args["out"]
    model = load_model(run)
    modality, sweep = model.modality, args["temperatures"] is not None
    if sweep and modality.noun != "images":
        raise InputError(f"expected a run on images, found one on {modality.noun}; use --temperature", "temperatures")
    check_out(model, out, folder=not sweep)
    generation = generation_of(model, run, args["token_temperature"], args["top_p"], args["beam"])
    number = None if args["label"] is None else label_number(model, run, args["label"], "label")
    values = temperatures(args["temperatures"]) if sweep else [args["temperature"]]
    values = [modality.temperature if t is None else t for t in values]
    for t in values:
        at_least("temperatures" if sweep else "temperature", t, 0)
    n = args["n"] if args["n"] is not None else SWEEP_LENGTH if sweep else modality.default_n
    at_least("n", n, 1)
    check_seed(args["seed"])
    generator = torch.Generator().manual_seed(args["seed"])
    e, y = model.codes(n, generator), model.draw_labels(n, generator)
    y = torch.full_like(y, number) if y is not None and number is not None else y
    rows = [modality.decode(model, t * e, y, generation=generation, generator=generator) for t in values]
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


def temperatures(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected numbers with commas between them, found {text}", "temperatures") from None


def generation_of(
    model: LatentModel, run: Path, temperature: float | None, top_p: float | None, beam: int | None
) -> Generation:
    """How sentences are written; refuses arguments of text for other data, and values that can't be meant."""
    values = {"token_temperature": temperature, "top_p": top_p, "beam": beam}
    given = [name for name, value in values.items() if value is not None]
    if given and not isinstance(model.modality, Text):
        raise InputError(f"expected a run on text, found one on {model.modality.noun}", given[0])
    if beam is not None:
        if len(given) > 1:
            raise InputError("expected no --beam with it, which draws nothing", given[0])
        at_least("beam", beam, 1)
        return Generation(beam=beam)
    found = Generation(1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p)
    at_least("token_temperature", found.temperature, 0)
    if not 0 < found.top_p <= 1:
        raise InputError(f"expected a number above 0 and at most 1, found {found.top_p:g}", "top_p")
    return found
