"""Training: the same numbers after a kill, in two processes and after a reload; steps that go wrong."""

import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fvae.checkpoint import load
from fvae.cli import main
from fvae.data import Images, Samples, Table
from fvae.errors import UserError
from fvae.feed import Batches, Feed
from fvae.flows.fused import CouplingNet
from fvae.model import LatentModel
from fvae.recipes import GaussianDecoder, Glow, OneSided, Squeezing, Strided, bn_vae, cvae, f_vae, glow, vae
from fvae.settings import TrainSettings
from fvae.train import CHECKPOINT, Training, decay, parameter_groups, step_to_resume, train, widest

TINY = [
    *("--data", "digits", "--model.coder.squeezes", "1", "--model.coder.blocks", "1", "--model.flow.levels", "2"),
    *("--model.flow.depth", "1", "--model.flow.width", "8", "--model.bits", "4"),
    *("--train.batch_size", "16", "--train.test_images", "16", "--train.accelerator", "cpu"),
]

SMALL = Strided(size=2, width=8, levels=1)


def command(run: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "fvae.cli", "train", "f_vae", "--out", str(run), *TINY, *more]


def normalised(run: Path, *more: str) -> list[str]:
    """As ``command``, of a model that normalises over the batch."""
    settings = ["--model.coder.levels", "1", "--model.coder.size", "4", "--model.coder.width", "4"]
    every = ["--train.steps", "20", "--train.batch_size", "16", "--train.every", "10", "--train.test_images", "16"]
    data = ["--data", "digits", "--train.accelerator", "cpu"]
    return [sys.executable, "-m", "fvae.cli", "train", "bn_vae", "--out", str(run), *data, *settings, *every, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_quietly(argv: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=240)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that are used, and those that go on training."""
    last = torch.load(run / CHECKPOINT, weights_only=True)
    return {**load(run).state_dict(), **last["state_dict"]}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def toy_images(n: int = 64, shape=(1, 8, 8), seed: int = 0) -> Samples:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return Samples(pixels, [str(i) for i in range(n)], modality=Images(pixels.shape[1:]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(run, "--train.steps", "60", "--train.every", "5")[3:]) == 0
    return run


@pytest.mark.slow
def test_killed_ten_times_ends_with_the_same_weights(undisturbed, tmp_path):
    """kill -9 at ten random moments, --resume each time: bit-equal to the run that was never killed.

    A run that gets to its end before the tenth kill has passed, and another is begun.
    """
    rng, killed, in_training, runs = random.Random(0), 0, 0, [tmp_path / "killed_0"]

    def argv() -> list[str]:
        return command(runs[-1], "--train.steps", "60", "--train.every", "5", "--resume")

    while killed < 10:
        process = subprocess.Popen(argv(), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        checkpoint, before = runs[-1] / CHECKPOINT, time.time()
        if killed % 2:  # every other one at some moment from the import on, the rest soon after a checkpoint is written
            time.sleep(rng.uniform(0.5, 8.0))
        else:
            while process.poll() is None and time.monotonic() < until:
                if checkpoint.exists() and checkpoint.stat().st_mtime > before:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
            in_training += checkpoint.exists() and checkpoint.stat().st_mtime > before
        elif process.returncode == 0:
            assert_equal(weights(undisturbed), weights(runs[-1]))
            runs.append(tmp_path / f"killed_{len(runs)}")
        process.wait()
        if (runs[-1] / "model.safetensors").exists():
            load(runs[-1])  # whole, at any moment
    assert in_training >= 2
    done = run_quietly(argv())
    assert done.returncode == 0, done.stderr
    assert_equal(weights(undisturbed), weights(runs[-1]))
    steps = [line.split(",")[0] for line in (runs[-1] / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(5, 61, 5)]


def test_resumed_in_the_middle_is_bit_equal(undisturbed, tmp_path):
    """Stopped at step 25, gone on to 60: the same weights and the same held-out bounds as in one go."""
    run = tmp_path / "two"
    assert main(command(run, "--train.steps", "25", "--train.every", "5")[3:]) == 0
    assert main(command(run, "--train.steps", "60", "--train.every", "5", "--resume")[3:]) == 0
    assert_equal(weights(undisturbed), weights(run))
    columns = [0, 2, 3, 4, 5]  # not the seconds
    ours, theirs = (
        [[row.split(",")[i] for i in columns] for row in (r / "metrics.csv").read_text().splitlines()]
        for r in (run, undisturbed)
    )
    assert ours == theirs


def test_resume_of_a_finished_run_changes_nothing(undisturbed):
    before = weights(undisturbed)
    assert main(command(undisturbed, "--train.steps", "60", "--train.every", "5", "--resume")[3:]) == 0
    assert_equal(before, weights(undisturbed))


def test_how_often_it_is_kept_does_not_change_the_weights(undisturbed, tmp_path):
    run = tmp_path / "seldom"
    assert main(command(run, "--train.steps", "60", "--train.every", "100")[3:]) == 0
    assert_equal(weights(undisturbed), weights(run))


@pytest.mark.slow
@pytest.mark.parametrize("reversible", ["false", "true"])
def test_two_processes_agree_with_one(undisturbed, tmp_path, reversible):
    """Two CPU processes (gloo) on the same global batch: equal up to the order of summation; recomputing too."""
    run = tmp_path / "two_processes"
    argv = command(run, "--train.steps", "60", "--train.every", "5", "--train.devices", "2", "--train.strategy", "ddp")
    argv += ["--train.reversible", reversible]
    done = run_quietly(argv)
    assert done.returncode == 0, done.stderr
    one, two = weights(undisturbed), weights(run)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
def test_two_processes_normalise_over_the_whole_batch(tmp_path):
    """Two CPU processes (gloo) and one have the same batch statistics, weights and held-out bound.

    All but the biases that normalisation takes away: their gradients are rounding, which AdamW makes steps of.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(normalised(one)[3:]) == 0
    done = run_quietly(normalised(two, "--train.devices", "2", "--train.strategy", "ddp"))
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(one), weights(two)
    assert any(name.endswith("running.value") for name in ours)
    for name in ours:
        atol = 3e-3 if name.endswith(("net.net.4.bias", "running.value")) else 1e-4
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    bounds = [float((run / "metrics.csv").read_text().splitlines()[-1].split(",")[3]) for run in (one, two)]
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-4)


