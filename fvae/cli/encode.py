"""``fvae encode``: data to codes."""

import numpy as np
import torch

from fvae.cli.parser import Parser
from fvae.cli.run_data import data_of, load_model, need_latent
from fvae.data import Samples
from fvae.errors import InputError
from fvae.files import need_file, write_arrays
from fvae.metrics import batches
from fvae.model import LatentModel


def run(parser: Parser, argv: list[str]) -> None:
    """Write an .npz with ``codes`` (N, D), ``names`` and, where known, ``labels``."""
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
    arrays = {"codes": encoded(model, samples)[0].cpu().numpy(), "names": np.array(samples.names)}
    write_arrays(out, **arrays, **({} if samples.labels is None else {"labels": samples.labels}))
    print(f"{out}: {len(samples)} codes of {arrays['codes'].shape[1]} values, of {what}")


@torch.no_grad()
def encoded(model: LatentModel, samples: Samples, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The codes (N, D) of samples, and their labels where the model takes them."""
    pairs = [(model.encode(x, y), y) for x, y in batches(model, samples, batch_size)]
    labels = [y for _, y in pairs if y is not None]
    return torch.cat([e for e, _ in pairs]), torch.cat(labels) if labels else None
