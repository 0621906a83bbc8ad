"""Stopping by SIGINT and SIGTERM at a point where everything can be saved."""

import contextlib
import os
import signal
from collections.abc import Iterator


class Stopped(Exception):
    """Training has stopped because of a signal, its state saved.

    Attributes:
      exit_code: 128 plus the number of the signal.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Tells whether a signal asks to stop; poll it at every step.

    The first signal is only noted. A second one ends the process at once, for somebody
    who will not wait; what was saved before stays good.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        del frame
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        # Not print: a handler may interrupt one.
        os.write(2, b"\nstopping when all is saved; again to stop at once\n")

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.signal


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """Yields a request that SIGINT and SIGTERM set, until the block ends."""
    request = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
