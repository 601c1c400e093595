"""Runs side by side, as files for a report: a table (Markdown, CSV), their curves and their samples."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import torch

from fvae.checkpoint import load
from fvae.errors import UserError
from fvae.evaluate import bits_of, unit
from fvae.files import replacing, write_text
from fvae.kinds import Images, Sentences, Writing, kind_of
from fvae.pictures import save_picture, sheet, to_uint8
from fvae.runs import BOUNDS, data_name, read_metrics, told_in

WHAT = ("run", "recipe", "data", "bits", "tokens", "parameters", "step", "minutes", "given")
COLUMNS = (*WHAT, "told in", "held-out", "rate", "distortion")


def compare(runs: list[Path], out: Path, n: int = 10, seed: int = 0, device: torch.device | str = "cpu") -> list[str]:
    """Write ``table.md``, ``table.csv``, ``curves.png`` and, of images, ``samples.png`` (temperature 0.8), or, of text,
    ``samples.md`` to ``out``.

    The bounds are those of each run's last evaluation; of other data, bits or tokens, or given labels, they don't
    compare, so these are columns. Returns the names of the files.
    Raises ``UserError`` where a folder is no run.
    """
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    metrics = [read_metrics(run) for run in runs]
    table: list[dict[str, Any]] = []
    rows, sentences, tokenisers = [], [], set()
    for run, name, history in zip(runs, names, metrics, strict=True):
        model, last = load(run, device), history[-1]
        parameters = sum(p.numel() for p in model.parameters())
        told = unit(model)
        bound = [f"{last[f'test_{part}{told.key}']:.4f}" for part in BOUNDS]
        minutes = f"{last['seconds'] / 60:.1f}"
        kind = kind_of(model, run)
        known = kind.vocabulary.shape[1] if isinstance(kind, Sentences) else ""
        what = (name, model.config["recipe"], data_name(run), bits_of(model) or "", known)
        given = "labels" if model.classes else ""
        values = (*what, parameters, int(last["step"]), minutes, given, told.name, *bound)
        table.append(dict(zip(COLUMNS, values, strict=True)))
        generator = torch.Generator().manual_seed(seed)
        labels = model.draw_labels(n, generator)
        if isinstance(kind, Sentences):
            drawn = kind.decoded(model.codes(n, generator), labels, writing=Writing(), generator=generator)
            sentences.append(f"## {name}\n\n" + "".join(f"- {line}\n" for line in drawn))
            tokenisers.add(kind.vocabulary.digest)
        elif isinstance(kind, Images):
            rows.append(to_uint8(model.sample(n, labels, kind.temperature, generator), bits_of(model)))
    if len({told_in(history) for history in metrics}) > 1:
        raise UserError("compare: expected runs on images, or runs on rows of numbers; found both")
    if len(tokenisers) > 1:
        print("warning: the runs have different tokenisers: their figures don't compare", file=sys.stderr)
    if len({row.shape[1:] for row in rows}) > 1:
        shapes = ", ".join(f"{name} {row.shape[1:]}" for name, row in zip(names, rows, strict=True))
        raise UserError(f"compare: expected runs with images of one shape, found {shapes}")
    text = io.StringIO()
    columns = [column for column in COLUMNS if any(row[column] != "" for row in table)]
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(table)
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in table)]
    write_text(out / "table.csv", text.getvalue())
    write_text(out / "table.md", "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines))
    if rows:
        save_picture(sheet(rows, names), out / "samples.png")
    if sentences:
        write_text(out / "samples.md", "\n".join(sentences))
    draw_curves(names, metrics, out / "curves.png")
    return ["table.md", "table.csv", "curves.png", *["samples.png"] * bool(rows), *["samples.md"] * bool(sentences)]


def draw_curves(names: list[str], metrics: list[list[dict[str, float]]], path: Path) -> None:
    """The held-out bound against minutes and against steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key_of_bound = told_in(metrics[0])
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, scale, label in zip(
        figure.subplots(1, 2, sharey=True), ("seconds", "step"), (60, 1), ("minutes of training", "steps"), strict=True
    ):
        for name, rows in zip(names, metrics, strict=True):
            axes.plot([r[key] / scale for r in rows], [r[f"test_{key_of_bound}"] for r in rows], "o-", ms=3, label=name)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"held-out {'nats' if key_of_bound == 'nats' else 'bits/dim'} (upper bound)")
    last = [rows[-1][f"test_{key_of_bound}"] for rows in metrics]
    low, high = min(last), max(rows[min(1, len(rows) - 1)][f"test_{key_of_bound}"] for rows in metrics)
    high = max(high, *last)
    margin = max(0.1, (high - low) / 20)
    figure.axes[0].set_ylim(low - margin, high + 2 * margin)
    figure.axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
