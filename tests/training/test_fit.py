"""``fit``: what a training does, in memory and into a run folder."""

import functools
import time
import warnings

import numpy as np
import pytest
import torch
from text_models import make_text_vae

from fvae import fit, load, save
from fvae.data import Images, Samples, Table, Text, Tokenizer
from fvae.errors import InputError
from fvae.model import LatentModel
from fvae.recipes import GaussianDecoder, Glow, OneSided, Squeezing, Strided, bn_vae, cvae, f_vae, glow, vae
from fvae.runs.config import run_config
from fvae.runs.folder import CHECKPOINT, data_digest, read_checkpoint
from fvae.training import Callback
from fvae.training.fit import largest_deviation
from fvae.training.optimization import average_decay
from fvae.training.trainer import Trainer

SMALL = Strided(size=2, width=8, levels=1)
QUICK = {"batch_size": 16, "eval_samples": 64, "accelerator": "cpu", "progress": False}


def toy_images(n: int = 64, shape=(1, 8, 8), seed: int = 0) -> Samples:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return Samples(pixels, [str(i) for i in range(n)], modality=Images(pixels.shape[1:]))


def toy_rows(n: int = 400) -> Samples:
    """Two columns, on a ring, of units far from 1."""
    t, r = np.random.default_rng(0).normal(size=(2, n)) * [[10], [0.05]] + [[0], [1]]
    x = np.stack([1000 + 100 * r * np.cos(t), 0.01 * r * np.sin(t)], 1).astype(np.float32)
    return Samples(x, [str(i) for i in range(n)], (t > 0).astype(np.int64), [], Table((2,), columns=["a", "b"]))


