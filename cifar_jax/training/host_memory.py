"""How the C library keeps the memory that XLA frees on a CPU."""

import ctypes

# Parameters of glibc's mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed() -> bool:
    """Has glibc keep what is freed for the next allocation; call it before JAX starts.

    XLA allocates the temporary arrays of a step anew in each step: 90 MB for a small
    network. glibc maps such large blocks from the kernel and hands them back, so each
    step pays a page fault for every 4 KB of them, a quarter of its time on two cores.
    In a heap that never shrinks they fault once.

    Returns:
      Whether the C library understood: only glibc does.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    values = {
        _ARENA_MAX: 1,  # the arenas of other threads map what exceeds 64 MB
        _MMAP_THRESHOLD: 2**30,  # of what is larger, only one copy should be about
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 64 * 2**20,  # grows the heap by so much at a time
    }
    return all([library.mallopt(*item) for item in values.items()])
