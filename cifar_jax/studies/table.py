"""The table of a study: a row for each design, with mean and spread over its seeds."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.study import OBJECTIVES, Study

Key = tuple[str, int]  # name of a design, and number of its run
Columns = dict[str, Callable[["Row"], str]]  # what is shown of a row, by title
# Columns of results.csv that a run fills when it is done.
_RUN = ("accuracy", "loss", "accuracy_tta", "best_epoch", "seconds")
_RUN += ("compile_seconds", "images_per_second", "latency", "device")


@dataclasses.dataclass
class Run:
    """One run of a design.

    Attributes:
      seed: Number of the run among those of the design, from 0.
      state: waiting, running, done, pruned or failed.
      values: Validation metric that decides on pruning, by epoch.
      figures: What a run that is done has come to; see `run.figures`.
      error: Why it failed, or "".
    """

    candidate: Candidate
    seed: int
    state: str = "waiting"
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> Key:
        """Name of the design, and number of the run."""
        return self.candidate.name, self.seed

    @property
    def has_ended(self) -> bool:
        """Whether nothing of the run is left to do."""
        return self.state in ("done", "pruned", "failed")

    def config(self) -> ConfigDict:
        """Returns the config of the run: that of its design, with a seed of its own."""
        config = self.candidate.config.copy_and_resolve_references()
        config.seed = (config.seed + self.seed) % 2**32
        return config


@dataclasses.dataclass(frozen=True)
class Row:
    """A design and its runs, by seed."""

    candidate: Candidate
    runs: tuple[Run, ...] = ()

    @property
    def done(self) -> list[Run]:
        """Runs that are done."""
        return [run for run in self.runs if run.state == "done"]

    def values(self, name: str) -> list[float]:
        """Returns a figure of all runs that are done, or that of the design."""
        if name == "parameters":
            return [self.candidate.num_parameters]
        values = [run.figures.get(name) for run in self.done]
        known = [value for value in values if value is not None]
        return known[:1] if name == "macs" else known

    def cost(self, name: str) -> float:
        """Returns the mean of an objective, negative where more of it is better."""
        sign = -1 if OBJECTIVES[name] else 1
        values = self.values(name) if self.done else []
        return sign * statistics.fmean(values) if values else math.inf


def spread(values: Sequence[float], form: str = ".4f") -> str:
    """Returns mean and standard deviation (n - 1) as a person reads them, or "-"."""
    std = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{std}" if values else "-"


def rows(candidates: Iterable[Candidate], runs: Iterable[Run]) -> list[Row]:
    """Returns a row for each design, in the order of the study."""
    by_name: dict[str, list[Run]] = collections.defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        by_name[run.candidate.name].append(run)
    return [Row(design, tuple(by_name[design.name])) for design in candidates]


def ranked(study: Study, table: Iterable[Row]) -> list[Row]:
    """Returns the rows by the first objective: best first, those with most runs first.

    Designs with fewer runs done than others come after them, so that a lucky seed does
    not lead the table. Ties stay in the study's order.
    """
    first = study.options.objectives[0]
    return sorted(table, key=lambda row: (-len(row.done), row.cost(first)))


def front(study: Study, table: Iterable[Row]) -> list[Row]:
    """Returns the designs that no other beats in all objectives at once."""
    names, done = study.options.objectives, [row for row in table if row.done]
    costs = [tuple(map(row.cost, names)) for row in done]
    return [
        row
        for row, mine in zip(done, costs, strict=True)
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in costs
        )
    ]


def text(value: Any) -> str:
    """Returns a value of a factor for a table."""
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], dict):  # an augmentation
            return " ".join(item.get("name", "?") for item in value)
        return "-".join(map(text, value)) or "none"
    form = ".4g" if isinstance(value, float) else ""
    return "" if value is None else format(value, form)


def variation(table: Sequence[Row], name: str) -> list[Row]:
    """Returns the base, and what differs in one factor alone, by its value."""
    varied = [row for row in table if set(row.candidate.factors) <= {name}]
    values = [row.candidate.value(name) for row in varied]
    if all(isinstance(value, int | float) for value in values):
        return sorted(varied, key=lambda row: row.candidate.value(name))
    return varied


def columns(study: Study, table: Sequence[Row], factors: Mapping[str, str]) -> Columns:
    """Returns what is shown of rows, by title; `factors` has the titles of factors.

    A column in which nothing is known is left out.
    """
    objectives, reported = study.options.objectives, study.options.reported
    claims = {name: f"{claim:.4f}" for name, claim in reported}
    shown: Columns = {"design": lambda row: row.candidate.name}
    for name, title in factors.items():
        shown[title] = lambda row, name=name: text(row.candidate.value(name))
    shown |= {
        "widths": lambda row: text(row.candidate.widths),
        "parameters": lambda row: f"{row.candidate.num_parameters:,}",
        "MACs": lambda row: spread(row.values("macs"), ",.0f"),
        "seeds": lambda row: tally(row.runs) if row.runs else "",
        "validation accuracy": lambda row: spread(row.values("accuracy")),
        "loss": lambda row: spread(row.values("loss")),
        "accuracy with TTA": lambda row: spread(row.values("accuracy_tta")),
    }
    # No other run of the study measures the same: shown where they are asked for.
    for name, unit in {"latency": "ms", "seconds": "s"}.items():
        if name in objectives:
            shown[f"{name} ({unit})"] = lambda row, name=name: spread(
                row.values(name), ".3g"
            )
    shown["reported"] = lambda row: claims.get(row.candidate.name, "")
    if len(objectives) > 1:
        best = {row.candidate.name for row in front(study, table)}
        shown["on the Pareto front"] = lambda r: "yes" * (r.candidate.name in best)
    return {
        title: show
        for title, show in shown.items()
        if title == "design" or any(show(row) not in ("", "-") for row in table)
    }


def grid(columns: Columns, table: Iterable[Row]) -> str:
    """Returns rows as a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[f(row).replace("|", r"\|") for f in columns.values()] for row in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tally(runs: Iterable[Run]) -> str:
    """Returns how many runs are done, and how many have ended otherwise."""
    states = collections.Counter(run.state for run in runs)
    others = [f"{states[s]} {s}" for s in ("pruned", "failed") if states[s]]
    return ", ".join([str(states["done"]), *others])