def test_batches_cover_each_epoch_once_and_are_shared_out():
    """Ten images in batches of four: each epoch holds every image once; two ranks' shares make the whole batch."""
    whole = Batches(10, 4, seed=3, now=lambda: 0)
    flat = np.concatenate([whole.step(t) for t in range(10)])
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert not np.array_equal(flat[:10], flat[10:20])
    shares = [Batches(10, 4, 3, lambda: 0, rank, 2) for rank in range(2)]
    for t in range(10):
        both = np.stack([share.step(t) for share in shares], 1).ravel()
        assert np.array_equal(both, whole.step(t))
    late = iter(Batches(10, 4, 3, lambda: 7))
    assert np.array_equal(next(late), whole.step(7))


def test_feed_gives_the_batches_in_their_order(tmp_path):
    """Reading ahead changes no image and no order; a reader's fault is raised where the batch was due."""
    pixels = toy_images(10).values
    batches = Batches(10, 4, 3, lambda: 2)
    fed = list(itertools.islice(Feed(Samples(pixels, []), Images((1, 8, 8)), batches, pinned=False), 6))
    for t, (x, y) in enumerate(fed, 2):
        assert np.array_equal(x.numpy(), pixels[batches.step(t)]) and y is None
    with_labels = Feed(Samples(pixels, [], np.arange(10)), Images((1, 8, 8)), batches, pinned=False)
    for t, (x, y) in enumerate(itertools.islice(with_labels, 3), 2):
        assert np.array_equal(y.numpy(), batches.step(t)) and np.array_equal(x.numpy(), pixels[batches.step(t)])
    with pytest.raises(IndexError):
        next(iter(Feed(Samples(pixels[:2], []), Images((1, 8, 8)), batches, pinned=False)))


