"""Runs in lockstep, so that a call of the devices can serve them all.

Each works until it asks for a call. When all have asked, one call answers all. A run
that is behind the others, because it was interrupted between their saves and its own,
catches up first. All is done by one thread.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cifar_jax import UserError
from cifar_jax.training import distributed
from cifar_jax.training.calls import Compile, RunEnded, Train, Work
from cifar_jax.training.interrupt import Stopped
from cifar_jax.training.joined import Joined


class Lockstep:
    """Runs by their numbers, from 0.

    Args:
      names: Of the runs.
      single: Exceptions that end the run which raises them, and no other.

    Attributes:
      names: As given.
      outcomes: Of each run that has ended its result, or the exception that ended it.
    """

    def __init__(
        self,
        names: Sequence[str],
        single: tuple[type[Exception], ...] = (UserError, OSError, RunEnded),
    ):
        self.outcomes: dict[int, dict[str, Any] | Exception] = {}
        self._single = single
        self.names = names
        self._waiting: dict[int, Compile | Train] = {}
        self._away = [0.0] * len(names)  # seconds in which only others were at work
        self._stopped: Stopped | None = None

    def clock(self, number: int) -> Callable[[], float]:
        """Returns the clock of a run, which stands still while others are at work."""
        return lambda: time.perf_counter() - self._away[number]

    @contextlib.contextmanager
    def noting(self, number: int) -> Iterator[None]:
        """Notes what ends a run, and lets the others go on."""
        try:
            yield
        except self._single as error:
            self.outcomes[number] = error
            reason = str(error) or type(error).__name__
            distributed.say(f"{self.names[number]}  ended: {reason}")

    def run(self, works: Mapping[int, Work], joined: Joined) -> None:
        """Runs all to their ends.

        Args:
          works: Of the runs that are to run, by their numbers.
          joined: What answers them.

        Raises:
          Stopped: When one has stopped, and so all have.
        """
        with contextlib.ExitStack() as stack:
            for work in works.values():
                stack.callback(work.close)
            answers = dict.fromkeys(works)
            while answers:
                for number, answer in answers.items():
                    self._advance(number, works[number].send, answer)
                if self._stopped:
                    for number in sorted(self._waiting):
                        del self._waiting[number]
                        self._advance(number, works[number].throw, self._stopped)
                answers = self._answers(joined)
        if self._stopped:
            raise self._stopped

    def _advance(self, number: int, resume: Callable, value: Any) -> None:
        """Lets a run work until it asks for something, or ends."""
        with self._at_work(number), self.noting(number):
            try:
                self._waiting[number] = resume(value)
            except StopIteration as end:
                self.outcomes[number] = end.value
            except Stopped as stopped:
                self._stopped = self._stopped or stopped

    def _answers(self, joined: Joined) -> dict[int, Any]:
        """Answers those that are to be compiled for, else those furthest behind."""
        asked = {n: r for n, r in self._waiting.items() if isinstance(r, Compile)}
        if asked:
            with self._at_work(*asked):
                joined.compile(asked)
            answers = dict.fromkeys(asked)
        else:
            step = min((r.step for r in self._waiting.values()), default=None)
            asked = {n: r for n, r in self._waiting.items() if r.step == step}
            if asked and not joined.has(asked):
                with self._at_work():  # it does not count as training
                    joined.compile(asked)
            with self._at_work(*asked):
                answers = joined.train(asked) if asked else {}
        for number in asked:
            del self._waiting[number]
        return answers

    @contextlib.contextmanager
    def _at_work(self, *numbers: int) -> Iterator[None]:
        """Stops the clocks of all but these runs."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        for number in range(len(self._away)):
            if number not in numbers:
                self._away[number] += seconds
