"""The table of a study: a row for each design, with mean and spread over its seeds."""

import collections
import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from cifar_jax import UserError
from cifar_jax.studies.designs import Candidate, value_of
from cifar_jax.studies.study import OBJECTIVES, Study

Key = tuple[str, int]  # name of a design, and number of its run
Columns = Mapping[str, Callable[["Row"], str]]  # what is shown of a row, by title

# Objectives that another run of the study would not measure the same, with their units.
_CLOCKS = {"latency": "ms", "seconds": "s"}
# Columns of results.csv that a run fills when it is done.
_RUN = ("accuracy", "loss", "accuracy_tta", "best_epoch", "seconds")
_RUN += ("compile_seconds", "images_per_second", "latency", "device")


class Figures(TypedDict, total=False):
    """What is kept of a run that is done; of its best validation, `latency` in ms."""

    accuracy: float
    loss: float
    accuracy_tta: float | None
    parameters: int
    macs: int
    best_epoch: int
    seconds: float
    compile_seconds: float
    images_per_second: float
    device: str
    latency: float


class Winner(TypedDict):
    """winner.json: the best design, which alone is scored on the test set, once.

    `validation` and `test` are accuracies by seed.
    """

    design: str
    factors: dict[str, Any]
    widths: tuple[int, ...]
    parameters: int
    macs: int
    seeds: list[int]
    validation: list[float]
    test: list[float]


@dataclasses.dataclass
class Run:
    """One run of a design.

    Attributes:
      seed: Number of the run among those of the design, from 0.
      state: waiting, running, done, pruned or failed.
      values: Validation metric that decides on pruning, by epoch.
      error: Why it failed, or None.
    """

    candidate: Candidate
    seed: int
    state: str = "waiting"
    values: dict[int, float] = dataclasses.field(default_factory=dict)
    figures: Figures = dataclasses.field(default_factory=Figures)
    error: str | None = None

    @property
    def key(self) -> Key:
        """Name of the design, and number of the run."""
        return self.candidate.name, self.seed

    @property
    def has_ended(self) -> bool:
        """Whether nothing of the run is left to do."""
        return self.state in ("done", "pruned", "failed")

    @property
    def epochs(self) -> int:
        """Number of epochs validated so far."""
        return max(self.values, default=0)


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
        figures: list[Any] = [run.figures.get(name) for run in self.done]
        values = [value for value in figures if value is not None]
        return values[:1] if name == "macs" else values

    def mean(self, name: str) -> float | None:
        """Returns the mean over the runs that are done, or None."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def spread(self, name: str, form: str = ".4f") -> str:
        """Returns mean and standard deviation (n - 1) as a person reads them."""
        values = self.values(name)
        if len(values) < 2:
            return f"{values[0]:{form}}" if values else "-"
        mean, std = statistics.fmean(values), statistics.stdev(values)
        return f"{mean:{form}} ± {std:{form}}"

    def factor(self, name: str) -> Any:
        """Returns the value of a factor, whether or not the design sets it."""
        factors, config = self.candidate.factors, self.candidate.config
        return factors[name] if name in factors else value_of(config, name)


def rows(candidates: Sequence[Candidate], runs: Iterable[Run]) -> list[Row]:
    """Returns a row for each design, in the order of the study."""
    by_name: dict[str, list[Run]] = {design.name: [] for design in candidates}
    for run in sorted(runs, key=lambda run: run.seed):
        by_name[run.candidate.name].append(run)
    return [Row(design, tuple(by_name[design.name])) for design in candidates]


def ranked(study: Study, table: Sequence[Row]) -> list[Row]:
    """Returns the rows by the first objective: best first, those with most runs first.

    Designs with fewer runs done than others come after them, so that a lucky seed does
    not lead the table. Ties stay in the study's order.
    """
    name = study.objectives[0]
    sign = -1 if OBJECTIVES[name] else 1
    costs = {row.candidate.name: math.inf for row in table}
    for row in table:
        if row.done and (mean := row.mean(name)) is not None:
            costs[row.candidate.name] = sign * mean
    return sorted(table, key=lambda row: (-len(row.done), costs[row.candidate.name]))


def front(study: Study, table: Sequence[Row]) -> list[Row]:
    """Returns the designs that no other beats in all objectives at once."""
    signs = {name: -1 if OBJECTIVES[name] else 1 for name in study.objectives}
    done = [row for row in table if row.done]
    costs = [[s * (row.mean(name) or 0) for name, s in signs.items()] for row in done]

    return [
        row
        for row, mine in zip(done, costs, strict=True)
        if not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True))
            for other in costs
        )
    ]


def factor_names(study: Study, table: Sequence[Row]) -> list[str]:
    """Returns the factors of a space, in their order; a list has none."""
    if study.kind == "list":
        return []
    return list(dict.fromkeys(name for row in table for name in row.candidate.factors))


def text(value: Any) -> str:
    """Returns a value of a factor for a table."""
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], dict):  # an augmentation
            return " ".join(item.get("name", "?") for item in value)
        return "-".join(map(text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def short(name: str) -> str:
    """Returns the last telling part of a factor's name."""
    return name.removesuffix(".name").rsplit(".", 1)[-1]