def test_weight_decay_and_lr_scale_reach_the_right_parameters():
    """Every parameter is in one group; only networks' weights decay; sigma_2 learns at its own rate."""
    model = glow((3, 8, 8), flow=Glow(levels=1, depth=2, width=8))
    groups = parameter_groups(model, 1e-3, 0.1)
    ours = [id(p) for g in groups for p in g["params"]]
    assert sorted(ours) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in decayed) == ("weight" in name.rpartition(".")[2]), name
    variational = vae((1, 8, 8), coder=SMALL, decoder=GaussianDecoder(lr_scale=30.0))
    fast = [g for g in parameter_groups(variational, 1e-3, 0.0) if g["lr"] == pytest.approx(0.03)]
    assert [id(p) for g in fast for p in g["params"]] == [id(variational.decoder.conditioner.log_std)]


def test_average_is_a_weighted_mean_that_short_runs_shorten():
    """d grows from 1/10 to --train.ema, and average <- d average + (1 - d) weights."""
    assert decay(0.999, 1) == pytest.approx(1 / 10)
    assert decay(0.9, 1000) == 0.9 and decay(0.0, 5) == 0.0
    training = Training(vae((1, 8, 8), coder=SMALL), TrainSettings(), toy_images(1))
    before = [p.clone() for p in training.average.parameters()]
    with torch.no_grad():
        for p in training.model.parameters():
            p += 1
    training.update_average(1)
    for p, old in zip(training.average.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.9)


class Poisoned(Training):
    """Its loss is not finite at the steps of ``at``."""

    at: set[int] = {3, 4}

    def training_step(self, x, index):
        loss = super().training_step(x, index)
        return loss * float("nan") if self.global_step in self.at else loss


def test_steps_that_are_not_finite_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("fvae.train.Training", Poisoned)
    model, images = vae((1, 8, 8), coder=SMALL), toy_images()
    settings = TrainSettings(steps=8, batch_size=8, every=4, test_images=8, accelerator="cpu")
    lines: list[str] = []
    last = train(model, images, images, tmp_path / "run", settings, report=lines.append)
    assert last["skipped_steps"] == 2
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert "2 non-finite steps skipped" in lines[-1]


def test_many_non_finite_steps_in_a_row_stop_with_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("fvae.train.Training", Poisoned)
    monkeypatch.setattr(Poisoned, "at", set(range(1000)))
    settings = TrainSettings(steps=100, batch_size=8, every=100, test_images=8, accelerator="cpu")
    with pytest.raises(UserError, match="50 steps in a row had no finite gradient; try a smaller"):
        train(vae((1, 8, 8), coder=SMALL), toy_images(), toy_images(), tmp_path / "run", settings)


@pytest.mark.parametrize(("amount", "warned"), [(8, True), (255, False)])
def test_a_decoder_too_wide_for_the_data_is_warned_of(tmp_path, amount, warned):
    """sigma_2 above the data's largest singular value over sqrt(N) makes codes that say nothing the best: a line."""
    images = toy_images()
    images.values[:] = images.values // (256 // amount)
    model = vae((1, 8, 8), coder=SMALL, decoder=GaussianDecoder(sigma=0.3, std="fixed"))
    flat = images.values.reshape(len(images), -1) / 128
    largest = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[0] / np.sqrt(len(flat))
    assert widest(model, images) == pytest.approx(largest, rel=1e-5) and (largest < 0.3) == warned
    lines: list[str] = []
    train(model, images, images, tmp_path / "run", quick(2), report=lines.append)
    told = [line for line in lines if f"sigma_2 0.3 is above {largest:.3g}" in line]
    assert [line.endswith("a smaller --model.decoder.sigma") for line in told] == [True] * warned