def markdown(study: Study, table: Sequence[Row], winner: Mapping | None = None) -> str:
    """Returns the table in Markdown; the same runs give the same text."""
    sound = [row for row in table if not row.candidate.skip_reason]
    order, parts = ranked(study, sound), []
    if study.options.kind == "one_at_a_time":
        for name, title in study.factors.items():
            lines = grid(columns(study, sound, {name: title}), variation(sound, name))
            parts.append(f"Variation of {title}:\n\n{lines}")
    else:
        places = {row.candidate.name: str(n) for n, row in enumerate(order, 1)}
        first: Columns = {"": lambda row: places[row.candidate.name]}
        parts.append(grid(first | columns(study, sound, study.factors), order))
    note = "Accuracy and loss: of the best validation, mean ± standard deviation over "
    parts.append(note + "seeds.")
    refused = [row.candidate for row in table if row.candidate.skip_reason]
    failed = [run for row in order for run in row.runs if run.state == "failed"]
    lists = {
        "Never started": [f"- {c.name}: {c.skip_reason}" for c in refused],
        "Failed": [f"- {r.candidate.name}, seed {r.seed}: {r.error}" for r in failed],
    }
    parts += [f"{title}:\n\n" + "\n".join(s) for title, s in lists.items() if s]
    parts += [choice(winner)] if winner else []
    return "\n\n".join(parts) + "\n"


def choice(winner: Mapping) -> str:
    """Returns the sentence about the design in winner.json."""
    test = winner["test"]
    note = f"Chosen on validation: {winner['design']}. Its test accuracy: "
    return f"{note}{spread(test)} (n = {len(test)})."


def csv(table: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the lines of results.csv: one for each run."""
    names = list(dict.fromkeys(n for row in table for n in row.candidate.factors))
    header = ["design", *names, "widths", "parameters", "macs", "seed", "state"]
    lines: list[list[Any]] = []
    for row in table:
        design, values = row.candidate, map(row.candidate.value, names)
        cells = (v if isinstance(v, int | float | str) else text(v) for v in values)
        start = [design.name, *cells, text(design.widths), design.num_parameters]
        start += row.values("macs") or [""]
        if reason := design.skip_reason:
            lines.append([*start, "", "refused", 0, *[""] * len(_RUN), reason])
        for run in row.runs:
            figures = [run.figures.get(name, "") for name in _RUN]
            end = [run.seed, run.state, max(run.values, default=0), *figures]
            lines.append([*start, *end, run.error])
    return [*header, "epochs", *_RUN, "error"], lines
