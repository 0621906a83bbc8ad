"""What a person sees while a study runs."""

import sys
import time
from collections.abc import Sequence

import rich.console
import rich.live
import rich.table

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row, Run
from cifar_jax.training.progress import clock_time

_MOST_ROWS = 20  # of the best; what runs comes on top of them


def make_console() -> rich.console.Console:
    """Returns standard output; a file's lines may be longer than a terminal's."""
    width = None if sys.stdout.isatty() else 160
    return rich.console.Console(highlight=False, width=width)


class View:
    """A live table on a terminal; elsewhere a line for each run that ends.

    Args:
      study: What is shown.
      console: Where; None: standard output.
    """

    def __init__(self, study: Study, console: rich.console.Console | None = None):
        self._study = study
        self._console = console or make_console()
        self._live = rich.live.Live(
            console=self._console, auto_refresh=False, transient=True
        )
        self._start = time.perf_counter()
        self._told: set[tuple[str, int]] | None = None  # runs that have ended

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error):
        self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        """Shows where the study is."""
        if self._console.is_terminal:
            self._live.update(self._table(rows), refresh=True)
        self._tell(rows)

    def summarise(self, rows: Sequence[Row], folder, exit_code: int) -> None:
        """Prints the best designs, and where everything is."""
        self._console.print(self._table(rows, running=False))
        if exit_code:
            self._say(f"{self._counts(rows)}; the same command goes on from there")
        self._say(f"{folder}: results.csv, table.md, plots/, winner.json, runs/")

    def _tell(self, rows: Sequence[Row]) -> None:
        """Prints a line for each run that has ended since the last call."""
        ended = {
            (row.candidate.name, run.seed): (row, run)
            for row in rows
            for run in row.runs
            if run.state in ("done", "pruned", "failed")
        }
        if self._told is None:
            if ended:
                self._say(f"going on: {self._counts(rows)}")
        else:
            for key in ended.keys() - self._told:
                self._say(f"{self._counts(rows)}  {_line(*ended[key])}")
        self._told = set(ended)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _counts(self, rows: Sequence[Row]) -> str:
        count = {s: sum(row.count(s) for row in rows) for s in ("pruned", "failed")}
        ended = sum(row.count("done") for row in rows) + sum(count.values())
        aside = ", ".join(f"{n} {state}" for state, n in count.items() if n)
        seconds = clock_time(time.perf_counter() - self._start)
        aside = f" ({aside})" if aside else ""
        return f"{seconds}  {ended}/{self._expected(rows)} runs{aside}"

    def _expected(self, rows: Sequence[Row]) -> int:
        """Returns how many runs the study has, as far as is known."""
        if self._study.samples or not self._study.staged:
            return self._study.runs
        firsts = [row.runs[0] for row in rows if row.runs]
        ended = sum(run.state in ("pruned", "failed") for run in firsts)
        return self._study.runs - ended * (self._study.seeds - 1)

    def _table(self, rows: Sequence[Row], running: bool = True) -> rich.table.Table:
        shown = rich.table.Table(title=self._counts(rows), title_justify="left")
        shown.add_column("")
        shown.add_column("design")
        for name in ("parameters", "MACs", "seeds", "validation accuracy"):
            shown.add_column(name, justify="right")
        if running:
            shown.add_column("running")
        ranked = [r for r in table.ranked(self._study, rows) if r.count("done")]
        busy = [r for r in rows if r.count("running") and r not in ranked[:_MOST_ROWS]]
        for place, row in enumerate(ranked[:_MOST_ROWS], 1):
            shown.add_row(*self._cells(str(place), row, running))
        for row in busy:
            shown.add_row(*self._cells("", row, running))
        return shown

    def _cells(self, place: str, row: Row, running: bool) -> list[str]:
        each = row.candidate
        cells = [place, each.name, f"{each.num_parameters:,}", f"{each.cost.macs:,}"]
        cells += [str(row.count("done")), table.spread(row, "accuracy")]
        if running:
            active = (run for run in row.runs if run.state == "running")
            epochs = each.config.train.epochs
            cells.append(", ".join(_progress(run, epochs) for run in active))
        return cells


def _progress(run: Run, epochs: int) -> str:
    value = "" if run.last is None else f" {run.last:.4f}"
    return f"seed {run.seed}: epoch {run.epochs}/{epochs}{value}"


def _line(row: Row, run: Run) -> str:
    """Returns what became of a run."""
    start = f"{row.candidate.name}, seed {run.seed}:"
    if run.state == "failed":
        return f"{start} failed: {run.error}"
    if run.state == "pruned":
        return f"{start} pruned at epoch {run.epochs} with {run.last:.4f}"
    seconds = clock_time(run.result["seconds"])
    return (
        f"{start} accuracy {run.result['accuracy']:.4f} "
        f"({row.candidate.num_parameters:,} parameters, {seconds})"
    )
