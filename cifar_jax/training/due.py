"""When a state is due to be saved, or a run to be stopped: the clock's questions."""

import time

import jax

from cifar_jax.training import distributed


class Timer:
    """Tells whether some seconds have passed.

    Several processes, whose clocks differ, are told so when they have for any of them.
    They ask the devices, and take the answer at the next question, so that nobody
    waits.

    Args:
      seconds: How many.
      start: From when on, by `time.perf_counter`; None: from now.
    """

    def __init__(self, seconds: float, start: float | None = None):
        self._seconds = seconds
        self.restart()
        self._start = self._start if start is None else start

    def restart(self) -> None:
        """Counts from now on."""
        self._start, self._answer = time.perf_counter(), None

    def is_due(self) -> bool:
        """Tells whether they have passed; all processes ask equally often."""
        due = time.perf_counter() - self._start >= self._seconds
        if jax.process_count() == 1:
            return due
        answer, self._answer = self._answer, distributed.largest(due)
        return answer is not None and bool(answer)
