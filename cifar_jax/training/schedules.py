"""Learning-rate schedules: the keys of `config.schedule`, as functions of the step.

A schedule is a shape, in shares of the peak. All but one_cycle are a linear warm-up and
then a fall, whose time starts where the warm-up ends.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cifar_jax import UserError
from cifar_jax.training import durations

Fall = Callable[[jax.Array], jax.Array]  # steps since the warm-up to a share


@dataclasses.dataclass(frozen=True)
class Timing:
    """`config.schedule` with its durations in steps.

    Attributes:
      warmup: From `initial_factor` to the peak.
      length: From the first step to `final_factor`.
      initial_factor: First learning rate, as a share of the peak.
      final_factor: Last learning rate, as a share of the peak.
      period: cosine_restarts: of the first cosine.
      period_factor: cosine_restarts: of a period, to the one before.
      decay_every: step: between two falls.
      decay_factor: step: of a fall.
      milestones: piecewise: first step, and share of the peak from there.
    """

    warmup: int
    length: int
    initial_factor: float
    final_factor: float
    period: int
    period_factor: int
    decay_every: int
    decay_factor: float
    milestones: tuple[tuple[int, float], ...]


def _constant(timing: Timing) -> Fall:
    del timing
    return jnp.ones_like


def _linear(timing: Timing) -> Fall:
    """A triangle with the warm-up (Smith & Topin, 2018, arXiv:1708.07120)."""
    return lambda step: 1 + (timing.final_factor - 1) * _share(step, timing)


def _cosine(timing: Timing) -> Fall:
    """Half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983)."""
    return lambda step: _anneal(1.0, timing.final_factor, _share(step, timing))


def _cosine_restarts(timing: Timing) -> Fall:
    """Half cosines, each a factor longer than the one before (arXiv:1608.03983)."""
    lengths, starts = [timing.period], [0]
    while starts[-1] + lengths[-1] < timing.length:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * timing.period_factor)
    starts, lengths = jnp.array(starts), jnp.array(lengths)

    def fall(step):
        number = jnp.searchsorted(starts, step, side="right") - 1
        share = (step - starts[number]) / lengths[number]
        return _anneal(1.0, timing.final_factor, share)

    return fall


def _step(timing: Timing) -> Fall:
    """Falls to a share of itself every so often (PyTorch's StepLR)."""
    return lambda step: timing.decay_factor ** (step // timing.decay_every)


def _piecewise(timing: Timing) -> Fall:
    """Constant from milestone to milestone; before the first, the peak."""
    starts = jnp.array([start - timing.warmup for start, _ in timing.milestones])
    factors = jnp.array([1.0, *(factor for _, factor in timing.milestones)])
    return lambda step: factors[(step >= starts).sum()]


FALLS: dict[str, Callable[[Timing], Fall]] = {
    "constant": _constant,
    "cosine_restarts": _cosine_restarts,
    "linear": _linear,
    "piecewise": _piecewise,
    "step": _step,
    "warmup_cosine": _cosine,
}
SCHEDULES = (*FALLS, "one_cycle")


def one_cycle(
    values: tuple[float, float, float], warmup: int, length: int
) -> optax.Schedule:
    """Cosines from the first value to the second, and on to the third.

    The super-convergence schedule (Smith & Topin, 2018, arXiv:1708.07120) as PyTorch's
    OneCycleLR has it: the second value falls to step `warmup - 1`, the third to
    `length - 1`.
    """
    first, middle, last = values
    peak, end = max(warmup - 1, 0), length - 1

    def schedule(step):
        rise = _anneal(first, middle, jnp.clip(step / max(peak, 1), 0, 1))
        fall = _anneal(middle, last, jnp.clip((step - peak) / (end - peak), 0, 1))
        return jnp.where(step < peak, rise, fall)

    return schedule


def make(
    name: str,
    peak: float,
    *,
    steps_per_epoch: int,
    total_steps: int,
    momentum_range: tuple[float, float] | None = None,
    per_epoch: bool = False,
    **options: Any,
) -> tuple[optax.Schedule, optax.Schedule | None]:
    """Returns the learning rate, and the momentum if it moves, as functions of steps.

    Args:
      name: One of `SCHEDULES`.
      peak: Largest learning rate.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps of the run.
      momentum_range: one_cycle: the least momentum, at the peak, and the largest; None:
        it stays.
      per_epoch: Keep the values of an epoch's first step for all of it.
      **options: The other keys of `config.schedule`; see `Timing`.

    Raises:
      UserError: names the key, its value, the limit and the remedy.
    """
    if name not in SCHEDULES:
        raise UserError(f"schedule.name is {name!r}; use {', '.join(SCHEDULES)}")
    if not peak > 0:
        raise UserError(f"optim.learning_rate is {peak}; use a positive one")
    timing = _in_steps(options, steps_per_epoch, total_steps)
    _check(timing, total_steps)
    if momentum_range is not None and name != "one_cycle":
        raise UserError(
            f"schedule.momentum_range is {momentum_range}, but schedule.name is "
            f"{name!r}; use None, or 'one_cycle'"
        )
    hold = steps_per_epoch if per_epoch else 1
    if name != "one_cycle":
        return _held(_warmed_up(peak, timing, FALLS[name](timing)), hold), None
    shares = timing.initial_factor, 1.0, timing.final_factor
    rates = tuple(peak * share for share in shares)
    rate = _held(one_cycle(rates, timing.warmup, timing.length), hold)
    if momentum_range is None:
        return rate, None
    least, most = momentum_range
    swing = one_cycle((most, least, most), timing.warmup, timing.length)
    return rate, _held(swing, hold)


def _warmed_up(peak: float, timing: Timing, fall: Fall) -> optax.Schedule:
    first, warmup = timing.initial_factor, timing.warmup

    def schedule(step):
        rise = first + (1 - first) * step / max(warmup, 1)
        return peak * jnp.where(step < warmup, rise, fall(step - warmup))

    return schedule


def _held(schedule: optax.Schedule, hold: int) -> optax.Schedule:
    return lambda step: schedule(jnp.asarray(step // hold * hold, jnp.float32))


def _share(step: jax.Array, timing: Timing) -> jax.Array:
    """Returns how much of the fall's time is over, at most 1."""
    return jnp.clip(step / (timing.length - timing.warmup), 0, 1)


def _anneal(first: float, last: float, share: jax.Array) -> jax.Array:
    """Half a cosine from the first value to the last."""
    return last + (first - last) * (1 + jnp.cos(math.pi * share)) / 2


def _in_steps(options: dict, steps_per_epoch: int, total_steps: int) -> Timing:
    def steps(key: str, duration: str) -> int:
        return durations.to_steps(
            f"schedule.{key}",
            duration,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        )

    in_steps = {
        key: steps(key, options[key])
        for key in ("warmup", "length", "period", "decay_every")
    }
    milestones = tuple(
        (steps("milestones", when), factor) for when, factor in options["milestones"]
    )
    return Timing(**options | in_steps | {"milestones": milestones})


def _check(timing: Timing, total_steps: int) -> None:
    if not 0 <= timing.warmup < min(total_steps, timing.length):
        raise UserError(
            f"the warm-up takes {timing.warmup:,} steps of a run of {total_steps:,}; "
            "use a shorter schedule.warmup or more train.epochs"
        )
    for key in ("period", "period_factor", "decay_every"):
        if getattr(timing, key) < 1:
            raise UserError(f"schedule.{key} is {getattr(timing, key)}; use 1 or more")
    starts = [start for start, _ in timing.milestones]
    if starts != sorted(starts) or (starts and starts[0] < timing.warmup):
        raise UserError(
            f"schedule.milestones start at the steps {starts}; give them in their "
            f"order, after the warm-up of {timing.warmup:,} steps"
        )
