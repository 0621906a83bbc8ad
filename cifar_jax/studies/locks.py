"""Locks between processes that the kernel frees when their holder dies."""

import fcntl
import os
import pathlib
from collections.abc import Callable


class KernelLock:
    """A lock between processes that its holder's death frees.

    Args:
      path: Of the file that is locked; made if need be.
      on_acquire: Called when the lock is held.
    """

    def __init__(
        self, path: pathlib.Path, on_acquire: Callable[[], None] = lambda: None
    ):
        self._path, self._on_acquire = path, on_acquire
        self._file = None

    def acquire(self, wait: bool = True) -> bool:
        """Takes the lock, or returns False if it is held and `wait` is False."""
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self._on_acquire()
        except BlockingIOError:
            file.close()
            return False
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._file.close()

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *error):
        self.release()


def mend(path: pathlib.Path) -> None:
    """Drops a last line that a full disk or a power cut has left unfinished."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            content = path.read_bytes()
            file.truncate(content.rfind(b"\n") + 1)
