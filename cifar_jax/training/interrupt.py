"""Ending a run before its end: by a signal, by the clock, or because it is stuck."""

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator

import jax

from cifar_jax.training import distributed

WATCHDOG_TICK = 1.0  # seconds
# A machine that shuts down sends SIGTERM and SIGHUP together: they are one request.
TOGETHER_SECONDS = 1.0


class StopRequest:
    """A request to stop that SIGINT, SIGTERM and SIGHUP set; poll it at every step.

    The first signal is only noted. Another one, later, ends the process at once, for
    somebody who will not wait; checkpoints that are complete stay good.

    With several processes, a signal to any of them reaches all at the same poll.

    Attributes:
      signal: Signal that the last poll has found, or None.
      exit_code: 128 plus the number of the signal; 0 without one.
      num_polls: Number of polls so far: the watchdog's sign of life.
      noted: Number of the signal that this process has had, or 0.
    """

    def __init__(self):
        self.signal: signal.Signals | None = None
        self.exit_code = 0
        self.num_polls = 0
        self.noted, self._since = 0, 0.0
        self._max = distributed.LateMax()

    def note(self, number: int, frame) -> None:
        """Handles a signal."""
        del frame
        if self.noted:
            if time.monotonic() - self._since >= TOGETHER_SECONDS:
                os._exit(128 + number)
            return
        self.noted, self._since = number, time.monotonic()
        with contextlib.suppress(OSError):  # Ctrl-C also ends what reads the output
            if number == signal.SIGHUP:  # the terminal is gone: a write would fail
                for stream in (1, 2):
                    if stat.S_ISCHR(os.fstat(stream).st_mode):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            # Not print: a handler may interrupt one.
            os.write(2, b"\nstopping when all is saved; again to stop at once\n")

    def poll(self) -> bool:
        """A collective: returns whether to stop.

        JAX's own sync point is not used: Orbax asks it too, and counts in other steps.
        """
        self.num_polls += 1
        number = self._max(self.noted)
        if self.signal is None and number:
            self.signal, self.exit_code = signal.Signals(number), 128 + number
        return self.signal is not None


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """Yields a request that SIGINT, SIGTERM and SIGHUP set, until the block ends."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # of an executor, say: Python delivers no signals here
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        numbers.append(signal.SIGHUP)
    old = {number: signal.signal(number, request.note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Timer:
    """A timer that all processes agree on.

    With several processes it fires in all of them once it has fired in one.

    Args:
      seconds: Time until it fires.
      start: Time of `time.perf_counter` to count from; None: now.
    """

    def __init__(self, seconds: float, start: float | None = None):
        self._seconds = seconds
        self._start = time.perf_counter() if start is None else start
        self._max = distributed.LateMax()

    def poll(self) -> bool:
        """A collective: returns whether the seconds have passed."""
        return bool(self._max(time.perf_counter() - self._start >= self._seconds))


@contextlib.contextmanager
def watchdog(stop: StopRequest, seconds: float) -> Iterator[None]:
    """Terminates a process that makes no progress, e.g. because a peer hangs.

    JAX notices a process that is dead, but waits forever for one that hangs. Ticks are
    counted, not the time: a process that was suspended is not stuck.

    Args:
      stop: Request whose polls are the signs of life.
      seconds: Longest time between two polls; 0, or a single process: no limit.
    """
    if not seconds or jax.process_count() == 1:
        yield
        return
    done = threading.Event()

    def work():
        num_polls, ticks = stop.num_polls, 0
        while not done.wait(WATCHDOG_TICK):
            ticks = ticks + 1 if num_polls == stop.num_polls else 0
            num_polls = stop.num_polls
            if ticks * WATCHDOG_TICK >= seconds:
                print(
                    f"error: no step has ended for {seconds:g} seconds: a process or "
                    "device is stuck; resume, or raise train.watchdog_seconds",
                    file=sys.stderr,
                    flush=True,
                )
                # The main thread is stuck, and with it what would close in order.
                os._exit(1)

    thread = threading.Thread(target=work, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
