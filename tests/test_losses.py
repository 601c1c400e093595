"""The figures of every recipe on fixed weights and data: what no change of structure may change."""

import json
import math
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from fvae.recipes import RECIPES
from fvae.runs.renamed import renamed

GENERATOR = torch.Generator()


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@contextmanager
def fixed_permutations():
    """Random permutations are drawn in the order of construction, whatever else is drawn between them."""
    generator, before = torch.Generator().manual_seed(5), torch.randperm
    with mock.patch.object(torch, "randperm", lambda n, **_: before(n, generator=generator)):
        yield


@torch.no_grad()
def fix_weights(model):
    """Every random weight becomes 0.1 N(0, 1), every constant one is moved by as much."""
    model.double()
    GENERATOR.manual_seed(1)
    for p in model.parameters():
        start = p if p.numel() and (p == p.flatten()[0]).all() else torch.zeros_like(p)
        scale = min(0.1, 0.5 / math.sqrt(p[0].numel() or 1)) if p.dim() > 1 and len(p) else 0.1
        p.copy_(start + scale * normal(*p.shape))
    for m in model.modules():
        if hasattr(m, "signs"):
            m.order.copy_(torch.randperm(len(m.order), generator=GENERATOR))
            m.signs.copy_(torch.randint(2, m.signs.shape, generator=GENERATOR) * 2.0 - 1)
    return model


@torch.no_grad()
def figures(model, x, classes):
    """Rate and distortion in training and in evaluation, and a sum over codes and reconstructions."""
    GENERATOR.manual_seed(2)
    y = torch.randint(classes, (len(x),), generator=GENERATOR) if classes else None
    u = normal(len(x), *model.noise_shape)
    found = []
    for training in (True, False):
        terms = model.train(training)(x, y, u)
        found += [terms.rate.mean(), terms.distortion.mean()]
    e = model.encode(x, y)
    back = model.decode(e, y).double()
    return [float(v) for v in (*found, e.square().mean(), back.mean(), back.square().mean())]


def image_bins(shape, bits, n=6):
    GENERATOR.manual_seed(3)
    return torch.randint(2**bits, (n, *shape), generator=GENERATOR).double()


def rows(d, n=6):
    GENERATOR.manual_seed(3)
    return normal(n, d)


def sentences(length, vocabulary, n=6):
    GENERATOR.manual_seed(3)
    x = torch.randint(4, vocabulary, (n, length), generator=GENERATOR)
    for i in range(n):
        end = 1 + i % (length - 1)
        x[i, end], x[i, end + 1 :] = 2, 0
    return x.int()


# A row has the recipe, its shape and its settings (under the names of then, which ``renamed`` knows), the number of
# parameters, and the figures: rate and distortion in training and in evaluation, the mean square of codes (null: there
# are none), mean and mean square of what is decoded. Recorded before the second edition, at fb626cc.
TABLE = json.loads(Path(__file__).with_name("losses.json").read_text())


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_figures_on_fixed_weights(row):
    """As many parameters, and the same rate, distortion, codes and reconstructions, as recorded."""
    recipe, shape = row["recipe"], tuple(row["shape"])
    with fixed_permutations():
        torch.manual_seed(0)
        model = RECIPES[recipe](shape, **renamed(recipe, row["settings"]))
    assert sum(p.numel() for p in model.parameters()) == row["parameters"]
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fix_weights(model)
    settings = model.config["settings"]
    x = {1: rows, 2: sentences, 3: lambda *shape: image_bins(shape, settings["bits"])}[len(shape)](*shape)
    found = figures(model, x, settings.get("classes", 0))
    expected = [math.nan if v is None else v for v in row["figures"]]
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8, nan_ok=True)
