"""``fvae convert``: a run folder of fvae 0.1 to one of this version."""

from fvae.cli.parser import Parser
from fvae.runs.convert import convert
from fvae.runs.model import FORMAT


def run(parser: Parser, argv: list[str]) -> None:
    parser.add_run("a run folder of fvae 0.1")
    parser.add_out("the new run folder")
    args = parser.parse(argv)
    convert(args["run"], args["out"])
    print(f"{args['out']}: format {FORMAT}; training cannot be resumed from it")
