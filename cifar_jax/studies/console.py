"""What a person sees while a study runs."""

import collections
import sys
import time
from collections.abc import Sequence

import rich.console
import rich.live
import rich.markdown

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row, Run
from cifar_jax.training.progress import clock_time

_MOST_ROWS = 20  # of the best designs


class View:
    """A live table on a terminal; elsewhere a line for each run that ends.

    Args:
      study: Study that is shown.
      console: Console to print on; None: standard output.
    """

    def __init__(self, study: Study, console: rich.console.Console | None = None):
        self._study = study
        # A file's lines may be longer than a terminal's.
        width = None if sys.stdout.isatty() else 160
        self._console = console or rich.console.Console(highlight=False, width=width)
        self._live = rich.live.Live(
            console=self._console, auto_refresh=False, transient=True
        )
        self.is_live = self._console.is_terminal
        self._start = time.perf_counter()
        self._ended = collections.Counter[str]()  # runs by the state they ended in
        self._num_runs = study.num_runs

    def __enter__(self):
        if self.is_live:
            self._live.start()
        return self

    def __exit__(self, *error):
        self._live.stop()

    def resume(self, runs: Sequence[Run]) -> None:
        """Prints what an earlier call has done."""
        for run in runs:
            if run.has_ended:
                self._count(run)
        if self._ended:
            self.say(f"resuming: {self._counts()}")

    def ended(self, run: Run) -> None:
        """Prints a line for a run that has ended."""
        self._count(run)
        end = f"failed: {run.error}"
        if run.state == "pruned":
            end = f"pruned at epoch {run.epochs} with {run.values[run.epochs]:.4f}"
        elif run.state == "done":
            size, seconds = run.candidate.num_parameters, run.figures["seconds"]
            end = f"accuracy {run.figures['accuracy']:.4f} "
            end += f"({size:,} parameters, {clock_time(seconds)})"
        self.say(f"{self._counts()}  {run.candidate.name}, seed {run.seed}: {end}")

    def show(self, rows: Sequence[Row]) -> None:
        """Shows the table on a terminal, with what is running."""
        active = (run for row in rows for run in row.runs if run.state == "running")
        lines = [self._counts(), table.best(self._study, rows, _MOST_ROWS)]
        for run in active:
            value = f" {run.values[run.epochs]:.4f}" if run.values else ""
            epochs = f"{run.epochs}/{run.candidate.config.train.epochs}"
            lines.append(
                f"{run.candidate.name}, seed {run.seed}: epoch {epochs}{value}"
            )
        text = "\n\n".join(lines[:1] + lines[1:2]) + "\n\n" + "  \n".join(lines[2:])
        self._live.update(rich.markdown.Markdown(text), refresh=True)

    def say(self, text: str) -> None:
        """Prints a text as it is."""
        if self.is_live:
            self._console.print(text, markup=False, soft_wrap=True)
        else:  # rich takes a millisecond for each
            print(text, file=self._console.file, flush=True)

    def summarise(self, rows: Sequence[Row], folder) -> None:
        """Prints the best designs, and where everything is."""
        text = table.best(self._study, rows, _MOST_ROWS)
        self._console.print(rich.markdown.Markdown(text))
        files = "results.csv, table.md, plots/, winner.json, runs/"
        self.say(f"{self._counts()}; {folder}: {files}")

    def _count(self, run: Run) -> None:
        self._ended[run.state] += 1
        study = self._study
        # Without its first run, a design of a fixed space has no further seeds.
        is_first = study.is_staged and not study.is_sampled and run.seed == 0
        if is_first and run.state != "done":
            self._num_runs -= study.seeds - 1

    def _counts(self) -> str:
        ended = self._ended
        aside = ", ".join(f"{ended[s]} {s}" for s in ("pruned", "failed") if ended[s])
        seconds = clock_time(time.perf_counter() - self._start)
        runs = f"{ended.total()}/{self._num_runs} runs"
        return f"{seconds}  {runs}" + (f" ({aside})" if aside else "")
