"""The command line: names, flags and their help. What a command does is in ``fvae.commands``, imported when one runs.

A user's mistake is one line on standard error and exit status 2; a fault of the machine one line and status 1.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from fvae import __version__
from fvae.errors import MachineError, UserError
from fvae.settings import DataSettings, TrainSettings

COMMANDS = {
    "recipes": "what can be trained, one line each",
    "train": "train a recipe on data into a run folder, or --resume one",
    "evaluate": "bits/dim (or nats), rate and distortion of a run, and a tighter bound; of text perplexity",
    "sample": "draw images, or one labelled row a temperature; rows of numbers; or sentences",
    "reconstruct": "images, or sentences, beside what the model makes of their codes",
    "interpolate": "between two images, or sentences, (a row) or four (a square)",
    "encode": "data to codes, an .npz",
    "decode": "codes back to data",
    "score": "a bound on the negative log-likelihood of each file, row or sentence, as CSV",
    "compare": "curves, table and samples of several runs side by side",
    "convert": "a run folder of fvae 0.1 as one of today",
    "demo": "train a small f-VAE on the digits that ship with scikit-learn, and look at it",
}
HELP = """usage: fvae COMMAND [arguments]

Train and use likelihood-based generative models: VAEs, flows, and f-VAEs.

{}

