"""``fvae compare``: curves, table and samples of several runs side by side."""

from fvae.cli.parser import Parser, at_least, path
from fvae.cli.run_data import devices
from fvae.files import need_folder, need_no_run
from fvae.runs.compare import compare


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--n", type=at_least(1, 1000), default=10, metavar="N", help="samples a run (default: 10)")
    parser.add_seed()
    parser.add_out("a folder")
    args = parser.parse(argv)
    need_folder(args["out"])
    need_no_run(args["out"], "the comparison")
    written = compare(args["runs"], args["out"], args["n"], args["seed"], devices()[-1])
    print(f"{args['out']}: {', '.join(written)}")
