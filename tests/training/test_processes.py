"""Every recipe in two processes: half a batch in each gives the loss, gradients and statistics of the whole in one."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from command_line import ENVIRONMENT
from recipe_table import TABLE, batch, has_statistics
from text_models import TABLE as TEXT
from text_models import make_text_vae, sentences
from torch.nn.parallel import DistributedDataParallel

from fvae.model import LatentModel

Batch = list[torch.Tensor | None]
ROWS: dict[str, tuple[Callable[[], LatentModel], dict[str, float]]] = {str(row): (row.moved, {}) for row in TABLE}
ROWS |= {f"text, {key}": (partial(make_text_vae, 0.05, **settings), {}) for key, settings in TEXT.items()}
GAUSSIAN = partial(make_text_vae, 0.3, posterior="gaussian")
ROWS["text, free nats"] = GAUSSIAN, {"free_nats": 0.6}  # between the rates of the halves
ROWS["text, free nats per dimension"] = GAUSSIAN, {"free_nats_per_dim": 0.05}


def model_and_batches(key: str) -> tuple[LatentModel, list[Batch]]:
    """A model in training, in float64, and two batches of 12: the same in each process."""
    torch.manual_seed(0)
    model = ROWS[key][0]().double().train()
    if len(model.shape) == 2:
        return model, [[sentences(12), model.draw_labels(12), model.noise(12)] for _ in range(2)]
    batches = [batch(model, 12) for _ in range(2)]
    return model, [[x.double(), y, u] for x, y, u in batches]


def two_steps(key: str, model: LatentModel, call: Callable, batches: list[Batch]) -> list[dict[str, torch.Tensor]]:
    """Loss, gradients and statistics at each of two steps of gradient descent, of length 1e-3."""
    found = []
    for x, y, u in batches:
        model.zero_grad()
        loss = call(x, y, u).loss(**ROWS[key][1])
        loss.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters()}
        running = {key: a.clone() for key, a in model.state_dict().items() if "running" in key}
        found.append({"loss": loss.detach(), **gradients, **running})
        size = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients.values()]))
        with torch.no_grad():
            for p in model.parameters():
                p -= 1e-3 * p.grad / size
    return found


def work(rank: int, folder: Path) -> None:
    """What one of the two processes does: every row of the tables; what it finds goes to a file."""
    torch.set_num_threads(1)
    meet, timeout = f"file://{folder}/meet", timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=timeout)
    found: dict[str, Any] = {}
    for key in ROWS:
        model, batches = model_and_batches(key)
        shares = [[None if a is None else a[rank::2] for a in whole] for whole in batches]
        print(key, file=sys.stderr)  # the last one is where an error came up
        found[key] = two_steps(key, model, DistributedDataParallel(model), shares)
    torch.save(found, folder / f"found{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two gloo processes found, by row of the table."""
    folder = tmp_path_factory.mktemp("pair")
    ours = [sys.executable, "-W", "error::FutureWarning", __file__]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}  # where the tests' own modules are
    options = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*ours, str(rank), str(folder)], **options) for rank in (0, 1)]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"found{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("key", ROWS)
def test_two_processes_compute_what_one_does(pair, key):
    """Under DDP, which every parameter must reach in each step, two steps are those of one process.

    To 1e-9, or 1e-12 of the largest gradient. Gradients and statistics are the same in both processes, and the losses'
    mean is that of the whole batch.
    """
    first, second = (found[key] for found in pair)
    model, batches = model_and_batches(key)
    for one, a, b in zip(two_steps(key, model, model, batches), first, second, strict=True):
        assert any("running" in k for k in one) == has_statistics(model)
        assert (a["loss"] - b["loss"]).abs() > 1e-3  # of other samples
        a["loss"] = b["loss"] = (a["loss"] + b["loss"]) / 2
        largest = max(value.abs().max().item() for value in one.values() if value.numel())
        for found in (a, b):
            torch.testing.assert_close(found, one, rtol=1e-9, atol=1e-12 * largest + 1e-9)


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
