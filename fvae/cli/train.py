"""``fvae train``: a recipe on data into a run folder."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from fvae.cli.memory import keep_freed_memory
from fvae.cli.model_flags import add_model_flags, chosen, merged, old_settings, values_of
from fvae.cli.parser import Parser, table
from fvae.cli.run_data import say_trivial
from fvae.cli.training_log import TrainingLog
from fvae.data import TOKENIZER_FILE, Modality, Samples, Table, Text, Tokenizer, TypedTable, load_data, modality_of
from fvae.data.table import degenerate_columns
from fvae.errors import InputError, did_you_mean
from fvae.files import need_folder
from fvae.recipes import RECIPES, ColumnsDecoder
from fvae.runs.config import config_names, config_path, read_config
from fvae.runs.model import build, read_model_config
from fvae.runs.renamed import MODEL, renamed
from fvae.schema import checked
from fvae.settings import OLD_DATA, OLD_TRAIN, DataSettings, TrainSettings, with_new_names
from fvae.training import fit

HELP = "fvae recipes lists the recipes, fvae train RECIPE --help the settings of its model, too."


def run(parser: Parser, argv: list[str]) -> None:
    """Read the settings, from --config or the run to resume and from the flags; load the data; train."""
    parser.flags |= {"run": "--out", "resume": "--resume"}
    recipe, args, configs, tables = read_arguments(parser, argv)
    data, settings, model_settings = settings_of(recipe, args, configs, tables)
    out, resume = args["out"], args["resume"]
    need_folder(out)
    if not data.source:
        raise InputError("expected a source: digits, a Hugging Face data set, or a path, found none", "source")
    if out.exists() and os.path.exists(data.source) and os.path.samefile(out, data.source):
        raise InputError(f"{out}: holds the data; use another folder", "out")
    make = RECIPES[recipe]
    is_text = modality_of(data.source) is Text
    if is_text != make.takes_text:
        needs = "text needs a text recipe, as text_vae" if is_text else f"{recipe} needs text, a .txt or .txt.gz"
        raise InputError(f"{data.source}: {needs}", "source")
    like = text_of_run(out, data.max_length) if is_text and resume else None
    train = load_data(data, "train", like)
    by_column = isinstance(model_settings.get("decoder"), ColumnsDecoder)
    data, train = typed_as_needed(data, train, make, by_column)
    test = load_data(data, "test", train.modality)
    torch.manual_seed(settings.seed)
    classes = make.settings.model_fields.get("classes")
    if classes and classes.default and "classes" not in model_settings:  # of a recipe that needs them
        if train.labels is None:
            raise InputError(f"{data.source}: expected labels, which {recipe} needs, found none", "source")
        model_settings["classes"] = len(train.modality.classes) or int(train.labels.max()) + 1
    model = make(train.modality.recipe_shape, **model_settings)
    keep_freed_memory()
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        log = TrainingLog(data, out)
        where = {"run": out, "resume": resume, "source": data, "allow_degenerate": data.allow_degenerate}
        rows = fit(model, train, test, **where, settings=settings, progress=False, callbacks=[log])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; fvae train --out {out} --resume continues it") from None
    except Terminated:
        print(f"fvae: terminated; fvae train --out {out} --resume continues it", file=sys.stderr)
        raise SystemExit(143) from None  # as of a program that takes no notice of the signal
    finally:
        signal.signal(signal.SIGTERM, before)
    if rank_zero_only.rank == 0:
        unit, last = model.modality.unit, rows[-1]
        best = f"best held-out {last[f'best_{unit.key}']:.4f} {unit.name} at step {last['best_step']}"
        print(f"{out}: step {last['step']}, {best}")
        say_trivial(model, last[f"best_{unit.key}"], train, test, out, last["step"], last["best_step"])


def typed_as_needed(data: DataSettings, train: Samples, make: Any, by_column: bool) -> tuple[DataSettings, Samples]:
    """A table, by ``types`` auto, as a recipe takes it: by a schema if there is need, or the decoder is ``by_column``.

    A recipe without such a decoder takes numbers alone.
    """
    typed = isinstance(train.modality, TypedTable)
    if data.types != "auto" or not isinstance(train.modality, Table) or typed == make.takes_schema:
        return data, train
    if not typed and not by_column and (data.allow_degenerate or not degenerate_columns(train)):
        return data, train
    data = data.model_copy(update={"types": "numbers" if typed else "detect"})
    return data, load_data(data, "train")


class Terminated(Exception):
    """SIGTERM was received."""


def terminate(*_: Any) -> None:
    raise Terminated


# Settings


def read_arguments(parser: Parser, argv: list[str]) -> tuple[str, dict[str, Any], list[Path], dict[str, Any]]:
    """The recipe, the arguments that were given, the settings files, and the tables of these; raises ``InputError``."""
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else None
    resume, out = "--resume" in argv, next(reversed(values_of(argv, "--out")), None)
    configs = [config_path(c) for c in values_of(argv, "--config")]
    if resume and out and (Path(out) / "config.yaml").is_file():
        configs.insert(0, Path(out) / "config.yaml")
    if resume and out and (Path(out) / "config.json").is_file():
        read_model_config(Path(out))  # refuses a run of another format
    tables: dict[str, Any] = {"data": {}, "model": {}, "train": {}}
    contents = [(config, read_config(config)) for config in configs]
    named = [(str(config), content.get("recipe")) for config, content in contents]
    for where, name in [*named, *(("--recipe", name) for name in values_of(argv, "--recipe"))]:
        if recipe and name and name != recipe:
            raise InputError(f"{where}: is of recipe {name}, the command says {recipe}")
        recipe = recipe or name
    if recipe is None and {"-h", "--help"} & set(argv):
        add_arguments(parser, "RECIPE", f"{parser.description} {HELP}", {}, tables)
        parser.parse(["--help"])
    if recipe is None:
        if resume and out:
            raise InputError(f"{out} holds no run to resume; name a recipe to begin one", "resume")
        raise InputError("train: expected a recipe: fvae train RECIPE --data SRC --out RUN; fvae recipes lists them")
    if recipe not in RECIPES:
        raise InputError(f"{recipe}: no such recipe; {did_you_mean(recipe, RECIPES)}known are {', '.join(RECIPES)}")
    make = RECIPES[recipe]
    for config, content in contents:
        if (content["model"].keys() - make.settings.model_fields.keys()) & MODEL[recipe].keys():
            print(f"note: {config}: read as settings of fvae 0.1, which have other names now", file=sys.stderr)
            content["model"] = renamed(recipe, content["model"])
        tables |= {name: merged(tables[name], content[name]) for name in tables}
    argv, old = old_settings(recipe, argv, make.settings.model_fields)
    tables["model"] = merged(tables["model"], old)
    fields, description = make.settings.model_fields, (make.__doc__ or "").partition("Example:")[0].strip()
    add_arguments(parser, recipe, description, fields, tables | {"model": chosen(fields, tables["model"], argv)})
    return recipe, parser.parse(argv), configs, tables


def add_arguments(parser: Parser, recipe: str, text: str, fields: dict[str, Any], tables: dict[str, Any]) -> None:
    """The arguments of training a recipe, whose model has these ``fields``, of the kinds that its settings choose.

    The defaults that the help shows are those of the settings files, where there are any.
    """
    parser.prog, parser.description = f"fvae train {recipe}", text
    parser.usage = f"fvae train {recipe} --data SRC --out RUN [settings]"
    parser.add_out("the run folder")
    config_help = "a YAML file of recipe, data, model and train, as a run's config.yaml, or one that comes with fvae"
    config_help += f" ({', '.join(config_names())}); of several the later ones win, and flags before all files"
    parser.add_argument("--config", action="append", metavar="FILE", help=config_help)
    parser.add_argument("--recipe", metavar="NAME", help="the recipe, where neither the first argument nor a file says")
    parser.add_argument("--resume", action="store_true", help="continue the run that is there, or begin one")
    parser.add_settings(DataSettings, "data", tables["data"])
    add_model_flags(parser, fields, tables["model"])
    parser.add_settings(TrainSettings, "train", tables["train"])


def settings_of(
    recipe: str, args: dict[str, Any], configs: list[Path], tables: dict[str, Any]
) -> tuple[DataSettings, TrainSettings, dict[str, Any]]:
    """The settings of data, training and model, checked; raises ``InputError`` by flag, or by file and name."""
    make = RECIPES[recipe]
    given = {name: value for name, value in args.items() if value is not None}
    data = tables["data"] | with_new_names(table(given, "data"), OLD_DATA)
    train = tables["train"] | with_new_names(table(given, "train"), OLD_TRAIN)
    model = merged(tables["model"], table(given, "model"))
    found = []
    for name, schema, values in (
        ("data", DataSettings, data),
        ("train", TrainSettings, train),
        ("model", make.settings, model),
    ):
        try:
            found.append(checked(schema, values, lax=True))
        except InputError as error:
            name = ".".join(filter(None, (name, error.argument)))
            if configs and name not in given:
                raise InputError(f"{', '.join(map(str, configs))}: {name}: {error.message}") from None
            raise InputError(error.message, name) from None
    return found[0], found[1], {name: getattr(found[2], name) for name in found[2].model_fields_set}


def text_of_run(out: Path, max_length: int) -> Modality | None:
    """The text of a run to resume, which before its first evaluation has no model to compare its tokenizer with."""
    if (out / "config.json").exists():
        return build(out).modality
    if not (out / TOKENIZER_FILE).exists():
        return None
    known = Tokenizer.load(out / TOKENIZER_FILE, max_length)
    return Text(known.shape, tokenizer=known)
