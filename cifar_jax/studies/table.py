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


def markdown(study: Study, found: Sequence[Row]) -> str:
    """Returns the table in Markdown; the same runs give the same text."""
    order, names = ranked(study, found), factor_names(found)
    if study.kind == "one_at_a_time":
        parts = [
            f"Variation of {short(name)}:\n\n"
            + _grid(study, variation(found, name), [name], places=False)
            for name in names
        ]
    else:
        names = [] if study.kind == "list" else names
        parts = [_grid(study, order, names, places=True)]
    parts.append(
        "Accuracy and loss: of the best validation, mean ± standard deviation over "
        "seeds."
    )
    return "\n\n".join([*parts, *_asides(order)]) + "\n"


def _grid(study: Study, rows: Sequence[Row], names: list[str], places: bool) -> str:
    several = len(study.objectives) > 1
    best = {id(row) for row in front(study, rows)} if several else set()
    header = [""] * places + ["design", *map(short, names)]
    header += ["widths", "parameters", "MACs", "seeds", "validation accuracy", "loss"]
    header += ["reported"] if study.reported else []
    header += ["on the Pareto front"] if several else []
    lines = [header, ["---"] * len(header)]
    for place, row in enumerate((r for r in rows if not r.candidate.refusal), 1):
        each = row.candidate
        line = [str(place)] * places + [each.name]
        line += [text(factor(row, name)) for name in names]
        line += [text(each.widths), f"{each.num_parameters:,}", f"{each.cost.macs:,}"]
        line += [_seeds(row), spread(row, "accuracy"), spread(row, "loss")]
        if study.reported:
            claim = study.reported.get(each.name)
            line.append("" if claim is None else f"{claim:.4f}")
        line += ["yes" if id(row) in best else ""] * several
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seeds(row: Row) -> str:
    extra = (f"{row.count(s)} {s}" for s in ("pruned", "failed") if row.count(s))
    return ", ".join([str(row.count("done")), *extra])


def _asides(order: Sequence[Row]) -> list[str]:
    """Returns what is not in the table: designs over the budget, and failed runs."""
    refused = [
        f"- {row.candidate.name}: {row.candidate.refusal}"
        for row in order
        if row.candidate.refusal
    ]
    failed = [
        f"- {row.candidate.name}, seed {run.seed}: {run.error}"
        for row in order
        for run in row.runs
        if run.state == "failed"
    ]
    parts = []
    if refused:
        parts.append("Never started:\n\n" + "\n".join(refused))
    if failed:
        parts.append("Failed:\n\n" + "\n".join(failed))
    return parts


CSV_RUN = (
    *("accuracy", "loss", "best_epoch", "seconds", "compile_seconds"),
    *("images_per_second", "latency", "device"),
)


def csv(found: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the lines of results.csv: one for each run."""
    names = factor_names(found)
    header = ["design", *names, "widths", "parameters", "macs", "seed", "state"]
    header += ["epochs", *CSV_RUN, "error"]
    lines = []
    for row in found:
        each = row.candidate
        start = [each.name, *(_cell(factor(row, name)) for name in names)]
        start += [text(each.widths), each.num_parameters, each.cost.macs]
        if each.refusal:
            lines.append([*start, "", "refused", 0, *[""] * len(CSV_RUN), each.refusal])
        for run in row.runs:
            figures = [run.result.get(name, "") for name in CSV_RUN]
            lines.append(
                [*start, run.seed, run.state, run.epochs, *figures, run.error or ""]
            )
    return header, lines


def _cell(value: Any) -> Any:
    return text(value) if isinstance(value, list | tuple | type(None)) else value
