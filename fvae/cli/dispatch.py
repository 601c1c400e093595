"""``fvae COMMAND``: which commands there are, and how they end.

A user's mistake is one line on standard error and exit status 2; a fault of the machine one line and status 1. A
command's module is imported when it runs, so that ``fvae --help`` does not wait for torch.
"""

import errno
import io
import os
import re
import sys
import warnings
from importlib import import_module
from typing import Any

from fvae import __version__
from fvae.cli.memory import limited_memory
from fvae.cli.parser import Parser, with_new_flags
from fvae.errors import InputError, MachineError, did_you_mean, one_line

COMMANDS = {
    "recipes": "list what can be trained",
    "train": "train a recipe on data into a run folder, or resume one",
    "evaluate": "bounds in bits/dim or nats on held-out data; perplexity of text",
    "sample": "draw images, rows of a table, or sentences",
    "reconstruct": "images or sentences beside what the model makes of their codes",
    "interpolate": "between two images or sentences (a row), or four (a square)",
    "steer": "images moved along the direction between two sets of images",
    "encode": "data to codes, an .npz",
    "decode": "codes back to data",
    "impute": "the gaps of a table, drawn given what is there",
    "score": "a bound on the negative log-likelihood of each sample, as CSV",
    "compare": "curves, table and samples of several runs side by side",
    "export": "a run's model alone, into a folder to send",
    "convert": "a run folder of fvae 0.1 to one of this version",
    "demo": "train a small f-VAE on 8x8 digits, and draw what it has learned",
}
HELP = """usage: fvae COMMAND [arguments]

Train and use likelihood-based generative models: VAEs, normalizing flows, and f-VAEs.

{}

fvae COMMAND --help lists a command's arguments, fvae train RECIPE --help every setting with its default.
"""

OUT_OF_MEMORY = "out of memory; a smaller model, smaller images or a smaller --train.batch_size need less"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = Parser("")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may not be UTF-8
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(HELP.format("\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())), end="")
            return 0
        if argv[0] == "--version":
            print(f"fvae {__version__}")
            return 0
        command, *rest = argv
        if command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            raise InputError(f"{command}: no such command; {near}the commands are {', '.join(COMMANDS)}")
        parser = Parser(command, COMMANDS[command])
        run_command(parser, command, with_new_flags(rest))
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # of the parser, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except InputError as error:
        flag = parser.flag_of(error.argument)
        return fail(f"{flag}: {error.message}" if flag else error, 2)
    except MachineError as error:
        return fail(error, 1)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return fail(f"{OUT_OF_MEMORY} ({one_line(error)})", 1)
        if error.filename is None:  # standard output: a full disk, or the reader of a pipe went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        return fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("memory|bad_alloc|new thread", str(error)):
            raise
        return fail(f"{OUT_OF_MEMORY} ({one_line(error)})", 1)
    except KeyboardInterrupt as error:
        return fail(str(error) or "interrupted", 130)


def run_command(parser: Parser, command: str, argv: list[str]) -> None:
    """Import a command's module and run it; what the library warns of is a line on standard error."""
    module: Any = import_module(f"fvae.cli.{command}")
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="fvae")
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        module.run(parser, argv)


def fail(error: Any, status: int) -> int:
    print(f"fvae: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return status
