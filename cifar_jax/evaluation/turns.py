"""Workers that take turns, so that what else the machine does meets all of them."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from cifar_jax.evaluation.workers import Seconds, Worker

Turns = Sequence[tuple[int, Seconds]]  # images, and the time they took


class Protocol(NamedTuple):
    """How long is measured.

    Attributes:
      warm_up: Steps before anything counts.
      rounds: Turns that each contender has.
      seconds: Length of a turn, about, between two waits for the device.
    """

    warm_up: int
    rounds: int
    seconds: float

    def but(self, rounds: int | None, seconds: float | None) -> "Protocol":
        """Returns a protocol with other rounds and seconds, unless those are None."""
        return self._replace(
            rounds=self.rounds if rounds is None else rounds,
            seconds=self.seconds if seconds is None else seconds,
        )


def turn_lengths(
    workers: Sequence[Worker],
    kinds: Sequence[str],
    protocol: Protocol,
    deadline: float | None = None,
) -> dict[str, dict[str, int]]:
    """Warms up; returns the steps of a turn, by kind and contender.

    Args:
      workers: Their methods are the kinds.
      kinds: What they are to do.
      protocol: How long.
      deadline: Of `time.monotonic`, for which turns are made shorter, or None.
    """
    once = {}
    for kind in kinds:
        for worker in workers:
            worker.call(kind, protocol.warm_up)
            spent = worker.timed(kind, protocol.warm_up)[1].wall
            once[kind, worker.name] = spent / protocol.warm_up
    seconds = protocol.seconds
    if deadline is not None:
        left = 0.9 * (deadline - time.monotonic())  # the peak is still to be measured
        seconds = min(seconds, max(left, 0) / (len(once) * protocol.rounds))
    lengths = {kind: {} for kind in kinds}
    for (kind, name), each in once.items():
        lengths[kind][name] = max(1, round(seconds / each))
    return lengths


def take_turns(
    workers: Sequence[Worker],
    lengths: dict[str, dict[str, int]],
    batch_size: int,
    rounds: int,
) -> dict[str, dict[str, list]]:
    """Returns the images and the seconds, by kind, contender and round.

    Args:
      workers: Their methods are the kinds.
      lengths: Steps of a turn, by kind and contender.
      batch_size: Images in a step.
      rounds: Turns that each contender has.
    """
    turns = {kind: {worker.name: [] for worker in workers} for kind in lengths}
    for kind, by_name in turns.items():
        for number in range(rounds):
            # Every other round backwards: no contender always follows the same one.
            for worker in workers[:: -1 if number % 2 else 1]:
                length = lengths[kind][worker.name]
                _, spent = worker.timed(kind, length)
                by_name[worker.name].append((length * batch_size, spent))
    return turns


def images_per_second(turns: Turns) -> dict[str, float]:
    """Returns `median`, `min` and `max` over the turns."""
    return _spread([images / seconds.wall for images, seconds in turns])


def times_as_fast(first: Turns, second: Turns) -> dict[str, float]:
    """Returns `median`, `min` and `max` of the ratio of speeds within a round."""
    pairs = zip(first, second, strict=True)
    return _spread([a / s.wall * (t.wall / b) for (a, s), (b, t) in pairs])


def _spread(values: Sequence[float]) -> dict[str, float]:
    middle = statistics.median(values)
    return {"median": middle, "min": min(values), "max": max(values)}