def test_fit_trains_in_memory(tmp_path, monkeypatch, capsys):
    """It writes and prints nothing, draws no random number of others', and leaves the model with averaged weights."""
    monkeypatch.chdir(tmp_path)
    images = toy_images()
    model = vae((1, 8, 8), coder=SMALL)
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(Callback):
        def on_evaluation(self, trainer, row):
            kept.append({name: w.clone() for name, w in trainer.average.state_dict().items()})

    arguments, random = QUICK | {"progress": True}, torch.get_rng_state()
    rows = fit(model, images.values, images.values, steps=7, eval_interval=3, callbacks=[Keep()], **arguments)
    assert [row["step"] for row in rows] == [3, 6, 7] == sorted({row["step"] for row in rows})
    assert torch.equal(torch.get_rng_state(), random)
    assert not list(tmp_path.iterdir()) and capsys.readouterr() == ("", "")
    assert not model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(w, kept[-1][name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize("kind", ["array", "tensor", "Dataset", "DataFrame", "Samples"])
def test_fit_gives_one_result_for_every_form_of_data(kind):
    import pandas

    rows = toy_rows(100).values
    data = {
        "array": lambda: rows,
        "tensor": lambda: torch.from_numpy(rows),
        "Dataset": lambda: [(row, 0) for row in rows] and torch.utils.data.TensorDataset(torch.from_numpy(rows)),
        "DataFrame": lambda: pandas.DataFrame(rows, columns=["a", "b"]),
        "Samples": lambda: toy_rows(100),
    }[kind]()
    torch.manual_seed(0)
    model = glow((2,), flow=Glow(depth=1, width=8))
    fit(model, data, rows, steps=3, **QUICK)
    torch.manual_seed(0)
    other = glow((2,), flow=Glow(depth=1, width=8))
    fit(other, rows, rows, steps=3, **QUICK)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_labels_of_held_out_data_are_given_beside_them():
    """In a pair; without them a model that is conditioned on labels can't be evaluated."""
    data = toy_rows(60)
    model = cvae((2,), classes=2, coder=SMALL)
    fit(model, data.values, (data.values, data.labels), labels=data.labels, steps=2, **QUICK)
    with pytest.raises(InputError, match=r"^test: expected labels from 0 to 1, .* found none"):
        fit(model, data.values, data.values, labels=data.labels, steps=2, **QUICK)


def test_paths_are_read(tmp_path):
    """Data are divided, unless others are held out, which are taken whole; and the run knows its source."""
    path, other, sizes = tmp_path / "a.csv", tmp_path / "b.csv", []
    for name, n in ((path, 100), (other, 20)):
        np.savetxt(name, toy_rows(n).values, delimiter=",")

    class Keep(Callback):
        def on_start(self, trainer):
            sizes.append((len(trainer.data), len(trainer.test)))

    for test in (None, other):
        model = glow((2,), flow=Glow(depth=1, width=8))
        fit(model, path, test, run=tmp_path / f"run {len(sizes)}", steps=1, callbacks=[Keep()], **QUICK)
    assert sum(sizes[0]) == 100 and sizes[1] == (sizes[0][0], 20)
    assert run_config(tmp_path / "run 0")["data"]["source"] == str(path)


@pytest.mark.parametrize(
    ("make", "data", "test", "message"),
    [
        (toy_rows, "digits", None, "data: digits: expected rows as the model has, found images"),
        (toy_rows, toy_images(), None, "data: expected rows, found images"),
        (toy_rows, toy_rows(), "none.csv", "test: none.csv: no such file"),
        (toy_rows, toy_rows(), toy_rows().values[0], r"test: expected \(N, 2\) for this model, found \(2,\)"),
        (
            toy_images,
            toy_images(),
            toy_images(shape=(1, 6, 6)),
            "test: expected images of 8x8 gray, found images",
        ),
        (toy_images, toy_images(shape=(3, 8, 8)), None, "data: expected images of 8x8 gray, found images of 8x8 rgb"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(make, data, test, message):
    with pytest.raises(InputError, match=f"^{message}"):
        fit(vae(make().shape, coder=SMALL), data, test, steps=1, **QUICK)


def test_text_of_another_tokenizer_is_refused():
    first, second = (Tokenizer.train(lines, "word", 12, 8) for lines in (["a b c"] * 2, ["d e f"] * 2))
    model = make_text_vae(shape=first.shape)
    fit(model, Text(first.shape, (), first).read(["a b", "b c", "c"]), steps=1, **QUICK)
    with pytest.raises(InputError, match=r"^data: expected sentences as the model's tokenizer encodes them, found"):
        fit(model, Text(second.shape, (), second).read(["d e", "e f", "f"]), steps=1, **QUICK)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_trained_model_is_trained_further(loaded, tmp_path):
    """On other data too: what was set from the first is not set anew."""
    data = toy_rows()
    model = glow((2,), flow=Glow(depth=1, width=8))
    fit(model, data, data, steps=1, **QUICK)
    if loaded:
        save(model, tmp_path)
        model = load(tmp_path)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    fit(model, 3 + 2 * data.values, data, steps=1, lr=1e-9, **QUICK)
    for name, w in model.state_dict().items():
        torch.testing.assert_close(w, before[name])


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (functools.partial(vae, (2,), coder=SMALL), {"aggressive": True}),
        (functools.partial(glow, (2,), flow=Glow(depth=1, width=8)), {"reversible": True}),
    ],
)
def test_an_interruption_leaves_a_model_to_use(make, settings):
    """With averaged weights, in evaluation mode, and as it was in all else."""
    model, kept = make(), []

    class Interrupt(Callback):
        def on_step(self, trainer):
            if trainer.step == 2:
                kept.append(trainer.average.state_dict())
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, toy_rows(), steps=3, callbacks=[Interrupt()], **settings, **QUICK)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    assert not any(getattr(m, "reversible", False) for m in model.modules())
    assert all(torch.equal(w, kept[0][name]) for name, w in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: input should be greater than or equal to 1, found 0"),
        ({"stepz": 1}, "stepz: no such setting; did you mean steps"),
        ({"batch_size": 9, "accumulate": 2}, "batch_size: expected a multiple of 1 devices times 2 parts, found 9"),
        ({"batch_size": 1}, "batch_size: 1: this model normalizes over a batch; expected 2 samples or more"),
        ({"labels": [0]}, "labels: "),
        ({"accelerator": "tpu"}, "accelerator: tpu: not possible on this machine: "),
        ({"aggressive": True, "devices": 2}, "aggressive: expected 1 device, .* found 2"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(bn_vae((2,), coder=SMALL), toy_rows().values, **QUICK | settings)


def test_average_is_a_weighted_mean_that_short_trainings_shorten():
    """d grows from 1/10 to ema, and average <- d average + (1 - d) weights."""
    assert average_decay(0.999, 1) == pytest.approx(1 / 10)
    assert average_decay(0.9, 1000) == 0.9 and average_decay(0.0, 5) == 0.0
    weights: list[torch.Tensor] = []

    class Compare(Callback):
        def on_start(self, trainer):
            self.expected = [p.clone() for p in trainer.average.parameters()]

        def on_step(self, trainer):
            d = average_decay(0.99, trainer.step)
            self.expected = [
                d * old + (1 - d) * p for old, p in zip(self.expected, trainer.model.parameters(), strict=True)
            ]
            for p, expected in zip(trainer.average.parameters(), self.expected, strict=True):
                torch.testing.assert_close(p, expected)
            weights.append(p)

    fit(vae((1, 8, 8), coder=SMALL), toy_images(), steps=4, ema=0.99, callbacks=[Compare()], **QUICK)
    assert len(weights) == 4


@pytest.mark.parametrize("make", [vae, functools.partial(vae, decoder=GaussianDecoder(std="fixed"))])
def test_accumulated_gradients_are_those_of_the_whole_batch(make):
    """In one part or in four: the same samples, noise and steps."""
    found = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = make((2,), coder=SMALL).double()
        data = toy_rows(64)
        fit(model, data, data, steps=3, accumulate=accumulate, **QUICK)
        found.append(model.state_dict())
    for name, w in found[0].items():
        torch.testing.assert_close(found[1][name], w, rtol=1e-9, atol=1e-9)


@pytest.fixture
def poisoned(monkeypatch) -> set[int]:
    """Steps whose loss is not finite."""
    steps: set[int] = set()
    loss = Trainer.loss
    monkeypatch.setattr(Trainer, "loss", lambda self, t: loss(self, t) * (float("nan") if self.step in steps else 1))
    return steps


def test_steps_that_are_not_finite_are_skipped_and_counted(poisoned):
    poisoned |= {3, 4}
    model = vae((1, 8, 8), coder=SMALL)
    rows = fit(model, toy_images(), steps=8, eval_interval=4, **QUICK)
    assert [row["skipped_steps"] for row in rows] == [1, 2]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_many_non_finite_steps_in_a_row_stop_with_a_message(poisoned):
    poisoned |= set(range(1000))
    with pytest.raises(InputError, match=r"50 steps in a row had no finite gradient; try less than 0\.001"):
        fit(vae((1, 8, 8), coder=SMALL), toy_images(), steps=100, **QUICK)


@pytest.mark.parametrize(("amount", "warned"), [(8, True), (255, False)])
def test_a_decoder_too_wide_for_the_data_is_warned_of(amount, warned):
    """sigma_2 above the data's largest singular value over sqrt(N) makes codes that say nothing the best."""
    images = toy_images()
    images.values[:] = images.values // (256 // amount)
    model = vae((1, 8, 8), coder=SMALL, decoder=GaussianDecoder(sigma=0.3, std="fixed"))
    flat = images.values.reshape(len(images), -1) / 128
    largest = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[0] / np.sqrt(len(flat))
    assert largest_deviation(model, images) == pytest.approx(largest, rel=1e-5) and (largest < 0.3) == warned
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(model, images, images, steps=2, **QUICK)
    assert any(f"sigma_2 0.3 is above {largest:.3g}" in str(w.message) for w in found) == warned


def test_compiled_training_is_the_same(monkeypatch):
    """A step is one graph, which is not traced again, and gives the same weights."""
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    images, found = toy_images(), []
    for compile in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = f_vae((1, 8, 8), coder=Squeezing(hidden=8), flow=Glow(levels=1, depth=2, width=8))
        with torch._dynamo.config.patch(error_on_recompile=True):
            found.append(fit(model, images, images, steps=4, compile=compile, **QUICK)[-1])
    assert found[0]["test_bits_per_dim"] == pytest.approx(found[1]["test_bits_per_dim"], rel=1e-4)


def test_a_table_is_learned_and_reported_in_nats(tmp_path):
    """Its bound is of the data in their own units: below that of a Gaussian of the same covariance."""
    data, test = toy_rows(2000), toy_rows(2000)
    model = glow((2,), flow=Glow(depth=6, width=32))
    settings = QUICK | {"batch_size": 64, "lr": 5e-3, "steps": 300, "eval_interval": 300}
    last = fit(model, data, test, run=tmp_path / "run", **settings)[-1]
    log_det = np.linalg.slogdet(np.cov(data.values.T.astype(float)))[1]
    assert last["test_nats"] < 0.5 * log_det + 1 + np.log(2 * np.pi) - 0.1
    assert last["test_nats"] == pytest.approx(last["test_rate_nats"] + last["test_distortion_nats"], rel=1e-5)
    assert not any("bits" in key for key in last) and last["train_nats"] < 5
    names = (tmp_path / "run/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train_nats", "test_nats", "test_rate_nats", "test_distortion_nats"} < set(names)
    assert [p.name for p in (tmp_path / "run/samples").iterdir()] == ["step_0000300.png"]


@pytest.mark.parametrize("n", [513, 514, 2049])
def test_statistics_of_evaluation_are_those_of_the_data(n):
    """Whatever is left over by batches of 512: the kept statistics normalize the training data."""
    model = bn_vae((2,), coder=SMALL)
    fit(model, toy_rows(n), toy_rows(20), steps=2, **QUICK)
    mean, log_std = model.gaussian_of(model.preprocess(torch.from_numpy(toy_rows(n).values))[0], None)
    total = (mean.square() + torch.exp(2 * log_std)).mean(0)
    torch.testing.assert_close(mean.mean(0), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(total, torch.ones(2), rtol=0, atol=0.02)


@pytest.mark.parametrize("make", [toy_rows, toy_images])
def test_labels_reach_the_right_samples(make, monkeypatch):
    """Every call of the model, to initialize, train or evaluate, gets each sample with its own label."""
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
    fit(model, data, data, steps=4, allow_degenerate=True, **QUICK)
    assert len(seen) >= 6 and (means != before).all()


@pytest.mark.parametrize("classes", [0, 2])
def test_a_run_is_resumed_with_its_own_data_only(tmp_path, classes):
    """Other labels are other data where the model uses them."""
    data, model = toy_rows(), glow((2,), flow=Glow(depth=1, width=8), classes=classes)
    fit(model, data, data, run=tmp_path, steps=2, **QUICK)
    others = Samples(data.values, data.names, 1 - data.labels, [], data.modality)
    if not classes:
        assert fit(model, others, data, run=tmp_path, resume=True, steps=3, **QUICK)[-1]["step"] == 3
    else:
        with pytest.raises(InputError, match="was trained on other data than these"):
            fit(model, others, data, run=tmp_path, resume=True, steps=3, **QUICK)
        assert read_checkpoint(tmp_path, model, data_digest(data), torch.device("cpu"))["step"] == 2


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

    def train(run: str, steps: int, resume: bool = False) -> dict[str, float]:
        torch.manual_seed(0)
        model = STATISTICS[make](data.shape, coder=SMALL)
        return fit(model, data, data, run=tmp_path / run, steps=steps, resume=resume, **QUICK)[-1]

    def weights(run: str) -> dict[str, torch.Tensor]:
        state = torch.load(tmp_path / run / CHECKPOINT, weights_only=True)
        return load(tmp_path / run).state_dict() | {f"training {name}": w for name, w in state["model"].items()}

    whole = train("whole", 12)
    train("parts", 5)
    parts = train("parts", 12, resume=True)
    a, b = weights("whole"), weights("parts")
    assert a.keys() == b.keys() and all(torch.equal(w, b[name]) for name, w in a.items())
    assert {k: v for k, v in whole.items() if "test" in k} == {k: v for k, v in parts.items() if "test" in k}
    counts = {name: int(w) for name, w in a.items() if name.endswith("running.count")}
    assert {n for name, n in counts.items() if name.startswith("training")} == {1 + 12}  # initialization, and the steps


def test_time_budget_ends_the_run_and_is_kept_across_sessions(tmp_path):
    images = toy_images()
    settings = QUICK | {"minutes": 0.02, "eval_interval": 20, "run": tmp_path}
    first = fit(vae((1, 8, 8), coder=SMALL), images, images, **settings)[-1]
    assert 1.2 <= first["seconds"] < 30
    began = time.monotonic()
    again = fit(vae((1, 8, 8), coder=SMALL), images, images, resume=True, **settings)[-1]
    assert again["seconds"] >= first["seconds"]
    assert again["step"] <= first["step"] + 20
    assert time.monotonic() - began < 60


def test_a_gamma_that_forces_holes_is_warned_of():
    """Where the prior is N(0, I), and of a gamma of 1 or more; a flow can learn the codes' variance."""
    settings = {"steps": 2, **QUICK}
    with pytest.warns(UserWarning, match=r"^posterior.gamma: the codes have a variance above 1.44"):
        fit(bn_vae((2,), coder=SMALL, posterior=OneSided(gamma=1.2)), toy_rows(), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(bn_vae((2,), coder=SMALL, posterior=OneSided(gamma=0.9)), toy_rows(), **settings)
        flow = Glow(depth=1, width=8)
        fit(bn_vae((2,), coder=SMALL, posterior=OneSided(gamma=1.2), flow=flow), toy_rows(), **settings)
