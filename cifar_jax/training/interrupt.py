"""Stopping by SIGINT and SIGTERM at a point where everything can be saved."""

import contextlib
import os
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


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

    Attributes:
      signal: The one that was noted, or None.
      polls: How often it was asked.
    """

    handled = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.polls = 0

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        del frame
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        # Not print: a handler may interrupt one.
        os.write(2, b"\nstopping when all is saved; again to stop at once\n")

    def __bool__(self) -> bool:
        self.polls += 1
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after SIGINT, 143 after SIGTERM."""
        return 128 + self.signal


class CommonStopRequest(StopRequest):
    """The stop request of several processes: it comes true in all at the same poll.

    SIGTERM is JAX's, which tells the other processes; a handler of our own would take
    it away. SIGINT is passed on as SIGTERM. All must poll equally often.
    """

    handled = (signal.SIGINT,)

    def __init__(self):
        super().__init__()
        self._interrupted = False

    def note(self, number: int, frame) -> None:
        """Handles SIGINT."""
        del frame
        if self._interrupted:
            os._exit(128 + number)
        self._interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)
        os.write(2, b"\nstopping when all is saved; again to stop at once\n")

    def __bool__(self) -> bool:
        self.polls += 1
        if self.signal is None and multihost_utils.reached_preemption_sync_point(
            self.polls
        ):
            self.signal = signal.SIGINT if self._interrupted else signal.SIGTERM
        return self.signal is not None


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """Yields a request that SIGINT and SIGTERM set, until the block ends."""
    distributed = jax.distributed.is_initialized()
    request = CommonStopRequest() if distributed else StopRequest()
    old = {number: signal.signal(number, request.note) for number in request.handled}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
