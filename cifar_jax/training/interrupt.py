"""Stopping by SIGINT and SIGTERM at a point where everything can be saved."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax

from cifar_jax.training import distributed


class Stopped(Exception):
    """Training has stopped before its end, its state saved.

    Attributes:
      exit_code: 128 plus the number of a signal; 0 after `train.max_seconds`.
      reason: The signal's name, or what has been reached.
    """

    def __init__(self, message: str, exit_code: int, reason: str = ""):
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason


class StopRequest:
    """Tells whether a signal asks to stop; poll it at every step.

    The first signal is only noted. A second one ends the process at once, for somebody
    who will not wait; what was saved before stays good.

    Attributes:
      signal: The one that the last poll has found, or None.
      polls: How often it was asked.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.polls = 0
        self._noted = 0

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        del frame
        if self._noted:
            os._exit(128 + number)
        self._noted = number
        # Not print: a handler may interrupt one.
        os.write(2, b"\nstopping when all is saved; again to stop at once\n")

    def __bool__(self) -> bool:
        self.polls += 1
        if self.signal is None and (number := self._find()):
            self.signal = signal.Signals(number)
        return self.signal is not None

    def _find(self) -> int:
        return self._noted

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.signal


class CommonStopRequest(StopRequest):
    """The stop request of several processes: it comes true in all at the same poll.

    A signal to any of them is enough. All must poll equally often. The devices are
    asked, and their answer is taken at the next poll, so that nobody waits. JAX's own
    sync point is not used: Orbax asks it too, and counts in other steps.
    """

    def __init__(self):
        super().__init__()
        self._answer = None

    def _find(self) -> int:
        answer, self._answer = self._answer, distributed.largest(self._noted)
        return 0 if answer is None else int(answer)


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """Yields a request that SIGINT and SIGTERM set, until the block ends."""
    request = CommonStopRequest() if jax.process_count() > 1 else StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
