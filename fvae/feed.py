"""Which samples each step of training takes, as a function of the seed and the step, and reading them ahead of it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fvae.data import Modality, Samples


def mixed(*numbers: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Batches:
    """Which images each step takes: epoch after epoch in a new random order, a batch after the other without a gap.

    Iterating begins at the step that ``now`` tells and never ends. Of each step's ``size`` images, process ``rank`` of
    ``world`` takes every ``world``-th.
    """

    def __init__(self, n: int, size: int, seed: int, now: Callable[[], int], rank: int = 0, world: int = 1):
        self.n, self.size, self.now = n, size, now
        self.rank, self.world = rank, world
        self.order = lru_cache(2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(n))

    def step(self, t: int) -> np.ndarray:
        places = np.arange(t * self.size + self.rank, (t + 1) * self.size, self.world)
        return np.array([self.order(int(p) // self.n)[p % self.n] for p in places])

    def __iter__(self) -> Iterator[np.ndarray]:
        t = self.now()
        while True:
            yield self.step(t)
            t += 1


class Feed:
    """The batches' samples (x, y) as a model of ``modality`` takes them: the next are read while a step computes.

    They may lie in memory or in a memory map; for a GPU they are put where it fetches them by itself (pinned).
    """

    def __init__(self, data: Samples, modality: Modality, batches: Batches, pinned: bool):
        self.data, self.modality, self.batches, self.pinned = data, modality, batches, pinned

    def read(self, indices: np.ndarray) -> list[Tensor | None]:
        values = self.modality.collate(self.data.values[indices])
        labels = None if self.data.labels is None else self.data.labels[indices]
        found = [None if a is None else torch.as_tensor(a) for a in (values, labels)]
        return [a.pin_memory() if self.pinned and a is not None else a for a in found]

    def __iter__(self) -> Iterator[list[Tensor | None]]:
        with ThreadPoolExecutor(1) as reader:
            steps = iter(self.batches)
            coming = reader.submit(self.read, next(steps))
            for indices in steps:
                now, coming = coming, reader.submit(self.read, indices)
                yield now.result()
