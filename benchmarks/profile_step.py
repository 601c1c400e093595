"""The time of one training step by type of operation, for the plain and the fused implementation, as a figure.

usage: python benchmarks/profile_step.py --out FILE.png [--threads 1]

The Glow of ``speed.py`` (3 levels of 8 steps, width 256, batch 16, 3x32x32), forward and backward, by torch's profiler:
the operations' self time, in groups.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from plain import plain

from fvae import initialize
from fvae.cli.memory import keep_freed_memory
from fvae.files import replacing
from fvae.recipes import glow

GROUPS = {  # by the prefix of an operation's name; the first match counts
    "matrix products and convolutions": (
        "aten::mkldnn_conv",
        "aten::convolution_backward",
        "aten::mm",
        "aten::addmm",
    ),
    "ReLUs": ("aten::clamp_min", "aten::relu", "aten::threshold"),
    "copies and concatenations": (
        "aten::copy_",
        "aten::cat",
        "aten::_to_copy",
        "aten::index",
        "aten::gather",
        "aten::stack",
    ),
    "sums": ("aten::sum", "aten::bmm"),
    "other arithmetic": ("aten::",),
    "autograd and Python": ("",),
}


def times(model: torch.nn.Module, x: torch.Tensor, rounds: int = 5) -> dict[str, float]:
    """Milliseconds of a step spent in each group."""
    for _ in range(2):
        model(x).loss().backward()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(rounds):
            model(x).loss().backward()
    spent: Counter[str] = Counter()
    for event in found.key_averages():
        group = next(g for g, starts in GROUPS.items() if event.key.startswith(starts))
        spent[group] += event.self_cpu_time_total / 1e3 / rounds
    return {group: spent[group] for group in GROUPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, x = glow((3, 32, 32)), torch.randint(256, (16, 3, 32, 32)).float()
    initialize(model, x)
    with plain(model):
        rows = {"plain": times(model, x)}
    keep_freed_memory()
    rows["fvae"] = times(model, x)
    figure, axis = plt.subplots(figsize=(9, 2.6), layout="constrained")
    left = dict.fromkeys(rows, 0.0)
    for group in GROUPS:
        widths = [row[group] for row in rows.values()]
        axis.barh(list(rows), widths, left=list(left.values()), label=group)
        left = {name: left[name] + row[group] for name, row in rows.items()}
    axis.invert_yaxis()
    axis.set_xlabel("ms of one training step, under the profiler")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=3, fontsize=8, frameon=False)
    with replacing(args.out) as part:
        figure.savefig(part, format="png", dpi=150)
    for group in GROUPS:
        print(f"{group:38s}" + "".join(f"{name} {row[group]:7.1f} ms   " for name, row in rows.items()))


if __name__ == "__main__":
    main()
