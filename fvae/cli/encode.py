"""``fvae encode``: data to codes."""

import numpy as np

from fvae.cli.parser import Parser
from fvae.cli.run_data import data_of, digest_of, load_model, need_latent
from fvae.errors import InputError
from fvae.files import need_file, write_arrays
from fvae.metrics import encode


def run(parser: Parser, argv: list[str]) -> None:
    """Write an .npz with ``codes`` (N, D), ``names``, a digest of the ``model`` and, where known, ``labels``."""
    parser.add_run()
    parser.add_data("all of --data; without it, the run's held-out part")
    parser.add_out("an .npz")
    args = parser.parse(argv)
    out = args["out"]
    if out.suffix != ".npz":
        raise InputError(f"{out}: expected a name that ends in .npz", "out")
    need_file(out)
    model = load_model(args["run"])
    need_latent(model, args["run"])
    samples, what = data_of(model, args, whole=True)
    codes = encode(model, samples)[0].cpu().numpy()
    labels = {} if samples.labels is None else {"labels": samples.labels}
    write_arrays(out, codes=codes, names=np.array(samples.names), model=np.array(digest_of(model)), **labels)
    print(f"{out}: {len(codes)} codes of {codes.shape[1]} values, of {what}")
