"""Runs that are killed, resumed, or trained in two processes: the same weights as in one go."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command_line import ENVIRONMENT, process, program

from fvae import load
from fvae.cli import main
from fvae.runs.folder import CHECKPOINT

TRAIN = ["--train.batch_size", "16", "--train.eval_samples", "16", "--train.accelerator", "cpu"]
TINY = [
    *("--data", "digits", "--model.coder.squeezes", "1", "--model.coder.blocks", "1", "--model.flow.levels", "2"),
    *("--model.flow.depth", "1", "--model.flow.width", "8", "--model.bits", "4", *TRAIN),
]
STEPS = ["--train.steps", "60", "--train.eval_interval", "5"]
TWO_PROCESSES = ["--train.devices", "2", "--train.strategy", "ddp"]


def command(run: Path, *more: str) -> list[str]:
    """The arguments that train a small model into ``run``."""
    return ["train", "f_vae", "--out", str(run), *TINY, *STEPS, *more]


def normalized(run: Path, *more: str) -> list[str]:
    """As ``command``, of a model that normalizes over the batch."""
    settings = ["--model.coder.levels", "1", "--model.coder.size", "4", "--model.coder.width", "4"]
    train = ["--train.steps", "20", "--train.eval_interval", "10", *TRAIN]
    return ["train", "bn_vae", "--out", str(run), "--data", "digits", *settings, *train, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that are used, and those in training."""
    last = torch.load(run / CHECKPOINT, weights_only=True)
    return {**load(run).state_dict(), **{f"training {name}": w for name, w in last["model"].items()}}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(run)) == 0
    return run


@pytest.mark.slow
def test_killed_again_and_again_ends_with_the_same_weights(undisturbed, tmp_path):
    """kill -9 at ten random moments, --resume each time: bit-equal to the run that was never killed.

    A run that gets to its end before the last kill has passed, and another is begun.
    """
    rng, killed, in_training, runs = random.Random(0), 0, 0, [tmp_path / "killed_0"]
    while killed < 10:
        argv = program(*command(runs[-1], "--resume", "--train.checkpoint_minutes", "0.0005"))  # of 30 ms
        child = subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        checkpoint, before = runs[-1] / CHECKPOINT, time.time()
        if killed % 2:  # every other one at some moment from the import on, the rest soon after a checkpoint is written
            time.sleep(rng.uniform(0.5, 8.0))
        else:
            while child.poll() is None and time.monotonic() < until:
                if checkpoint.exists() and checkpoint.stat().st_mtime > before:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            killed += 1
            in_training += checkpoint.exists() and checkpoint.stat().st_mtime > before
        elif child.returncode == 0:
            assert_equal(weights(undisturbed), weights(runs[-1]))
            runs.append(tmp_path / f"killed_{len(runs)}")
        child.wait()
        if (runs[-1] / "model.safetensors").exists():
            load(runs[-1])  # whole, at any moment
    assert in_training >= 3
    done = process(*command(runs[-1], "--resume"))
    assert done.returncode == 0, done.stderr
    assert_equal(weights(undisturbed), weights(runs[-1]))
    steps = [line.split(",")[0] for line in (runs[-1] / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(5, 61, 5)]


def test_resumed_in_the_middle_is_bit_equal(undisturbed, tmp_path):
    """Stopped at step 25, continued to 60: the same weights and the same held-out bounds as in one go."""
    run = tmp_path / "two"
    assert main(command(run, "--train.steps", "25")) == 0
    assert main(command(run, "--resume")) == 0
    assert_equal(weights(undisturbed), weights(run))
    columns = [0, 2, 3, 4, 5]  # not the seconds
    ours, theirs = (
        [[row.split(",")[i] for i in columns] for row in (r / "metrics.csv").read_text().splitlines()]
        for r in (run, undisturbed)
    )
    assert ours == theirs


def test_resume_of_a_finished_run_changes_nothing(undisturbed):
    before = weights(undisturbed)
    assert main(command(undisturbed, "--resume")) == 0
    assert_equal(before, weights(undisturbed))


def test_how_often_it_is_kept_does_not_change_the_weights(undisturbed, tmp_path):
    run = tmp_path / "seldom"
    assert main(command(run, "--train.eval_interval", "100")) == 0
    assert_equal(weights(undisturbed), weights(run))


@pytest.mark.slow
@pytest.mark.parametrize("reversible", ["false", "true"])
def test_two_processes_agree_with_one(undisturbed, tmp_path, reversible):
    """Two CPU processes (gloo) on the same global batch: equal up to the order of summation; recomputing too."""
    run = tmp_path / "two_processes"
    argv = command(run, *TWO_PROCESSES, "--train.reversible", reversible)
    done = process(*argv)
    assert done.returncode == 0, done.stderr
    one, two = weights(undisturbed), weights(run)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
def test_two_processes_are_terminated_and_resumed_bit_equal(tmp_path):
    """The signal reaches the first process only, which tells the other; between two evaluations."""
    seldom = ["--train.eval_interval", "1000", "--train.steps", "200", *TWO_PROCESSES]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert process(*command(whole, *seldom)).returncode == 0
    argv = program(*command(run, *seldom, "--train.checkpoint_minutes", "0.0005"))
    with subprocess.Popen(argv, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as child:
        until = time.monotonic() + 120
        while not (run / CHECKPOINT).exists() and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143, child.stderr.read()
    assert torch.load(run / CHECKPOINT, weights_only=True)["step"] < 200
    assert process(*command(run, *seldom, "--resume")).returncode == 0
    assert_equal(weights(whole), weights(run))


@pytest.mark.slow
def test_two_processes_normalize_over_the_whole_batch(tmp_path):
    """Two CPU processes (gloo) and one have the same batch statistics, weights and held-out bound.

    All but the biases that normalization takes away: their gradients are rounding, which AdamW makes steps of.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(normalized(one)) == 0
    done = process(*normalized(two, *TWO_PROCESSES))
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(one), weights(two)
    assert any(name.endswith("running.value") for name in ours)
    for name in ours:
        atol = 3e-3 if name.endswith(("net.net.4.bias", "running.value")) else 1e-4
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    bounds = [float((run / "metrics.csv").read_text().splitlines()[-1].split(",")[3]) for run in (one, two)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-4)
