"""Setting the C library's allocator so that it keeps freed memory."""

import ctypes
import sys

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
