"""Runs side by side, as files for a report: a table (Markdown, CSV), their curves and their samples."""

import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fvae.errors import InputError
from fvae.files import replacing, write_bytes, write_csv, write_text
from fvae.runs.config import run_config
from fvae.runs.folder import BOUNDS, read_metrics, unit_key
from fvae.runs.model import load


def compare(runs: list[Path], out: Path, n: int = 10, seed: int = 0, device: torch.device | str = "cpu") -> list[str]:
    """Write ``table.md``, ``table.csv``, ``curves.png`` and, of images, ``samples.png`` (temperature 0.8), or, of text,
    ``samples.md`` to ``out``.

    The bounds are those of the evaluation whose weights a run has, the best one; of other data, bits or tokens, or
    given labels, they don't compare, so these are columns. Returns the names of the files.
    Raises ``InputError`` where a folder is no run.
    """
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    metrics = [read_metrics(run) for run in runs]
    models = [load(run, device) for run in runs]
    for run, rows, model in zip(runs, metrics, models, strict=True):
        if unit_key(rows) != model.modality.unit.key:
            raise InputError(f"{run}/metrics.csv: expected figures in {model.modality.unit.name}, found others")
    if len(nouns := {model.modality.noun: None for model in models}) > 1:
        raise InputError(f"expected runs on data of one kind, found {' and '.join(nouns)}")
    if len({model.modality.config.get("vocabulary") for model in models}) > 1:
        warnings.warn("the runs have different tokenizers: their figures cannot be compared", stacklevel=2)
    table: list[dict[str, Any]] = []
    for run, name, model, history in zip(runs, names, models, metrics, strict=True):
        row, unit = next((row for row in history if row["step"] == model.step), history[-1]), model.modality.unit
        table.append(
            {
                "run": name,
                "recipe": model.config["recipe"],
                "data": Path(str(run_config(run).get("data", {}).get("source") or "")).name,
                **model.modality.facts,
                "parameters": sum(p.numel() for p in model.parameters()),
                "step": int(row["step"]),
                "minutes": f"{row['seconds'] / 60:.1f}",
                "given": "labels" if model.classes else "",
                "unit": unit.name,
                **{column: f"{row[f'test_{part}{unit.key}']:.4f}" for column, part in BOUNDS.items()},
            }
        )
    columns = [column for column in table[0] if any(row[column] not in ("", None) for row in table)]
    cells = [[row[column] for column in columns] for row in table]
    drawn = {
        name: model.modality.sample(model, n, torch.Generator().manual_seed(seed))
        for name, model in zip(names, models, strict=True)
    }
    lines = [columns, ["---"] * len(columns), *cells]
    with TemporaryDirectory() as folder:  # all files or none
        there = Path(folder)
        written = models[0].modality.write_comparison(drawn, there)
        draw_curves(names, metrics, there / "curves.png")
        write_csv(there / "table.csv", columns, cells)
        write_text(there / "table.md", "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines))
        written = ["table.md", "table.csv", "curves.png", *written]
        for name in written:
            write_bytes(out / name, (there / name).read_bytes())
    return written


def draw_curves(names: list[str], metrics: list[list[dict[str, float]]], path: Path) -> None:
    """The held-out bound against minutes and against steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key_of_bound = unit_key(metrics[0])
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
    curves = [[row[f"test_{key_of_bound}"] for row in rows] for rows in metrics]
    shown = [bound for curve in curves for bound in (min(curve), *curve[1:2], curve[-1])]  # not the first, highest
    if finite := [bound for bound in shown if math.isfinite(bound)]:
        margin = max(0.1, (max(finite) - min(finite)) / 20)
        figure.axes[0].set_ylim(min(finite) - margin, max(finite) + 2 * margin)
    figure.axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
