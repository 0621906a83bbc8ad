"""Optuna's parts: what is drawn from, who draws, and who ends hopeless runs."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from cifar_jax import UserError

SAMPLERS = ("tpe", "nsga2", "random")
PRUNERS = ("none", "halving", "hyperband")


def distribution(axis: Mapping[str, Any]) -> BaseDistribution:
    """Returns what a factor is drawn from.

    Args:
      axis: `factor`, and `values`; or `low`, `high` and maybe `log`.

    Raises:
      UserError: If that is nothing.
    """
    factor = axis["factor"]
    if "values" in axis:
        return CategoricalDistribution(_plain(axis["values"]))
    low, high, log = axis["low"], axis["high"], axis.get("log", False)
    if not low < high or (log and low <= 0) or not math.isfinite(high - low):
        raise UserError(
            f"factor {factor} of study.space goes from {low} to {high}; use low below "
            "high, and above 0 with log=True"
        )
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _plain(values: Sequence[Any]) -> tuple:
    for value in values:
        if not isinstance(value, bool | int | float | str | None):
            raise UserError(
                f"a sampled factor has the value {value!r}; use numbers, words or "
                "None, and a letter (N, B, C, F, K, P) for what is a tuple"
            )
    return tuple(values)


def least(found: BaseDistribution) -> Any:
    """Returns the first of the values, or the least number."""
    categorical = isinstance(found, CategoricalDistribution)
    return found.to_external_repr(0 if categorical else found.low)


def make_pruner(
    name: str, *, min_epochs: int, max_epochs: int, reduction: int
) -> optuna.pruners.BasePruner:
    """Returns the pruner of a study.

    Args:
      name: Of `PRUNERS`.
      min_epochs: No run ends before.
      max_epochs: Of a run.
      reduction: Of so many runs one goes on, each time.
    """
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=min_epochs, reduction_factor=reduction
        )
    return optuna.pruners.HyperbandPruner(
        min_resource=min_epochs, max_resource=max_epochs, reduction_factor=reduction
    )


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Returns a sampler whose draws depend on its seed and the trials before it alone.

    Args:
      name: Of `SAMPLERS`.
      seed: Another one for each trial.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            # Trials that run count as bad ones: workers do not all try the same.
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True
            )
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)