def variation(table: Sequence[Row], name: str) -> list[Row]:
    """Returns the base, and what differs in one factor alone, by its value."""
    varied = [row for row in table if set(row.candidate.factors) <= {name}]
    if all(isinstance(row.factor(name), int | float) for row in varied):
        return sorted(varied, key=lambda row: row.factor(name))
    return varied


def design_columns(names: Sequence[str]) -> dict[str, Callable[[Row], str]]:
    """Returns the columns that show a design, with the factors of these names."""
    return {
        "design": lambda row: row.candidate.name,
        **{short(n): lambda row, name=n: text(row.factor(name)) for n in names},
        "widths": lambda row: text(row.candidate.widths),
        "parameters": lambda row: f"{row.candidate.num_parameters:,}",
        "MACs": lambda row: row.spread("macs", ",.0f"),
    }


def grid(columns: Columns, table: Iterable[Row]) -> str:
    """Returns rows as a table in Markdown."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def best(study: Study, table: Sequence[Row], most: int) -> str:
    """Returns the designs that lead the table, as a short table in Markdown."""
    leaders = [row for row in ranked(study, table) if row.done][:most]
    columns = design_columns(factor_names(study, table)) | _columns(study, leaders)
    return grid(columns, leaders)


def markdown(study: Study, table: Sequence[Row], winner: Winner | None = None) -> str:
    """Returns the table in Markdown; the same runs give the same text."""
    sound = [row for row in table if not row.candidate.skip_reason]
    names, order = factor_names(study, table), ranked(study, sound)
    if study.kind == "one_at_a_time":
        parts = []
        for name in names:
            columns = design_columns([name]) | _columns(study, sound)
            lines = grid(columns, variation(sound, name))
            parts.append(f"Variation of {short(name)}:\n\n{lines}")
    else:
        places = {row.candidate.name: str(n) for n, row in enumerate(order, 1)}
        columns = {"": lambda row: places[row.candidate.name]}
        columns |= design_columns(names) | _columns(study, sound)
        parts = [grid(columns, order)]
    parts.append(
        "Accuracy and loss: of the best validation, mean ± standard deviation over "
        "seeds."
    )
    skipped = (row.candidate for row in table if row.candidate.skip_reason)
    failed = (run for row in order for run in row.runs if run.state == "failed")
    asides = {
        "Never started": [f"- {c.name}: {c.skip_reason}" for c in skipped],
        "Failed": [f"- {r.candidate.name}, seed {r.seed}: {r.error}" for r in failed],
    }
    parts += [f"{title}:\n\n" + "\n".join(s) for title, s in asides.items() if s]
    if winner:
        test, std = winner["test"], ""
        if len(test) > 1:
            std = f" ± {statistics.stdev(test):.4f}"
        parts.append(
            f"Chosen on validation: {winner['design']}. Its test accuracy, the only "
            f"one that was looked at: {statistics.fmean(test):.4f}{std} (n = "
            f"{len(test)})."
        )
    return "\n\n".join(parts) + "\n"


def read_winner(folder: pathlib.Path) -> Winner | None:
    """Returns winner.json of a study's folder, or None."""
    path = folder / "winner.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and the same command writes it "
            "again"
        ) from error


def _columns(study: Study, table: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Returns the columns that show what runs have come to."""
    columns: dict[str, Callable[[Row], str]] = {
        "seeds": lambda row: ", ".join(
            [
                str(len(row.done)),
                *asides(collections.Counter(run.state for run in row.runs)),
            ]
        ),
        "validation accuracy": lambda row: row.spread("accuracy"),
        "loss": lambda row: row.spread("loss"),
    }
    if any(row.values("accuracy_tta") for row in table):
        columns["accuracy with TTA"] = lambda row: row.spread("accuracy_tta")
    for name, unit in _CLOCKS.items():
        if name in study.objectives:
            columns[f"{name} ({unit})"] = lambda row, n=name: row.spread(n, ".3g")
    if study.reported:
        claims = {name: f"{claim:.4f}" for name, claim in study.reported.items()}
        columns["reported"] = lambda row: claims.get(row.candidate.name, "")
    if len(study.objectives) > 1:
        best = {row.candidate.name for row in front(study, table)}
        yes = dict.fromkeys(best, "yes")
        columns["on the Pareto front"] = lambda row: yes.get(row.candidate.name, "")
    return columns


def asides(states: collections.Counter[str]) -> list[str]:
    """Returns how many runs have ended without being done, in words."""
    return [f"{states[s]} {s}" for s in ("pruned", "failed") if states[s]]


def csv(table: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the lines of results.csv: one for each run."""
    names = list(dict.fromkeys(n for row in table for n in row.candidate.factors))
    header = ["design", *names, "widths", "parameters", "macs", "seed", "state"]
    header += ["epochs", *_RUN, "error"]
    lines: list[list[Any]] = []
    for row in table:
        design, values = row.candidate, map(row.factor, names)
        cells = (v if isinstance(v, int | float | str) else text(v) for v in values)
        start = [design.name, *cells, text(design.widths), design.num_parameters]
        start += row.values("macs") or [""]
        if reason := design.skip_reason:
            lines.append([*start, "", "refused", 0, *[""] * len(_RUN), reason])
        for run in row.runs:
            figures = [run.figures.get(name, "") for name in _RUN]
            end = [run.seed, run.state, run.epochs, *figures, run.error or ""]
            lines.append([*start, *end])
    return header, lines