fvae COMMAND --help says what a command takes, fvae train RECIPE --help every setting with its default.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(HELP.format("\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())), end="")
            return 0
        if argv[0] == "--version":
            print(f"fvae {__version__}")
            return 0
        if argv[0] not in COMMANDS:
            raise UserError(f"{argv[0]}: no such command; {meant(argv[0], COMMANDS)}known are {', '.join(COMMANDS)}")
        run_command(argv[0], argv[1:])
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # of the parser, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except UserError as error:
        return fail(error, 2)
    except (MachineError, MemoryError) as error:
        return fail(error, 1)
    except OSError as error:
        if error.filename is None:  # standard output: a full disk, or the reader of a pipe went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1
        return fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return fail(f"out of memory; a smaller model or --train.batch_size needs less ({error!s:.200})", 1)
    except KeyboardInterrupt as error:
        return fail(str(error) or "interrupted", 130)


def fail(error: Any, status: int) -> int:
    print(f"fvae: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
    return status


def run_command(command: str, argv: list[str]) -> None:
    # `--data SRC` is short for `--data.source SRC`, whose siblings are --data.size and so on.
    argv = [("--data.source" + a[6:]) if a == "--data" or a.startswith("--data=") else a for a in argv]
    if command == "train":
        return train(argv)
    parser = make_parser(command)
    for add in ARGUMENTS[command]:
        add(parser)
    args = parse(parser, argv)
    values = {name: value for name, value in vars(args).items() if name not in ("data", "help")}
    if "data" in args:
        values["data"] = DataSettings(**vars(args.data))
    import fvae.commands

    if command == "demo":
        import fvae.demo

        fvae.demo.demo(**values)
    elif command == "convert":
        from fvae.convert import convert

        convert(**values)
    else:
        getattr(fvae.commands, command)(**values)


def make_parser(command: str, text: str = "") -> Any:
    from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

    class Plain(DefaultHelpFormatter):
        """Types and defaults without what the flag's line, or the reader, knows already."""

        def _expand_help(self, action: Any) -> str:
            text = super()._expand_help(action)
            text = re.sub(r"(required|type: (<.*?>|Literal\[.*?\]))(, |(?=\)))", "", text.replace(" | null", ""))
            return re.sub(r",? ?default: (null)?(?=\))|type: (?=\w+)", "", text).replace(" ()", "")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(
        prog=f"fvae {command}",
        description=text or COMMANDS[command][0].upper() + COMMANDS[command][1:] + ".",
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=Plain,
        version=None,
    )


def parse(parser: Any, argv: list[str], configs: list[Path] | None = None) -> Any:
    """Parsed arguments; raises ``UserError`` with the parser's complaint, said so that its reader can mend it."""
    from jsonargparse import ArgumentError

    for action in parser._actions:  # the groups' own flags, to which jsonargparse gives a text for all programs
        if action.dest in ("model", "train"):
            action.help, action.metavar = "a YAML file of these settings", "FILE.yaml"
        elif action.dest == "data":
            action.help, action.metavar = "short for --data.source", "SRC"
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise UserError(mistake(" ".join(str(error).split()), parser, argv, configs or [])) from None


def mistake(text: str, parser: Any, argv: list[str], configs: list[Path]) -> str:
    """The parser's complaint by the flag, or the name in the settings file, that is to blame."""
    from fvae.runs import complaint

    command, settings = parser.prog.split()[1], list(parser.get_defaults().keys())
    files = f"{', '.join(map(str, configs))}: "
    if found := re.match(r"unrecognized arguments: ([^ =]*)", text):
        if not found[1].startswith("-"):
            return f"{found[1]}: one argument too many; fvae {command} --help says which there are"
        given = found[1].replace("--data.source", "--data")
        flags = [name for action in parser._actions for name in action.option_strings]
        near = meant(given, [name.replace("--data.source", "--data") for name in flags])
        return f"{given}: no such flag of fvae {command}; {near}--help lists them"
    if found := re.match(r"the following arguments are required: (.*)", text):
        names = [n.upper() if n in ("run", "runs", "codes") else f"--{n}" for n in found[1].split(", ")]
        return f"{command}: expected {' and '.join(names)}; fvae {command} --help says more"
    if found := re.match(r"(?:Group '(.*)' does not accept o|O)ption '(.*?)'(?: is not accepted)?$", text):
        name = ".".join(filter(None, found.groups()))
        return f"{files}{name}: no such setting; {meant(name, settings)}fvae train RECIPE --help lists them"
    if found := re.match(r"argument (\S+): (.*)", text):
        said = found[2].replace("expected one argument", "expected a value").replace("invalid path value", "no path")
        return f"{found[1].replace('--data.source', '--data')}: {said}"
    if found := re.match(r'Parser key "(\w+)": Unable to load config (.*?) - ', text):
        return f"--{found[1]}: expected a YAML file, or settings one by one as --{found[1]}.NAME; found {found[2]}"
    name, text = complaint(text)
    if not name:
        return f"{command}: {text}"
    flag = "--json" if name == "out" and command == "evaluate" else f"--{name}"
    return f"{flag}: {text}" if not configs or values_of(argv, flag) else f"{files}{name}: {text}"


def meant(word: str, known: Iterable[str]) -> str:
    """ "did you mean ...? ", where a known word is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}? " if near else ""


def path(text: str) -> Path:
    """The type of a flag that takes a file or folder."""
    if not text:
        raise ValueError("expected a path, found nothing")
    return Path(text)


def flag(*names: str, **options: Any) -> Callable[[Any], Any]:
    return lambda parser: parser.add_argument(*names, **options)


def out(what: str) -> Callable[[Any], Any]:
    return flag("--out", type=path, required=True, metavar="PATH", help=what)


def optional_out(what: str) -> Callable[[Any], Any]:
    return flag("--out", type=path, metavar="PATH", help=what)


def data(parser: Any) -> Any:
    return parser.add_class_arguments(DataSettings, "data", skip={"split", "held_out"})


SPLITS = ["train", "test", "all"]
split = flag("--split", choices=SPLITS, help="default: the held-out part; all of another source without splits")
split_of_all = flag("--split", choices=SPLITS, help="default: all of --data; without it, the run's held-out part")
seed = flag("--seed", type=int, default=0, help="seed of the noise")
samples = flag(
    "--samples", type=int, metavar="K", help="draws of u a sample, for averages and bound (default: 1; of text 500)"
)

SEEN = "a picture; of text a .txt (default: printed)"
run = flag("run", type=path, metavar="RUN", help="a run folder, or one with its two model files")

ARGUMENTS: dict[str, list[Callable[[Any], Any]]] = {
    "recipes": [],
    "evaluate": [
        run,
        data,
        split,
        samples,
        seed,
        flag("--json", dest="out", type=path, metavar="FILE", help="write the figures there"),
    ],
    "sample": [
        run,
        flag("--n", type=int, help="how many (default: 64, of text 10; 10 a row with --temperatures)"),
        flag("--temperature", type=float, help="standard deviation of the code (default: 0.8 for images, else 1)"),
        flag("--temperatures", metavar="T,T,...", help="one labelled row for each, of the same codes"),
        flag(
            "--label", metavar="K", help="draw this class, by its number or name, where the run was trained with labels"
        ),
        flag("--token_temperature", type=float, help="of text: divides the logits, 0 is greedy (default: 1)"),
        flag("--top_p", type=float, help="of text: share of the probability that counts (default: 1)"),
        flag("--beam", type=int, help="of text: the best sentence that a beam of this width finds"),
        seed,
        optional_out(
            "a picture, an .npz, or a folder of PNGs; a .csv or .npz for rows; a .txt (default: printed) for text"
        ),
    ],
    "reconstruct": [
        run,
        data,
        split,
        flag("--n", type=int, default=20, help="images, or sentences"),
        optional_out(SEEN),
    ],
    "interpolate": [
        run,
        flag("ends", type=str, nargs="*", metavar="END", help="2 or 4 images, or sentences (default: held-out ones)"),
        data,
        split,
        flag("--corners", type=int, choices=[2, 4], help="how many to take where none are named (4; of text 2)"),
        flag("--steps", type=int, default=9, help="images, or sentences, from one end to the other"),
        flag("--labels", metavar="K,K,...", help="of those named, where the run was trained with labels"),
        optional_out(SEEN),
    ],
    "encode": [run, data, split_of_all, out("an .npz")],
    "decode": [
        run,
        flag("codes", type=path, metavar="CODES", help="an .npz of fvae encode"),
        out("a folder, an .npz or a picture; a .csv or .npz for rows; a .txt for text"),
    ],
    "score": [run, data, split_of_all, samples, seed, out("a .csv")],
    "compare": [
        flag("runs", type=path, nargs="+", metavar="RUN", help="run folders"),
        flag("--n", type=int, default=10, help="samples a run"),
        seed,
        out("a folder"),
    ],
    "convert": [run, flag("--out", type=path, required=True, metavar="NEW", help="the new run folder")],
    "demo": [
        flag("--out", type=path, default=Path("runs/demo"), metavar="RUN", help="the run folder"),
        flag("--minutes", type=float, default=1.7, help="of training"),
    ],
}


def train(argv: list[str]) -> None:
    """Read the recipe, then every setting of it: from --config, or the run to resume, and from the flags."""

    from fvae.runs import read_yaml

    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else None
    resume = "--resume" in argv
    run = next(reversed(values_of(argv, "--out")), None)
    if resume and run and (Path(run) / "config.yaml").is_file():
        argv = ["--config", str(Path(run) / "config.yaml"), *argv]
    configs = [Path(c) for c in values_of(argv, "--config")]
    named = [(str(config), read_yaml(config).get("recipe")) for config in configs]
    for where, name in [*named, *(("--recipe", name) for name in values_of(argv, "--recipe"))]:
        if recipe and name and name != recipe:
            raise UserError(f"{where}: is of recipe {name}, the command says {recipe}")
        recipe = recipe or name
    if recipe is None and ("-h" in argv or "--help" in argv):
        argv, recipe = ["--help"], "f_vae"
    if recipe is None:
        if resume and run:
            raise UserError(f"--resume: {run} holds no run; name a recipe to begin one")
        raise UserError("train: which recipe? fvae train RECIPE --data SRC --out RUN; fvae recipes lists them")
    from fvae.model_flags import add_model_flags, chosen, with_new_names
    from fvae.recipes import RECIPES

    if recipe not in RECIPES:
        raise UserError(f"{recipe}: no such recipe; {meant(recipe, RECIPES)}known are {', '.join(RECIPES)}")
    make = RECIPES[recipe]
    known = make.settings.model_fields
    argv = with_new_names(recipe, argv, known)
    given = {name: next(reversed(values_of(argv, f"--model.{name}.kind")), "") for name in known}
    kept: dict[str, Any] = {}
    for config in configs:
        kept |= read_yaml(config).get("model") or {}
    parser = make_parser("train RECIPE", (make.__doc__ or "").strip())
    parser.usage = f"fvae train {recipe} --data SRC --out RUN [settings]"
    parser.add_argument("--config", action="config", metavar="FILE.yaml", help="settings of data, model and train")
    parser.add_argument("--recipe", default=recipe, help="as the first argument; a settings file may name it")
    parser.add_argument("--out", type=path, required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run that is there")
    parser.add_class_arguments(DataSettings, "data")
    add_model_flags(parser, known, chosen(known, kept, given))
    parser.add_class_arguments(TrainSettings, "train")
    args = parse(parser, argv, configs)
    if not args.data.source:
        raise UserError("--data: expected a source: digits, a Hugging Face data set, or a path")
    model = args.model.as_dict()
    settings = TrainSettings(**{f.name: args.train[f.name] for f in fields(TrainSettings)})
    from fvae.commands import train as run_training

    run_training(args.recipe, model, DataSettings(**vars(args.data)), settings, args.out, args.resume)


def values_of(argv: list[str], name: str) -> list[str]:
    """The values that a flag is given, before the flags are parsed."""
    found: list[str] = []
    for i, word in enumerate(argv):
        found += argv[i + 1 : i + 2] if word == name else []
        found += [word.removeprefix(name + "=")] if word.startswith(name + "=") else []
    return found


if __name__ == "__main__":
    sys.exit(main())
