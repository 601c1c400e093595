"""Speed and memory of one Glow in fvae, in other libraries, and as bare convolutions; see ``glows.py``.

usage: python benchmarks/speed.py --out DIR [--rounds N] [--threads 1] [--device cpu|cuda] [--only train,sample,...]

Everything runs in one process, in rounds: each round times every contender once, so that variations of the machine's
speed affect all alike. A time is the median over the rounds, after two warm-up runs. Writes speed.md, .csv and .png.
"""

import argparse
import csv
import datetime
import io
import itertools
import math
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from glows import SHAPE, Contender, bare, fvae_glow, network_weights, peers, prepare
from torch import Tensor, nn

from fvae import initialize
from fvae.cli.memory import keep_freed_memory
from fvae.files import replacing, write_text
from fvae.flows.fused import set_reversible
from fvae.recipes import Glow, Squeezing, f_vae

COLORS = {"limit": "#bdbdbd", "networks": "#bdbdbd", "peer": "#737373", "fvae": "#d95f02"}

Runs = list[tuple[Contender, Callable[[], object]]]


class Size(NamedTuple):
    depth: int
    width: int
    batch: int

    def __str__(self) -> str:
        return f"{self.depth} steps a level, width {self.width}, batch {self.batch}"


SIZES = {"cpu": [Size(8, 256, 16)], "cuda": [Size(32, 512, 64), Size(32, 512, 256)]}
PUBLISHED = {
    "coder": Squeezing(squeezes=3, blocks=12, hidden=0),
    "flow": Glow(levels=4, depth=12, width=256, mixing="shuffle", coupling="additive"),
}
DEEP, SHALLOW = Size(32, 512, 32), Size(8, 512, 32)  # for which memory is measured


class Row(NamedTuple):
    contender: Contender
    figures: dict[str, float]  # by unit: ms, MiB


class Table(NamedTuple):
    title: str
    rows: list[Row]

    def best(self, kind: str, unit: str) -> float:
        """The smallest value of a kind, NaN where there is none."""
        return min((row.figures[unit] for row in self.rows if row.contender.kind == kind), default=math.nan)

    def figures(self, row: Row) -> Iterator[tuple[str, float, float, float]]:
        """Unit, value, and the ratios of the value to the limit's and to the best peer's."""
        for unit, value in row.figures.items():
            yield unit, value, value / self.best("limit", unit), value / self.best("peer", unit)


