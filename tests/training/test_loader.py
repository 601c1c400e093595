"""Which samples each step takes, and reading them ahead of it."""

import itertools

import numpy as np
import pytest

from fvae.data import Images, Samples
from fvae.training.loader import Loader, Sampler


def test_each_epoch_holds_every_sample_once_and_processes_share_it():
    """Ten samples in batches of four; two processes' shares make the whole batch."""
    whole = Sampler(10, 4, seed=3)
    flat = np.concatenate([whole.step(t) for t in range(10)])
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert not np.array_equal(flat[:10], flat[10:20])
    shares = [Sampler(10, 4, 3, rank, 2) for rank in range(2)]
    for t in range(10):
        assert np.array_equal(np.stack([share.step(t) for share in shares], 1).ravel(), whole.step(t))


@pytest.mark.parametrize("parts", [1, 2])
def test_loader_gives_the_batches_in_their_order(parts):
    """Reading ahead changes no sample and no order; an error in reading is raised where the batch was due."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
    sampler, modality = Sampler(10, 4, 3), Images((1, 8, 8), bits=4)
    for labels in (None, np.arange(10)):
        loader = Loader(Samples(pixels, [], labels), modality, sampler, parts)
        for t, batch in enumerate(itertools.islice(loader.since(2), 4), 2):
            assert len(batch) == parts
            x = np.concatenate([x for x, _ in batch])
            assert np.array_equal(x, pixels[sampler.step(t)] >> 4)
            y = [y for _, y in batch]
            assert y == [None] * parts if labels is None else np.array_equal(np.concatenate(y), sampler.step(t))
    with pytest.raises(IndexError):
        next(Loader(Samples(pixels[:2], []), modality, sampler).since(0))
