"""``fvae decode``: codes back to data."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import InstanceOf

from fvae.cli.parser import Parser, path, temperature
from fvae.cli.run_data import digest_of, load_model, need_latent, say, seeded
from fvae.data import Modality, Samples
from fvae.data.files import argument_named
from fvae.documents import Document, Format, read_document
from fvae.errors import InputError
from fvae.files import write_arrays
from fvae.metrics import check_labels


class Codes(Document):
    """What fvae encode writes."""

    codes: InstanceOf[np.ndarray]
    labels: InstanceOf[np.ndarray] | None = None
    names: InstanceOf[np.ndarray] | None = None
    model: InstanceOf[np.ndarray] | None = None


def run(parser: Parser, argv: list[str]) -> None:
    """Codes of an .npz to images, rows or sentences, by the labels beside them where the model takes labels."""
    parser.add_run()
    parser.add_argument("codes", type=path, metavar="CODES", help="an .npz of fvae encode")
    parser.add_out("a folder, an .npz or a picture; a .csv or .npz for tables; a .txt for text")
    t_help = "standard deviation of a decoder's noise, of --seed (default: 0, its mean)"
    parser.add_argument("--decoder_temperature", type=temperature, default=0.0, metavar="T", help=t_help)
    parser.add_seed()
    exact_help = "write unrounded values, float32 (N, C, H, W) in bins, into an .npz, which encode takes back"
    parser.add_argument("--exact", action="store_true", help=exact_help)
    args = parser.parse(argv)
    if args["exact"] and args["out"].suffix.lower() != ".npz":
        raise InputError(f"{args['out']}: expected a name that ends in .npz with --exact", "out")
    codes, out = args["codes"], args["out"]
    model = load_model(args["run"])
    need_latent(model, args["run"])
    model.modality.check_out(out)
    if args["exact"] and model.modality.dims is None:
        raise InputError("expected a run on images or tables, found one on text, which has no unrounded form", "exact")
    missing = "no such file; expected an .npz, as fvae encode writes it"
    content = read_document(codes, Codes, Format("NPZ", parse_npz, math.inf), missing)
    e, labels, dims = content.codes, content.labels, model.code_values
    with argument_named("", str(codes)):
        if e.ndim != 2 or e.shape[1] != dims or e.dtype.kind != "f" or not len(e):
            raise InputError(f"expected codes (N, {dims}) of floats for {args['run']}, found {e.shape} of {e.dtype}")
        with np.errstate(over="ignore"):
            e = e.astype(np.float32)
        if not np.isfinite(e).all():
            raise InputError("expected finite codes of 32 bits, found NaN, infinity or larger ones")
        if model.classes and (labels is None or labels.shape != (len(e),) or labels.dtype.kind not in "iu"):
            found = "none" if labels is None else f"{labels.dtype} {labels.shape}"
            raise InputError(f"expected `labels` ({len(e)},), with which {args['run']} was trained, found {found}")
        if content.names is not None and content.names.shape != (len(e),):
            raise InputError(f"expected `names` ({len(e)},), found {content.names.shape}")
        check_labels(model, Samples(e, [], labels))
    if content.model is not None and str(content.model) != digest_of(model):
        say([f"warning: {codes}: codes of another model than {args['run']}, or of other weights"])
    device = model.like.device
    y = torch.from_numpy(labels.astype(np.int64)).to(device) if model.classes and labels is not None else None
    labels = labels if model.classes else None
    noise: dict[str, Any] = {"decoder_temperature": args["decoder_temperature"], "generator": seeded(args["seed"])}
    noise = noise if args["decoder_temperature"] else {}
    if noise and model.modality.dims is None:
        raise InputError("expected a run on images or tables, found one on text", "decoder_temperature")
    if args["exact"]:
        back = Modality(model.shape).decode(model, torch.from_numpy(e).to(device), y, **noise)
        write_arrays(out, **{model.modality.array: back}, **({} if labels is None else {"labels": labels}))
    else:
        back = model.modality.decode(model, torch.from_numpy(e).to(device), y, **noise)
        model.modality.write(back, out, labels)
    print(f"{out}: {len(back)} {model.modality.noun}")


def parse_npz(path: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError("not a zip archive")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
