"""The command line: parse, call, print and write."""

from fvae.cli.dispatch import main

__all__ = ["main"]
