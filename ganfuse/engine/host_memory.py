"""What malloc does with memory that tensors on a CPU give back."""

import ctypes
import os
import platform

__all__ = ["hand_back_memory", "keep_freed_memory"]

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes for blocks which live outside the heap, and go back to the system when they are freed.
_MMAP_THRESHOLD = 32 * 2**20
_KEPT = 2**30
_HANDED_BACK = 2 * _MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """Have this process keep up to a GiB of freed memory for its next tensors; returns whether it does from here on.

    glibc gives the end of its heap back to the system once some 64 MiB of it are free. A training step frees and
    allocates the same hundreds of MiB again and again, and each page that comes back is zeroed by the system first.
    Nothing is done on other systems, and where the environment has settings of malloc's own
    (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TOP_PAD_``, or ``glibc.malloc`` in
    ``GLIBC_TUNABLES``): whoever made them decides.
    """
    return not _decided_by_environment() and _set_thresholds(_KEPT)


def hand_back_memory() -> bool:
    """The contrary, for comparisons: what glibc's own adjustment ends at in processes with large tensors."""
    return not _decided_by_environment() and _set_thresholds(_HANDED_BACK)


def _set_thresholds(trim: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One alone would leave the other where the adjustment, which ends with the first call, happens to have brought it.
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))


def _decided_by_environment() -> bool:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
    return any(name in os.environ for name in names) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
