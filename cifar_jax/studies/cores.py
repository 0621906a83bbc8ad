"""Cores of this machine that a worker has for itself."""

import contextlib
import os
import pathlib
import socket
import tempfile

from cifar_jax.studies.locks import KernelLock

_HELD: list[KernelLock] = []  # until this process ends


def share(workers: int) -> int:
    """Returns how many of the machine's cores each of some workers has."""
    return max(1, len(allowed()) // workers)


def allowed() -> list[int]:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def take(count: int, folder: pathlib.Path | None = None) -> list[int]:
    """Confines this process, and the threads that it will start, to free cores.

    XLA has as many threads as it is told, but Python, the checkpoints and the compiler
    have their own. A process that computes on one core while these run on another is
    slower than one with a single core (by 4 % with small networks), and slows down the
    worker that this other core belongs to.

    Args:
      count: How many; if so many are not free, the process is not confined.
      folder: For the locks, by which all workers of a user on the machine know what is
        taken; None: one among the temporary files.

    Returns:
      The cores that the process may use now.
    """
    cores = allowed()
    if count >= len(cores) or not hasattr(os, "sched_setaffinity"):
        return cores
    name = f"cifar_jax-{socket.gethostname()}-{os.getuid()}"
    folder = folder or pathlib.Path(tempfile.gettempdir(), name)
    found = {}
    with contextlib.suppress(OSError):  # no place for locks
        folder.mkdir(mode=0o700, exist_ok=True)
        for core in cores:
            lock = KernelLock(folder / f"core-{core}.lock")
            if len(found) < count and lock.acquire(wait=False):
                found[core] = lock
    if len(found) < count:
        for lock in found.values():
            lock.release()
        return cores
    _HELD.extend(found.values())
    os.sched_setaffinity(0, found)
    return list(found)
