"""Durations in steps, and learning-rate schedules as functions of the step.

A schedule is a shape, in shares of the peak. All but one_cycle are a linear warm-up and
then a decay, whose time starts where the warm-up ends.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import FrozenConfigDict

from cifar_jax import UserError

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(%|epochs?|steps?)\s*")


def to_steps(key: str, duration: str, *, steps_per_epoch: int, total_steps: int) -> int:
    """Returns a duration in steps, rounded.

    Args:
      key: Key of the config, for the error.
      duration: Number and unit: `5 epochs`, `500 steps`, or `5%` of the run.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps in the run.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise UserError(
            f"{key} is {duration!r}; use a number and its unit, such as '5 epochs', "
            "'500 steps' or '5%' of the run"
        )
    number, unit = float(match[1]), match[2].rstrip("s")
    steps = {"%": total_steps / 100, "epoch": steps_per_epoch, "step": 1}[unit]
    return round(number * steps)


# `config.schedule` with its durations in steps.
Timing = FrozenConfigDict


def _cosine_restarts(timing: Timing) -> optax.Schedule:
    """Half cosines, each a factor longer than the one before (arXiv:1608.03983)."""
    lengths = [timing.period]
    while sum(lengths) < timing.length:
        lengths.append(lengths[-1] * timing.period_factor)
    parts = [optax.cosine_decay_schedule(1.0, n, timing.final_factor) for n in lengths]
    return optax.join_schedules(parts, np.cumsum(lengths[:-1]).tolist())


# From the steps since the warm-up to a share.
DECAYS: dict[str, Callable[[Timing], optax.Schedule]] = {
    "constant": lambda timing: optax.constant_schedule(1.0),
    "cosine_restarts": _cosine_restarts,
    # A triangle with the warm-up (Smith & Topin, 2018, arXiv:1708.07120).
    "linear": lambda timing: optax.linear_schedule(
        1.0, timing.final_factor, timing.length - timing.warmup
    ),
    # Constant from milestone to milestone.
    "piecewise": lambda timing: optax.join_schedules(
        [optax.constant_schedule(f) for _, f in ((0, 1.0), *timing.milestones)],
        [start - timing.warmup for start, _ in timing.milestones],
    ),
    # Drops by a factor at equal intervals (PyTorch's StepLR).
    # Half a step, as float32 may round a quotient down that is whole.
    "step": lambda timing: (
        lambda step: timing.decay_factor ** jnp.floor((step + 0.5) / timing.decay_every)
    ),
    # Half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983).
    "warmup_cosine": lambda timing: optax.cosine_decay_schedule(
        1.0, timing.length - timing.warmup, timing.final_factor
    ),
}


def one_cycle(
    values: tuple[float, float, float], warmup: int, length: int
) -> optax.Schedule:
    """Cosines from the first value to the second, and on to the third.

    The super-convergence schedule (Smith & Topin, 2018, arXiv:1708.07120) as PyTorch's
    OneCycleLR has it: the second value is reached at step `warmup - 1`, the third at
    `length - 1`.
    """
    first, middle, last = values
    peak, end = max(warmup - 1, 0), length - 1

    def schedule(step):
        rise = _anneal(first, middle, jnp.clip(step / max(peak, 1), 0, 1))
        fall = _anneal(middle, last, jnp.clip((step - peak) / max(end - peak, 1), 0, 1))
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
      name: Value of `config.schedule.name`.
      peak: Largest learning rate.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps in the run.
      momentum_range: one_cycle: least momentum, at the peak, and largest one; None: the
        momentum stays.
      per_epoch: Keep the values of an epoch's first step for all of it.
      **options: The other keys of `config.schedule`.
    """
    if not peak > 0:
        raise UserError(f"optim.learning_rate is {peak}; use a positive one")
    timing = _timing(options, steps_per_epoch, total_steps)
    if momentum_range is not None and name != "one_cycle":
        raise UserError(
            f"schedule.momentum_range is {momentum_range}, but schedule.name is "
            f"{name!r}; use None, or 'one_cycle'"
        )

    def held(schedule: optax.Schedule) -> Callable[[Any], Any]:
        hold = steps_per_epoch if per_epoch else 1
        return lambda step: schedule(jnp.asarray(step // hold * hold, jnp.float32))

    if name != "one_cycle":
        rise = optax.linear_schedule(timing.initial_factor, 1.0, timing.warmup)
        share = optax.join_schedules([rise, DECAYS[name](timing)], [timing.warmup])
        return held(lambda step: peak * share(step)), None
    rates = peak * timing.initial_factor, peak, peak * timing.final_factor
    rate = held(one_cycle(rates, timing.warmup, timing.length))
    if momentum_range is None:
        return rate, None
    least, most = momentum_range
    if not 0 <= least <= most < 1:
        remedy = "use two numbers from 0 to below 1, the smaller one first"
        raise UserError(f"schedule.momentum_range is {momentum_range}; {remedy}")
    return rate, held(one_cycle((most, least, most), timing.warmup, timing.length))


def _anneal(first: Any, last: Any, share: jax.Array) -> jax.Array:
    """Half a cosine from the first value to the last."""
    return last + (first - last) * (1 + jnp.cos(math.pi * share)) / 2


def _timing(options: dict[str, Any], steps_per_epoch: int, total_steps: int) -> Timing:
    """Returns the options with their durations in steps, checked."""
    lengths = dict(steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    in_steps: dict[str, Any] = {
        key: to_steps(f"schedule.{key}", options[key], **lengths)
        for key in ("warmup", "length", "period", "decay_every")
    }
    in_steps["milestones"] = tuple(
        (to_steps("schedule.milestones", when, **lengths), factor)
        for when, factor in options["milestones"]
    )
    timing = Timing(options | in_steps)
    length = min(total_steps, timing.length)
    if not 0 <= timing.warmup < length:
        longer = "schedule.length" if length < total_steps else "train.epochs"
        raise UserError(
            f"the warm-up takes {timing.warmup:,} steps of a schedule of {length:,}; "
            f"use a shorter schedule.warmup or a larger {longer}"
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
    return timing
