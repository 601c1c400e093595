"""Runs side by side, as files for a report: a table (Markdown, CSV), their curves and their samples."""

import csv
import io
from pathlib import Path
from typing import Any

import torch

from fvae.checkpoint import load
from fvae.errors import UserError
from fvae.files import replacing, write_text
from fvae.pictures import save_picture, sheet, to_uint8
from fvae.runs import data_name, read_metrics

BOUNDS = ("held-out bits/dim", "rate bits/dim", "distortion bits/dim")
COLUMNS = ("run", "recipe", "data", "bits", "parameters", "step", "minutes", *BOUNDS)


def compare(runs: list[Path], out: Path, n: int = 10, seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Write ``table.md``, ``table.csv``, ``curves.png`` and ``samples.png`` (temperature 0.8) to the folder ``out``.

    The bounds are those of each run's last evaluation; of other data or bits they don't compare, so both are columns.
    Raises ``UserError`` where a folder is no run.
    """
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    metrics = [read_metrics(run) for run in runs]
    table: list[dict[str, Any]] = []
    rows = []
    for run, name, history in zip(runs, names, metrics, strict=True):
        model, last = load(run, device), history[-1]
        parameters = sum(p.numel() for p in model.parameters())
        bound = [f"{last[f'test_{part}bits_per_dim']:.4f}" for part in ("", "rate_", "distortion_")]
        minutes = f"{last['seconds'] / 60:.1f}"
        what = (name, model.config["recipe"], data_name(run), model.decoder.bits)
        values = (*what, parameters, int(last["step"]), minutes, *bound)
        table.append(dict(zip(COLUMNS, values, strict=True)))
        images = model.sample(n, temperature=0.8, generator=torch.Generator().manual_seed(seed))
        rows.append(to_uint8(images, model.decoder.bits))
    if len({row.shape[1:] for row in rows}) > 1:
        shapes = ", ".join(f"{name} {row.shape[1:]}" for name, row in zip(names, rows, strict=True))
        raise UserError(f"compare: expected runs with images of one shape, found {shapes}")
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row.values() for row in table)]
    write_text(out / "table.csv", text.getvalue())
    write_text(out / "table.md", "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines))
    save_picture(sheet(rows, names), out / "samples.png")
    draw_curves(names, metrics, out / "curves.png")


def draw_curves(names: list[str], metrics: list[list[dict[str, float]]], path: Path) -> None:
    """Held-out bits/dim against minutes and against steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, scale, label in zip(
        figure.subplots(1, 2, sharey=True), ("seconds", "step"), (60, 1), ("minutes of training", "steps"), strict=True
    ):
        for name, rows in zip(names, metrics, strict=True):
            axes.plot([r[key] / scale for r in rows], [r["test_bits_per_dim"] for r in rows], "o-", ms=3, label=name)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("held-out bits/dim (upper bound)")
    last = [rows[-1]["test_bits_per_dim"] for rows in metrics]
    low, high = min(last), max(rows[min(1, len(rows) - 1)]["test_bits_per_dim"] for rows in metrics)
    figure.axes[0].set_ylim(low - 0.1, max(high, *last) + 0.2)
    figure.axes[0].legend()
    with replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")