def test_compiled_training_is_the_same(tmp_path, monkeypatch):
    """--train.compile takes the whole step as one graph, which is not traced again, and gives the same weights."""
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    images, settings = toy_images(), TrainSettings(steps=4, batch_size=8, every=2, test_images=8, accelerator="cpu")
    rows = []
    for compile in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = f_vae((1, 8, 8), coder=Squeezing(hidden=8), flow=Glow(levels=1, depth=2, width=8))
        settings.compile = compile
        with torch._dynamo.config.patch(error_on_recompile=True):
            rows.append(train(model, images, images, tmp_path / str(compile), settings, report=lambda line: None))
    assert rows[0]["test_bits_per_dim"] == pytest.approx(rows[1]["test_bits_per_dim"], rel=1e-4)


def toy_rows(n: int = 400) -> Samples:
    """Two columns, on a ring, of units far from 1."""
    t, r = np.random.default_rng(0).normal(size=(2, n)) * [[10], [0.05]] + [[0], [1]]
    x = np.stack([1000 + 100 * r * np.cos(t), 0.01 * r * np.sin(t)], 1).astype(np.float32)
    return Samples(x, [str(i) for i in range(n)], (t > 0).astype(np.int64), [], Table((2,), columns=["a", "b"]))


def quick(steps: int, **rest) -> TrainSettings:
    values = {"steps": steps, "batch_size": 16, "every": steps, "test_images": 64, "accelerator": "cpu", **rest}
    return TrainSettings(**values)


def test_a_run_on_rows_learns_and_tells_nats(tmp_path):
    """Its bound is of the data in their own units: below that of a Gaussian of the same covariance."""
    data, test = toy_rows(2000), toy_rows(2000)
    model = glow((2,), flow=Glow(depth=6, width=32))
    last = train(model, data, test, tmp_path / "run", quick(300, batch_size=64, lr=5e-3), report=lambda line: None)
    log_det = np.linalg.slogdet(np.cov(data.values.T.astype(float)))[1]
    assert last["test_nats"] < 0.5 * log_det + 1 + np.log(2 * np.pi) - 0.1
    assert last["test_nats"] == pytest.approx(last["test_rate_nats"] + last["test_distortion_nats"], rel=1e-5)
    assert not any("bits" in key for key in last) and last["train_nats"] < 5
    names = (tmp_path / "run/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_nats", "test_nats", "test_rate_nats", "test_distortion_nats"} < set(names)
    assert [p.name for p in (tmp_path / "run/samples").iterdir()] == ["step_0000300.png"]


@pytest.mark.parametrize("n", [513, 514, 2049])
def test_statistics_of_evaluation_are_those_of_the_data(tmp_path, n):
    """Whatever is left over by batches of 512: the kept statistics normalise the training data."""
    model = bn_vae((2,), coder=SMALL)
    train(model, toy_rows(n), toy_rows(20), tmp_path, quick(2), report=print)
    kept = load(tmp_path)
    mean, log_std = kept.gaussian_of(kept.preprocess(torch.from_numpy(toy_rows(n).values))[0], None)
    total = (mean.square() + torch.exp(2 * log_std)).mean(0)
    torch.testing.assert_close(mean.mean(0), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=0.02)


def test_a_batch_of_one_cannot_be_normalised(tmp_path):
    with pytest.raises(UserError, match=r"--train.batch_size 1: this model normalises over a batch; expected 2"):
        train(bn_vae((2,), coder=SMALL), toy_rows(), toy_rows(20), tmp_path, quick(2, batch_size=1))


@pytest.mark.parametrize("make", [toy_rows, toy_images])
def test_labels_reach_the_right_samples(tmp_path, make, monkeypatch):
    """Every call of the model, to initialise, train or evaluate, gets each sample with its own label."""
    data, seen = make(), []
    labels = np.arange(len(data)) % 7
    data.values.reshape(len(data), -1)[:, 0] = labels
    data = Samples(data.values, data.names, labels, [], data.modality)
    model = cvae(data.shape, classes=7, coder=SMALL)
    means = model.prior.flows[1].flow.conditioner.mean
    before = means.detach().clone()

    def check(model, x, y, *args, own=LatentModel.draws, **kwargs):
        assert torch.equal(x.flatten(1)[:, 0].long(), y)
        seen.append(len(x))
        return own(model, x, y, *args, **kwargs)

    monkeypatch.setattr(LatentModel, "draws", check)
    train(model, data, data, tmp_path / "run", quick(4), report=lambda line: None)
    assert len(seen) >= 6 and (means != before).all()


