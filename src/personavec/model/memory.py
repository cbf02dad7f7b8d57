"""Memory settings of libraries on a CPU: bound caches that grow, and reuse freed memory."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

#: Number of cached kernels. A forward pass needs about six at a time.
_KERNELS = 64


def bound_kernel_caches() -> None:
    """Bound the kernel caches of torch and oneDNN.

    Both compile a kernel for each exact shape of a matrix product and by default cache 1,024 of
    them, which takes hundreds of megabytes with texts of many lengths. Both read the bound at the
    first product in the process. Bounds that are set in the environment are kept.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_KERNELS))


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse; other C libraries are left as they are.

    A batch allocates and frees its activations hundreds of times. By default glibc returns such
    large blocks to the system every time, which then has to zero the pages again.
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
