"""Tang couplets, character by character: a text VAE, samples at several temperatures, and an interpolation.

usage: python benchmarks/couplets.py --shared DIR --out OUT [--minutes 30] [--seed 0]

Writes OUT/couplets.md: the evaluation, samples of the same codes at several token temperatures, and an interpolation
between two well-known couplets.
"""

import argparse
import os
import subprocess
from pathlib import Path

from experiments import FVAE

from fvae.files import write_text

TEMPERATURES = (0.0, 0.3, 0.5, 0.7, 1.0)
ENDS = ("白日依山盡，黃河入海流。", "海上生明月，天涯共此時。")
MODEL = {
    **{
        f"{part}.{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("embedding", 128), ("hidden", 256))
    },
    "decoder.softmax": "adaptive",
    "decoder.dropout": 0.2,
}


def fvae(*words: str) -> str:
    """Run a command and return what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*FVAE, *words], check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run, source = args.out / "run", str(args.shared / "poems_tang_couplets_train.txt.gz")
    train = {"minutes": args.minutes, "seed": args.seed, "lr": 2e-3, "eval_interval": 500, "accelerator": "cpu"}
    words = ["train", "text_vae", "--data", source, "--data.tokenizer=character", "--out", str(run)]
    words += [f"--model.{k}={v}" for k, v in MODEL.items()] + [f"--train.{k}={v}" for k, v in train.items()]
    print("fvae", *words, flush=True)
    print(fvae(*words, *(["--resume"] if (run / "config.yaml").exists() else [])))
    test = str(args.shared / "poems_tang_couplets_test.txt.gz")
    parts = [f"```\n{fvae('evaluate', str(run), '--data', test, '--samples', '20')}```\n"]
    for t in TEMPERATURES:
        drawn = fvae("sample", str(run), "--n", "6", "--token_temperature", str(t))
        parts.append(f"Token temperature {t:g}:\n\n```\n{drawn}```\n")
    between = fvae("interpolate", str(run), *ENDS, "--steps", "8")
    parts.append(f"From {ENDS[0]} to {ENDS[1]}\n\n```\n{between}```\n")
    write_text(args.out / "couplets.md", "\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
