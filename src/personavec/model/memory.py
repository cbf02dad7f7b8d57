"""What libraries keep in memory on a processor: bounded where it grows, kept where it is reused."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

#: Shapes whose kernels are kept. A forward needs about six at a time.
_KERNELS = 64


def bound_kernel_caches() -> None:
    """Have torch and oneDNN keep the kernels of few shapes.

    Both compile a matrix product's kernel for its exact shape and keep 1,024 kernels; texts of many
    lengths fill them with hundreds of megabytes. Both read the bound at the process's first
    product. A bound that the environment already sets is kept.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_KERNELS))


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what a process frees, where it has such a setting.

    A batch allocates and frees its activations hundreds of times; glibc hands blocks of this size
    back to the system every time, which then clears their pages anew.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 256 << 20)
