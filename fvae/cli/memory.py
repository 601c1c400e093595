"""Memory of a command: what it may take at most, and the C library's allocator, which keeps what is freed."""

import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # of malloc.h
LARGEST_HEAP_BLOCK = 32 * 2**20  # that the allocator may serve from its own heap


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next step, instead of being handed back and cleared page by page; true if it is.

    A training step frees what the next one asks for again. By default glibc returns large pieces to the system, and
    each comes back as pages that must be cleared: measured 1.15 times the pass of a coupling network of 4 MiB a layer.
    The process then holds on to the most memory it ever needed. Elsewhere than on Linux with glibc nothing changes.
    """
    if sys.platform != "linux":
        return False
    try:
        tune = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([tune(MMAP_THRESHOLD, LARGEST_HEAP_BLOCK), tune(TRIM_THRESHOLD, 2**31 - 1), tune(TOP_PAD, 2**28)])


@contextmanager
def limited_memory() -> Iterator[None]:
    """Have an allocation beyond the machine's memory fail, as an error, before the system kills the process for it.

    On Linux only, and not beside a GPU, whose driver reserves addresses far beyond the memory that it uses.
    """
    import torch

    if sys.platform != "linux" or torch.accelerator.is_available():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    free = min(2**10 * kibibytes("/proc/meminfo", "MemAvailable"), free_in_container())
    limits = [free + 2**10 * kibibytes("/proc/self/status", "VmData"), *before]
    limits = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def free_in_container() -> int:
    """Bytes that a container (a control group, version 2) has left; very many where there is no limit."""
    try:
        most, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such file, or "max"
        return 2**62
    return max(0, most - used)


def kibibytes(file: str, name: str) -> int:
    """A figure of memory in one of the files in which Linux reports it."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(file).read_text(), re.MULTILINE)
    assert found
    return int(found[1])
