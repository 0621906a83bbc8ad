"""What a run asks the devices for, so that several runs can share an answer."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from cifar_jax.training.engine import Engine, Feed
from cifar_jax.training.progress import Display
from cifar_jax.training.state import Metrics, TrainState


class RunEnded(Exception):
    """Somebody who watches a run wants no more of it."""


class Compile(NamedTuple):
    """A run asks for the training call to be compiled.

    Attributes:
      state: Like those that it will train.
    """

    state: TrainState


class Train(NamedTuple):
    """A run asks for some steps of training; the new state and metrics are the answer.

    Attributes:
      state: Taken.
      metrics: Of the epoch so far.
      feed: Of the epoch.
      num_steps: How many steps.
      step: The state's, without asking the devices.
      ends: Whether these are the epoch's last: the run will wait for them.
    """

    state: TrainState
    metrics: Metrics
    feed: Feed
    num_steps: int
    step: int
    ends: bool


# A run: it yields what it asks for, is sent the answers, and returns its result.
Work = Generator[Compile | Train, Any, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Company:
    """What a run knows of those that it trains together with.

    Attributes:
      size: How many they are, with this one.
      name: Of the run among them.
      display: Theirs; None: it has its own.
      clock: In seconds; it stands still while another run is at work.
    """

    size: int = 1
    name: str = ""
    display: Display | None = None
    clock: Callable[[], float] = time.perf_counter


ALONE = Company()


def serve(work: Work, engine: Engine) -> dict[str, Any]:
    """Gives a run that is alone what it asks for, and returns its result."""
    answer = None
    with contextlib.closing(work):
        while True:
            try:
                request = work.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(request, Compile):
                answer = engine.compile(request.state)
            else:
                answer = engine.train(
                    *(request.state, request.metrics, request.feed),
                    step=request.step,
                    num_steps=request.num_steps,
                )