@pytest.mark.parametrize("classes", [0, 2])
def test_other_labels_are_other_data_where_they_are_used(tmp_path, classes):
    data, model = toy_rows(), glow((2,), flow=Glow(depth=1, width=8), classes=classes)
    train(model, data, data, tmp_path / "run", quick(2), report=lambda line: None)
    assert step_to_resume(tmp_path / "run", model, data) == 2
    others = Samples(data.values, data.names, 1 - data.labels)
    if not classes:
        assert step_to_resume(tmp_path / "run", model, others) == 2
    else:
        with pytest.raises(UserError, match="was begun with other data"):
            step_to_resume(tmp_path / "run", model, others)


STATISTICS = {
    "one-sided": functools.partial(bn_vae, posterior=OneSided()),
    "two-sided": bn_vae,
    "of classes": functools.partial(bn_vae, classes=2),
    "optimal sigma_2": functools.partial(vae, decoder=GaussianDecoder(std="optimal", likelihood="density")),
}


@pytest.mark.parametrize("make", STATISTICS)
@pytest.mark.parametrize("data", [toy_rows(64), toy_images()], ids=["rows", "images"])
def test_batch_statistics_are_resumed_bit_equal(tmp_path, make, data):
    """Weights, running statistics and bounds of a run in two parts are those of one; and its model has them too."""
    data = Samples(data.values, data.names, np.arange(64) % 2, [], data.modality)

    def go(run: str, steps: int, resume: bool = False) -> dict[str, float]:
        torch.manual_seed(0)
        model = STATISTICS[make](data.shape, coder=SMALL)
        return train(model, data, data, tmp_path / run, quick(steps), resume, report=lambda line: None)

    whole = go("whole", 12)
    go("parts", 5)
    parts = go("parts", 12, resume=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert {k: v for k, v in whole.items() if "test" in k} == {k: v for k, v in parts.items() if "test" in k}
    counts = {name: int(w) for name, w in weights(tmp_path / "whole").items() if name.endswith("running.count")}
    assert {n for name, n in counts.items() if name.startswith("model.")} == {1 + 12}  # actnorms' batch, and the steps


def test_bf16_keeps_the_flow_in_float32(tmp_path):
    """Under bf16-mixed the networks compute in bfloat16, terms and saved weights stay float32, and it trains."""
    model, images = glow((1, 8, 8), flow=Glow(levels=1, depth=2, width=16), bits=4), toy_images()
    seen: dict[str, torch.dtype] = {}
    network = next(m for m in model.modules() if isinstance(m, CouplingNet))
    network.register_forward_hook(lambda m, args, out: seen.update(network=out.dtype))
    model.register_forward_hook(lambda m, args, out: seen.update(terms=out.log_z.dtype))
    settings = TrainSettings(
        steps=6, batch_size=8, every=6, test_images=8, accelerator="cpu", precision="bf16-mixed", warmup=0
    )
    train(model, images, images, tmp_path / "run", settings, report=lambda line: None)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert seen["terms"] == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.from_numpy(images.values[:4] >> 4))
    assert seen["network"] == torch.bfloat16


def test_time_budget_ends_the_run_and_is_kept_across_sessions(tmp_path):
    images = toy_images()
    settings = TrainSettings(minutes=0.02, batch_size=8, every=20, test_images=8, accelerator="cpu")
    first = train(vae((1, 8, 8), coder=SMALL), images, images, tmp_path / "run", settings)
    assert 1.2 <= first["seconds"] < 30
    began = time.monotonic()
    again = train(vae((1, 8, 8), coder=SMALL), images, images, tmp_path / "run", settings, resume=True)
    assert again["seconds"] >= first["seconds"]
    assert again["step"] <= first["step"] + 20
    assert time.monotonic() - began < 60
