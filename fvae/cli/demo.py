"""``fvae demo``: the main job from end to end, on digits of 8x8 pixels."""

from pathlib import Path

from fvae.cli import evaluate, interpolate, reconstruct, sample, train
from fvae.cli.parser import Parser, path
from fvae.errors import InputError

TRAINING = (
    "f_vae --data digits --resume --model.bits 4 --model.flow.levels 2 --model.flow.depth 5 --model.flow.width 64 "
    "--train.batch_size 128 --train.lr 3e-3 --train.eval_interval 500"
)


def run(parser: Parser, argv: list[str]) -> None:
    """Train ``f_vae`` on the digits, and write samples, reconstructions and interpolations into the run folder.

    A demo that was stopped continues; one that was finished makes its pictures again.
    """
    out_help = "the run folder (default: runs/demo)"
    parser.add_argument("--out", type=path, default=Path("runs/demo"), metavar="RUN", help=out_help)
    parser.add_argument("--minutes", type=float, default=1.7, metavar="X", help="of training (default: 1.7)")
    args = parser.parse(argv)
    out, minutes = args["out"], args["minutes"]
    if not minutes > 0:
        raise InputError(f"expected a number above 0, found {minutes:g}", "minutes")
    train.run(Parser("train"), [*TRAINING.split(), "--train.minutes", str(minutes), "--out", str(out)])
    for command, name, *more in (
        (evaluate, "metrics.json", "--samples", "10"),
        (sample, "samples.png"),
        (sample, "temperatures.png", "--temperatures", "0,0.5,0.6,0.7,0.8,0.9,1"),
        (reconstruct, "reconstructions.png"),
        (interpolate, "interpolation_2.png", "--corners", "2"),
        (interpolate, "interpolation_4.png", "--corners", "4", "--steps", "7"),
    ):
        flag = "--json" if command is evaluate else "--out"
        command.run(Parser(command.__name__), [str(out), flag, str(out / name), *more])
