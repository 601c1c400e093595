"""What is seen in data before training, and the bounds of trivial models."""

import math

import numpy as np
import pytest
import torch
from sources import LINES, read, write_lines

from fvae.data import Samples, Table, from_memory, inspect
from fvae.data.images import Images

PICTURES = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 4), dtype=np.uint8)


def seen(values: np.ndarray, labels: list[int] | None = None, test: np.ndarray | None = None) -> list[str]:
    images = Images(values.shape[1:])
    return inspect(
        from_memory(values, labels, images), from_memory(PICTURES[:2] if test is None else test, like=images)
    )


def test_sound_data_are_not_remarked_on():
    assert seen(PICTURES[2:]) == seen(PICTURES[2:], [0, 1] * 19) == []


def test_what_is_unusual_is_named():
    """Copies, samples on both sides, one label, rare labels, images of one color, channels without values."""
    train = PICTURES[2:]
    black, red = np.zeros_like(train[:1]), train.copy()
    red[:, 1:] = 7
    for found, expected in (
        (seen(np.concatenate([train, train[:3]])), "41 training images: 3 of them are copies of others"),
        (seen(train[[0] * 5]), "5 training images: all are equal"),
        (seen(train, test=train[:2]), "2 of 2 held-out images are among the training images too"),
        (seen(train, [1] * 38), "all 38 training images have the label 1"),
        (seen(train, [0] * 37 + [1]), "labels of few training images: 1 (1)"),
        (seen(np.concatenate([train, black])), "1 training images are of nearly one color: 38"),
        (seen(red), "warning: channel 1 of the training images is 7 everywhere"),
    ):
        assert found == [expected]
    assert len(seen(np.concatenate([black] * 9), [1] * 9, black)) <= 6


def test_trivial_bounds_are_those_of_trivial_models(tmp_path):
    """Uniform bins, a Gaussian of independent columns, tokens by their frequency."""
    images = from_memory(PICTURES, like=Images((3, 4, 4), bits=5))
    assert images.modality.trivial_bound(images, images)[0] == pytest.approx(48 * 5 * math.log(2))
    x = np.random.default_rng(0).normal(3, [1, 1e-3], (500, 2)).astype(np.float32)
    rows, held_out = (Samples(part, [""] * len(part), modality=Table((2,))) for part in (x[:400], x[400:]))
    mean, std = torch.tensor(x[:400]).double().mean(0), torch.tensor(x[:400]).double().std(0, correction=0)
    nats = -torch.distributions.Normal(mean, std).log_prob(torch.tensor(x[400:]).double()).sum(1).mean()
    assert rows.modality.trivial_bound(rows, held_out)[0] == pytest.approx(float(nats))
    lines = read(write_lines(tmp_path / "a.txt", LINES * 99))
    tokens = lines.values[lines.values != 0]
    shares = np.bincount(tokens) / len(tokens)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum() * len(tokens) / len(lines)
    assert lines.modality.trivial_bound(lines, lines)[0] == pytest.approx(entropy, rel=0.01)