def milliseconds(run: Callable[[], object], device: str) -> float:
    """The time of one run, until the device has finished."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    begun = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begun)


def timed(runs: Runs, rounds: int, device: str) -> list[Row]:
    """The median time of each, measured in turns."""
    for _, run in runs:
        run()
        run()
    times = [[milliseconds(run, device) for _, run in runs] for _ in range(rounds)]
    return [Row(c, {"ms": statistics.median(t)}) for (c, _), t in zip(runs, zip(*times, strict=True), strict=True)]


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The peak of allocated bytes during a run, above those allocated before it.

    On a CPU it is computed from the allocations and frees that the profiler reports in order. It ignores frees
    of memory that was allocated before the run; here there are none.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), default=0)


def check_peak_bytes(device: str) -> None:
    """Check: five ReLUs of 1 MiB keep five outputs, and the backward pass adds two gradients at its second step."""
    relus = nn.Sequential(*(nn.ReLU() for _ in range(5)))
    x = torch.randn(2**18, device=device, requires_grad=True)
    gradient = torch.ones_like(x)
    found = peak_bytes(lambda: relus(x).backward(gradient), device) / 2**20
    assert found == 7, f"peak_bytes is wrong: expected 7 MiB, found {found}"


def images(batch: int, device: str) -> Tensor:
    return torch.randint(256, (batch, *SHAPE), device=device).float()


def contenders(size: Size, x: Tensor) -> list[Contender]:
    """All contenders, prepared, with the same number of weights in their coupling networks."""
    depth, width, _ = size
    every = [*bare(depth, width), *peers(depth, width), fvae_glow(depth, width)]
    weights = {c.name: network_weights(c.module, width) for c in every}
    assert len(set(weights.values())) == 1, weights
    return [prepare(c, width, x) for c in every]


def fvae_alone(size: Size, x: Tensor) -> Contender:
    return prepare(fvae_glow(size.depth, size.width), size.width, x)


def reversible(contender: Contender) -> Contender:
    """fvae with activations recomputed from the outputs in the backward pass."""
    set_reversible(contender.module, True)
    return replace(contender, name="fvae, reversible")


def compiled(contender: Contender) -> Contender:
    """fvae under torch.compile; encode and sample stay eager."""
    torch.compiler.reset()
    model = torch.compile(contender.module, dynamic=False)
    return replace(contender, name="fvae, compiled", loss=lambda x: model(x).loss())


def autocast(contender: Contender, device: str) -> Contender:
    """fvae with its networks in bfloat16."""

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return contender.loss(x)

    return replace(contender, name="fvae, bfloat16 autocast", loss=loss)


def training(contender: Contender, x: Tensor) -> Callable[[], None]:
    """A training step, with the same optimizer for all."""
    optimizer = torch.optim.AdamW(contender.module.parameters(), lr=1e-4, fused=True)
    contender.module.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        contender.loss(x).backward()
        optimizer.step()

    return step


def gradients(contender: Contender, x: Tensor) -> Callable[[], None]:
    """Forward and backward into allocated gradients, so that the memory measured is that of activations."""
    contender.module.train()

    def step() -> None:
        contender.module.zero_grad(set_to_none=False)
        contender.loss(x).backward()

    return step


def inverse_error(contender: Contender, x: Tensor) -> float:
    """The largest error of decode(encode(x)), in bins, in eval mode.

    nflows computes its cached inverses at this first use, on the default device.
    """
    contender.module.eval()
    if contender.decode is None:
        return math.nan
    with torch.no_grad(), x.device:
        error = (contender.decode(contender.encode(x)) - x).abs().max().item()
    assert error < 0.5, f"{contender.name} is not inverted exactly: an error of {error} bins"
    return error


def train(device: str, rounds: int) -> Iterator[Table]:
    for size in SIZES[device]:
        x = images(size.batch, device)
        every = contenders(size, x)
        if device == "cuda":
            every.append(compiled(fvae_alone(size, x)))
        yield Table(f"Training step: {size}", timed([(c, training(c, x)) for c in every], rounds, device))


def sample(device: str, rounds: int) -> Iterator[Table]:
    yield from inference("Sample", lambda c, x: c.sample(len(x)), device, rounds)


def encode(device: str, rounds: int) -> Iterator[Table]:
    yield from inference("Encode", lambda c, x: c.encode(x), device, rounds)


@torch.no_grad()
def inference(title: str, use: Callable[[Contender, Tensor], object], device: str, rounds: int) -> Iterator[Table]:
    """Functions without gradients, on models whose inverse was checked."""
    for size in SIZES[device]:
        x = images(size.batch, device)
        every = contenders(size, x)
        for c in every:
            inverse_error(c, x)
        runs: Runs = [(c, partial(use, c, x)) for c in every]
        yield Table(f"{title}: {size}", timed(runs, rounds, device))


def memory(device: str, rounds: int) -> Iterator[Table]:
    """Peak memory of activations, and time of forward and backward; three rounds at most, since steps are long."""
    check_peak_bytes(device)
    for size in (DEEP, SHALLOW):
        x = images(size.batch, device)
        every = contenders(size, x) if size == DEEP else [fvae_alone(size, x)]
        every.append(reversible(fvae_alone(size, x)))
        if device == "cuda":
            every.append(compiled(fvae_alone(size, x)))
        runs: Runs = [(c, gradients(c, x)) for c in every]
        rows = timed(runs, min(rounds, 3), device)
        for row, (_, run) in zip(rows, runs, strict=True):
            row.figures["MiB"] = peak_bytes(run, device) / 2**20
        yield Table(f"Forward and backward: {size}", rows)


def published(device: str, rounds: int) -> Iterator[Table]:
    """Training steps of the f-VAE of the published sizes, on 64x64 and on 128x128 images (Su & Wu, 2018)."""
    batch = 4 if device == "cpu" else 32
    rows = []
    for side in (64, 128):
        x = torch.randint(256, (batch, 3, side, side), device=device).float()
        model = f_vae((3, side, side), **PUBLISHED).to(device)
        initialize(model, x)
        name, loss = f"f_vae {side}x{side}", lambda x, m=model: m(x).loss()
        contender = Contender(name, "fvae", model, loss, model.encode, model.sample)
        (row,) = timed([(contender, training(contender, x))], rounds, device)
        rows.append(Row(contender, {**row.figures, "images/s": 1e3 * batch / row.figures["ms"]}))
    yield Table(f"Training step of the published f-VAE: batch {batch}", rows)


def bf16(device: str, rounds: int) -> Iterator[Table]:
    """fvae with and without autocast to bfloat16, on processors that support it."""
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print("bf16: skipped, this processor has no bfloat16")
        return
    for size in SIZES[device]:
        x = images(size.batch, device)
        runs: Runs = [(c, training(c, x)) for c in (fvae_alone(size, x), autocast(fvae_alone(size, x), device))]
        yield Table(f"Training step in bfloat16: {size}", timed(runs, rounds, device))


SECTIONS = {f.__name__: f for f in (train, sample, encode, memory, published, bf16)}


def markdown(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


def number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def models(size: Size, device: str) -> str:
    """A table of the models: parameters, those of the coupling networks, and the error of the inverse."""
    x = images(4, device)
    lines = [
        [
            c.name,
            f"{sum(p.numel() for p in c.module.parameters() if p.requires_grad):,}",
            f"{network_weights(c.module, size.width):,}",
            "" if c.decode is None else f"{inverse_error(c, x):.0e}",
        ]
        for c in contenders(size, x)
    ]
    header = ["model", "trained parameters", "in coupling networks", "error of decode(encode(x)), bins"]
    return f"## Models: {size.depth} steps a level, width {size.width}\n\n{markdown(header, lines)}"


def conditions(device: str, rounds: int, kept: bool) -> str:
    """Date, hardware, versions and settings of the measurement."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    allocator = "is kept, for all (fvae.cli.memory)" if kept else "is returned to the system (the default)"
    hardware = f"{name[1] if name else platform.processor()}, {torch.get_num_threads()} thread(s)"
    if device == "cuda":
        hardware = f"{torch.cuda.get_device_name()}; {hardware}"
    versions = ", ".join(
        f"{library} {version(library)}" for library in ("torch", "fvae", "normflows", "FrEIA", "nflows")
    )
    return (
        f"{datetime.date.today()}; {hardware}; {versions}; float32 unless stated, torch's defaults otherwise; "
        f"medians of {rounds} rounds (3 where memory is measured); freed memory {allocator}.\n\n"
        f"    {shlex.join(['python', *sys.argv])}\n\n"
        "The limit is the faster of the two layouts of the bare convolutions: the coupling networks as torch computes "
        "them, without their ReLUs, each on a separate input, forward and (in training) backward.\n"
    )


