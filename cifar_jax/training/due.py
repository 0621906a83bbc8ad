"""When a state is due to be saved within an epoch."""

import time

import jax

from cifar_jax.training import distributed


class SaveTimer:
    """Tells whether the last save is too long ago.

    Several processes, whose clocks differ, save when it is for any of them. They ask
    the devices, and take the answer at the next question, so that nobody waits.

    Args:
      seconds: From one save to the next.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Notes that a state has been saved."""
        self._start, self._answer = time.perf_counter(), None

    def is_due(self) -> bool:
        """Tells whether to save now; all processes ask equally often."""
        due = time.perf_counter() - self._start >= self._seconds
        if jax.process_count() == 1:
            return due
        answer, self._answer = self._answer, distributed.largest(due)
        return answer is not None and bool(answer)
