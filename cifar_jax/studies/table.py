"""The table of a study: a row for each design, with mean and spread over its seeds."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.factors import value_of
from cifar_jax.studies.study import OBJECTIVES, Study

_STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a design.

    Attributes:
      seed: Its number, from 0.
      state: waiting, running, done, pruned or failed.
      epochs: Epochs validated so far.
      last: What the last of them gave, or None.
      result: `accuracy`, `loss` and so on, if it is done.
      error: Why it failed, or None.
    """

    seed: int
    state: str
    epochs: int
    last: float | None
    result: dict[str, Any]
    error: str | None


@dataclasses.dataclass(frozen=True)
class Row:
    """A design and its runs."""

    candidate: Candidate
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        """Numbers of the runs that are done."""
        return [run.seed for run in self.runs if run.state == "done"]

    def values(self, name: str) -> list[float]:
        """Returns a figure of all runs that are done, by seed."""
        if name in ("parameters", "macs"):
            each = self.candidate
            return [each.num_parameters if name == "parameters" else each.cost.macs]
        found = (run.result.get(name) for run in self.runs)
        return [value for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        """Returns the mean over the runs that are done, or None."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def std(self, name: str) -> float | None:
        """Returns the standard deviation over seeds (n - 1), or None."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def count(self, state: str) -> int:
        """Returns how many runs are in a state."""
        return sum(run.state == state for run in self.runs)


def rows(
    study: Study, candidates: Sequence[Candidate], trials: Sequence[FrozenTrial]
) -> list[Row]:
    """Returns a row for each design, in the order of the study."""
    runs: dict[str, list[Run]] = {each.name: [] for each in candidates}
    for trial in trials:
        runs[trial.user_attrs["candidate"]].append(_run(trial))
    return [
        Row(each, tuple(sorted(runs[each.name], key=lambda run: run.seed)))
        for each in candidates
    ]


def _run(trial: FrozenTrial) -> Run:
    attrs, reported = trial.user_attrs, trial.intermediate_values
    return Run(
        seed=attrs["seed"],
        state=_STATES[trial.state],
        epochs=max(reported, default=0),
        last=reported[max(reported)] if reported else None,
        result=attrs.get("result", {}) if trial.state == TrialState.COMPLETE else {},
        error=attrs.get("error"),
    )


def ranked(study: Study, found: Sequence[Row]) -> list[Row]:
    """Returns the rows by the first objective: best first, those with most runs first.

    Designs with fewer runs done than others come after them, so that a lucky seed does
    not lead the table.
    """
    name = study.objectives[0]
    sign = -1 if OBJECTIVES[name] else 1

    def key(row: Row):
        mean = row.mean(name) if row.count("done") else None
        return (-row.count("done"), math.inf if mean is None else sign * mean)

    return sorted(found, key=key)  # ties stay in the study's order


def front(study: Study, found: Sequence[Row]) -> list[Row]:
    """Returns the designs that no other beats in all objectives at once."""
    done = [row for row in found if row.count("done")]

    def costs(row: Row) -> list[float]:
        return [
            (-1 if OBJECTIVES[name] else 1) * row.mean(name)
            for name in study.objectives
        ]

    points = [(row, costs(row)) for row in done]
    return [
        row
        for row, mine in points
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine
            for _, other in points
        )
    ]


def factor_names(found: Sequence[Row]) -> list[str]:
    """Returns the factors that the designs have, in their order."""
    names: dict[str, None] = {}
    for row in found:
        names |= dict.fromkeys(row.candidate.factors)
    return list(names)


def text(value: Any) -> str:
    """Returns a value of a factor for a table."""
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], dict):  # an augmentation
            return " ".join(each.get("name", "?") for each in value)
        return "-".join(text(each) for each in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def short(name: str) -> str:
    """Returns the last part of a factor's name that says something."""
    return name.removesuffix(".name").rsplit(".", 1)[-1]


def spread(row: Row, name: str, show: Callable[[float], str] = "{:.4f}".format) -> str:
    """Returns mean and standard deviation as a person reads them."""
    mean, std = row.mean(name), row.std(name)
    if mean is None or not row.count("done"):
        return "-"
    return show(mean) if std is None else f"{show(mean)} ± {show(std)}"


def factor(row: Row, name: str) -> Any:
    """Returns the value of a factor in a design, whether or not it sets it."""
    factors = row.candidate.factors
    return factors[name] if name in factors else value_of(row.candidate.config, name)


def variation(found: Sequence[Row], name: str) -> list[Row]:
    """Returns the designs that differ from the base in one factor alone, and the base.

    They are sorted by its value.
    """
    rows = [row for row in found if set(row.candidate.factors) <= {name}]
    values = [factor(row, name) for row in rows]
    if all(isinstance(value, int | float) for value in values):
        return sorted(rows, key=lambda row: factor(row, name))
    return rows
