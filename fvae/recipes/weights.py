"""A limit to the size of models, so that a width too large is an error before memory is filled."""

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from fvae.errors import InputError
from fvae.model import LatentModel

SHARE = 1 / 8  # of the machine's memory: training holds the weights, their average, gradient and two moments


def within_memory(make: Callable[[], LatentModel]) -> LatentModel:
    """The model of ``make``; raises ``InputError`` for one whose weights take more than an eighth of the memory.

    Weights are counted as layers register them, which is before their values are drawn.
    """
    limit, found = SHARE * machine_memory(), 0

    def count(module: Any, name: str, parameter: Any) -> None:
        nonlocal found
        found += parameter.nbytes
        if found > limit and parameter.device.type != "meta":
            raise MemoryError

    with register_module_parameter_registration_hook(count):
        try:
            return make()
        except (MemoryError, RuntimeError) as error:  # the latter of torch's allocator, for a single tensor
            if "memory" not in str(error) and isinstance(error, RuntimeError):
                raise
            with torch.device("meta"):
                size = sum(p.nbytes for p in make().parameters()) / 2**30
    expected = f"expected a model of at most {limit / 2**30:.1f} GiB of weights, an eighth of this machine's memory"
    raise InputError(f"{expected}, found one of {size:,.1f} GiB; choose smaller widths, depths or latents")


def machine_memory() -> float:
    """Bytes of memory, infinite where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf
