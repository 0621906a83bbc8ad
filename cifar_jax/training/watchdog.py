"""Ends a process that does not get on, for example because another one is stuck."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import jax

from cifar_jax.training.interrupt import StopRequest

TICK = 1.0  # seconds


@contextlib.contextmanager
def watch(stop: StopRequest, seconds: float) -> Iterator[None]:
    """Ends the process with one line and code 1 where the block gets stuck.

    JAX notices a process that is dead, but waits for one that is alive without end.
    A run that gets on polls its stop request at each step and batch. Ticks are counted
    and not the time, so that a process that was suspended is not taken for stuck.

    Args:
      stop: Its polls are the signs of life.
      seconds: Between two polls, at most; 0, or a process that is alone: no limit.
    """
    done = threading.Event()

    def work():
        polls, ticks = stop.polls, 0
        while not done.wait(TICK):
            ticks = ticks + 1 if polls == stop.polls else 0
            polls = stop.polls
            if ticks * TICK >= seconds:
                _end(
                    f"error: no step has ended for {seconds:g} seconds: a process or "
                    "device is stuck; run the command again, or raise "
                    "train.watchdog_seconds"
                )

    seconds = seconds if jax.process_count() > 1 else 0
    thread = threading.Thread(target=work, name="watchdog", daemon=True)
    if seconds:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if seconds:
            thread.join()


def _end(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    os._exit(1)  # the main thread is stuck, and with it what would close in order
