"""``fvae encode``: data to codes."""

import numpy as np

from fvae.cli.parser import Parser
from fvae.cli.run_data import data_of, digest_of, load_model, need_latent
from fvae.data import Samples
from fvae.data.files import argument_named, local_path, read_npz
from fvae.errors import InputError
from fvae.files import need_file, write_arrays
from fvae.metrics import check_labels, encode
from fvae.model import LatentModel


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
    samples, what = exact_images(model, args.get("data.source", "")) or data_of(model, args, whole=True)
    codes = encode(model, samples)[0].cpu().numpy()
    labels = {} if samples.labels is None else {"labels": samples.labels}
    write_arrays(out, codes=codes, names=np.array(samples.names), model=np.array(digest_of(model)), **labels)
    print(f"{out}: {len(codes)} codes of {codes.shape[1]} values, of {what}")


def exact_images(model: LatentModel, source: str) -> tuple[Samples, str] | None:
    """Unrounded images of an .npz, as fvae decode --exact writes them; None for other data. Raises ``InputError``."""
    path = local_path(source)
    if not model.modality.bits or path.suffix.lower() != ".npz" or not path.is_file():
        return None
    with argument_named("source", source):
        values, labels = read_npz(path, "images", "labels")
        if values is None or values.dtype.kind != "f":
            return None
        model.modality.check_shape(values)
        samples = Samples(values.astype(np.float32), [f"{path.name}[{i}]" for i in range(len(values))], labels)
        check_labels(model, samples)
    return samples, f"{source} (unrounded)"
