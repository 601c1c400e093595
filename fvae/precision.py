"""Islands of full precision: networks may compute in lower precision under autocast, the flow's own path may not."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor


def widen(a: Tensor) -> Tensor:
    """To float32 at least; float64 stays."""
    return a.to(torch.promote_types(a.dtype, torch.float32))


def without_autocast(a: Tensor) -> AbstractContextManager:
    """No lower precision on ``a``'s device until the block ends; at no cost where there is none anyway."""
    kind = a.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device is a CPU without instructions for bfloat16, as far as the system says."""
    flags = Path("/proc/cpuinfo")
    return device.type == "cpu" and flags.exists() and "bf16" not in flags.read_text()
