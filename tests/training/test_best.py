"""A training keeps its best weights and is kept itself: at evaluations, by time, and when it is interrupted."""

import shutil
import signal

import numpy as np
import pytest
import torch

from fvae import fit, load
from fvae.data import Samples, Table
from fvae.errors import InputError
from fvae.metrics import bounds
from fvae.recipes import GaussianDecoder, Glow, Strided, bn_vae, glow
from fvae.runs.folder import CHECKPOINT, read_metrics
from fvae.training import Callback

# A flow of this rate on few rows soon overfits
OVERFITTING = {"batch_size": 16, "accelerator": "cpu", "progress": False, "lr": 2e-2, "warmup": 1, "steps": 60}
OVERFITTING |= {"eval_interval": 10}


def rows(n: int, seed: int) -> Samples:
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return Samples(x, [str(i) for i in range(n)], None, [], Table((4,), columns=list("abcd")))


TRAIN, TEST = rows(20, 0), rows(30, 1)
CODER = Strided(size=2, width=8, levels=1)
MAKE = {
    "flow": lambda: glow((4,), flow=Glow(depth=4, width=32)),
    "statistics": lambda: bn_vae((4,), coder=CODER, decoder=GaussianDecoder(sigma=0.5, std="fixed")),
}


def train(make: str = "flow", **more):
    """The model and its rows of figures."""
    torch.manual_seed(0)
    model = MAKE[make]()
    return model, fit(model, TRAIN, TEST, **OVERFITTING | more)


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and all(torch.equal(w, b[name]) for name, w in a.items())


class Send(Callback):
    """Sends a signal after a step, as Ctrl-C and a scheduler do."""

    def __init__(self, step: int, number: int = signal.SIGINT):
        self.step, self.number = step, number

    def on_step(self, trainer):
        if trainer.step == self.step:
            signal.raise_signal(self.number)
            self.returned = True


def test_the_best_evaluation_is_kept(tmp_path):
    """In memory, in the run folder and in its figures; the checkpoint has the last weights."""
    model, found = train(run=tmp_path)
    figures = [row["test_nats"] for row in found]
    best = found[int(np.argmin(figures))]
    assert best["step"] < 60 and min(figures) < figures[-1] - 1
    assert bounds(model, TEST).loss.mean() == pytest.approx(min(figures), abs=1e-6)
    assert_equal(model.state_dict(), load(tmp_path).state_dict())
    assert model.step == load(tmp_path).step == best["step"]
    last = read_metrics(tmp_path)[-1]
    assert (last["best_step"], last["best_nats"]) == (best["step"], pytest.approx(min(figures)))
    average = torch.load(tmp_path / CHECKPOINT, weights_only=True)["average"]
    assert any((w != average[name]).any() for name, w in model.state_dict().items())


def test_patience_ends_a_training_that_gets_no_better(tmp_path):
    _, found = train(run=tmp_path, patience=2)
    assert found[-1]["step"] == found[-1]["best_step"] + 20 < 60
    assert train(run=tmp_path, patience=2, resume=True)[1] == found
    assert train(run=tmp_path, resume=True)[1][-1]["step"] == 60


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGINT), (57, signal.SIGTERM)])
def test_an_interrupted_training_is_resumed_bit_equal(make, step, number, tmp_path):
    """A signal takes effect after a step and a checkpoint, from which all comes out as if there had been none."""

    def terminate(*_):
        raise KeyboardInterrupt

    (model, whole), send = train(make, run=tmp_path / "whole"), Send(step, number)
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(make, run=tmp_path / "r", callbacks=[send], checkpoint_minutes=1e-4)
        assert send.returned and signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, before)
    state = torch.load(tmp_path / "r" / CHECKPOINT, weights_only=True)
    assert state["step"] == step and len(list((tmp_path / "r/samples").iterdir())) >= 1
    assert load(tmp_path / "r").step == (step if step < 10 else state["rows"][-1]["best_step"])
    again, parts = train(make, run=tmp_path / "r", resume=True)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in parts] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in whole
    ]
    for name in ("model", "average"):
        a, b = (torch.load(tmp_path / r / CHECKPOINT, weights_only=True)[name] for r in ("whole", "r"))
        assert_equal(a, b)
    assert_equal(model.state_dict(), again.state_dict())
    assert_equal(model.state_dict(), load(tmp_path / "r").state_dict())


def test_checkpoints_are_written_by_time(tmp_path):
    """Before the first evaluation, too; the model can then be used, without its checkpoints."""
    kept = []

    class Look(Callback):
        def on_checkpoint(self, trainer):
            kept.append(torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"])
            if trainer.step == 1:
                assert load(tmp_path).step == 1 and len(list((tmp_path / "samples").iterdir())) == 1

    train(run=tmp_path, steps=6, checkpoint_minutes=1e-9, callbacks=[Look()])
    assert kept == [1, 2, 3, 4, 5]
    shutil.rmtree(tmp_path / "checkpoints")
    assert load(tmp_path).step == 6


def test_a_budget_spent_before_the_first_evaluation_is_evaluated(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(run=tmp_path, callbacks=[Send(3)])
    assert [row["step"] for row in train(run=tmp_path, resume=True, steps=2)[1]] == [3]


def test_settings_of_a_resumed_training_are_todays(tmp_path):
    groups, changed = [], []

    class Look(Callback):
        def on_start(self, trainer):
            changed.extend(trainer.changed)

        def on_end(self, trainer):
            groups.extend(trainer.optimizer.param_groups)

    train(run=tmp_path, steps=2)
    train(run=tmp_path, resume=True, steps=4, lr=1e-4, weight_decay=0.1, batch_size=8, callbacks=[Look()])
    assert changed == [
        "train.steps 4 (was 2)",
        "train.batch_size 8 (was 16)",
        "train.lr 0.0001 (was 0.02)",
        "train.weight_decay 0.1 (was 0.0)",
    ]
    assert {group["lr"] for group in groups} == {1e-4} and {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_a_resume_that_is_refused_changes_nothing(tmp_path):
    train(run=tmp_path, steps=2)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(InputError, match=r"model\.safetensors: expected a file, found a folder"):
        train(run=tmp_path, resume=True, steps=4)
    assert (tmp_path / "config.yaml").read_bytes() == before
