"""Memory that a merge frees and needs again at once.

The C library gives blocks of a megabyte back to the kernel as soon as they are freed, and the kernel clears
them before it hands them out again. A merge that works block by block would spend a fifth of its time so.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_KEPT, _MAPPED = 64 * 2**20, 32 * 2**20


@contextmanager
def freed_blocks_kept() -> Iterator[None]:
    """Within the block, freed memory is kept for what comes next; afterwards what is free goes back.

    The thresholds stay, since setting one ends their adapting to what a program does: they are as high as
    they reach by themselves. Does nothing where the C library is not glibc.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_TRIM_THRESHOLD, _KEPT)
    library.mallopt(_MAP_THRESHOLD, _MAPPED)
    try:
        yield
    finally:
        library.malloc_trim(0)