def report(table: Table) -> str:
    units = list(table.rows[0].figures)
    header = ["contender", *(cell for unit in units for cell in (unit, "x limit", "x best peer"))]
    lines = [
        [
            row.contender.name,
            *(c for _, v, limit, peer in table.figures(row) for c in (number(v, 1), number(limit), number(peer))),
        ]
        for row in table.rows
    ]
    return f"## {table.title}\n\n{markdown(header, lines)}"


def spreadsheet(tables: list[Table]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "contender", "kind", "unit", "value", "x limit", "x best peer"])
    for table in tables:
        for row in table.rows:
            for unit, value, *ratios in table.figures(row):
                cells = [number(value, 3), *(number(ratio, 4) for ratio in ratios)]
                writer.writerow([table.title, row.contender.name, row.contender.kind, unit, *cells])
    return text.getvalue()


def picture(tables: list[Table], path: Path) -> None:
    """A bar chart for each table and unit, the smallest value on top."""
    panels = [(table, unit) for table in tables for unit in table.rows[0].figures]
    heights = [len(table.rows) + 2 for table, _ in panels]
    figure, axes = plt.subplots(
        len(panels), figsize=(9, 0.27 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (table, unit) in zip(axes[:, 0], panels, strict=True):
        rows = sorted(table.rows, key=lambda row: row.figures[unit], reverse=True)
        colors = [COLORS[row.contender.kind] for row in rows]
        bars = axis.barh([row.contender.name for row in rows], [row.figures[unit] for row in rows], color=colors)
        axis.bar_label(bars, fmt="{:,.4g}", padding=3, fontsize=8)
        axis.set_title(f"{table.title} ({unit}, less is better)", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas (default: all)")
    parser.add_argument("--default-allocator", action="store_true", help="keep glibc's default allocator settings")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(SECTIONS):
        parser.error(f"--only: unknown sections {', '.join(sorted(unknown))}; the sections are {', '.join(SECTIONS)}")
    torch.set_num_threads(args.threads)
    kept = not args.default_allocator and keep_freed_memory()
    torch.manual_seed(0)
    text = f"# Speed\n\n{conditions(args.device, args.rounds, kept)}\n{models(SIZES[args.device][0], args.device)}"
    tables: list[Table] = []
    for name in names:
        for table in SECTIONS[name](args.device, args.rounds):
            print(report(table), flush=True)
            tables.append(table)
    write_text(args.out / "speed.md", "\n".join([text, *map(report, tables)]))
    write_text(args.out / "speed.csv", spreadsheet(tables))
    picture(tables, args.out / "speed.png")


if __name__ == "__main__":
    main()
