"""Durations as a config has them, turned into steps."""

import re

from cifar_jax import UserError

_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(%|epochs?|steps?)\s*")


def to_steps(
    name: str, duration: str, *, steps_per_epoch: int, total_steps: int
) -> int:
    """Returns a duration in steps, rounded.

    Args:
      name: Key of the config, for the error.
      duration: A number and its unit: `5 epochs`, `500 steps`, or `5%` of the run.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps in the run.

    Raises:
      UserError: If the unit is missing or unknown.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise UserError(
            f"{name} is {duration!r}; use a number and its unit, such as '5 epochs', "
            "'500 steps' or '5%' of the run"
        )
    number, unit = float(match[1]), match[2].rstrip("s")
    steps = {"%": total_steps / 100, "epoch": steps_per_epoch, "step": 1}[unit]
    return round(number * steps)
