"""Which samples each training step takes, as a function of seed and step, and reading them ahead of it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fvae.data import Modality, Samples

Batch = tuple[Tensor, Tensor | None]


def mixed_seed(*numbers: int) -> int:
    """One well-mixed 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Sampler:
    """The indices of each step's samples: epoch after epoch in a new random order, one batch after the other.

    Of the ``batch_size`` samples of a step, process ``rank`` of ``world_size`` takes every ``world_size``-th.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        self.n, self.batch_size, self.rank, self.world_size = n, batch_size, rank, world_size
        self.order = lru_cache(2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(n))

    def step(self, t: int) -> np.ndarray:
        """The indices of step t, (batch_size / world_size,)."""
        positions = np.arange(t * self.batch_size + self.rank, (t + 1) * self.batch_size, self.world_size)
        return np.array([self.order(int(p) // self.n)[p % self.n] for p in positions])


class Loader:
    """The batches (x, y) of each step, in ``parts``, as a model of ``modality`` takes them.

    The next step's are read while a step computes. The data may lie in memory or in a memory map; for a GPU they are
    put in pinned memory, from which it fetches them by itself.
    """

    def __init__(self, data: Samples, modality: Modality, sampler: Sampler, parts: int = 1, pinned: bool = False):
        self.data, self.modality, self.sampler, self.parts, self.pinned = data, modality, sampler, parts, pinned

    def read(self, t: int) -> list[Batch]:
        """The parts of step t."""
        return [self.part(indices) for indices in np.split(self.sampler.step(t), self.parts)]

    def part(self, indices: np.ndarray) -> Batch:
        x = self.tensor(self.modality.collate(self.data.values[indices]))
        return x, None if self.data.labels is None else self.tensor(self.data.labels[indices])

    def tensor(self, values: np.ndarray) -> Tensor:
        found = torch.as_tensor(values)
        return found.pin_memory() if self.pinned else found

    def since(self, t: int) -> Iterator[list[Batch]]:
        """The batches from step t on, without end."""
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self.read, t)
            while True:
                now, t = coming, t + 1
                coming = reader.submit(self.read, t)
                yield now.result()
