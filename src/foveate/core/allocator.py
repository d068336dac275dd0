"""The C library's allocator, which by default returns the memory of every batch to the system."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT, _LARGEST = 2**28, 2**25  # bytes; glibc accepts no larger value of the second
_SETTINGS = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}


def keep_freed_memory() -> bool:
    """Lets glibc keep up to 256 MiB of freed memory for later blocks of up to 32 MiB; returns whether it does.

    Otherwise every batch on a CPU has its keys and values in memory that is new to the process, and the system clears
    it page by page. Settings of the user stay (`MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_`, `GLIBC_TUNABLES`).
    """
    if not sys.platform.startswith("linux") or _SETTINGS & os.environ.keys():
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(set_option(_MMAP_THRESHOLD, _LARGEST) and set_option(_TRIM_THRESHOLD, _KEPT))
