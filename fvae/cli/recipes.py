"""``fvae recipes``."""

from fvae.cli.parser import Parser
from fvae.recipes import RECIPES


def run(parser: Parser, argv: list[str]) -> None:
    parser.parse(argv)
    for name, make in RECIPES.items():
        print(f"{name:13}  {(make.__doc__ or '').splitlines()[0]}")
