"""What a person sees while a study runs."""

import collections
import sys
import time
from collections.abc import Iterable, Sequence

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
      earlier: Runs of earlier calls; those that have ended are counted.
      console: Console to print on; None: standard output.

    Attributes:
      live: Context in which a terminal shows the table.
      is_live: Whether there is a terminal.
    """

    def __init__(
        self,
        study: Study,
        earlier: Iterable[Run] = (),
        console: rich.console.Console | None = None,
    ):
        self._study = study
        # A file's lines may be longer than a terminal's.
        width = None if sys.stdout.isatty() else 160
        self._console = console or rich.console.Console(highlight=False, width=width)
        self.is_live = self._console.is_terminal
        self.live = rich.live.Live(
            console=self._console, auto_refresh=False, transient=True
        )
        self._start = time.perf_counter()
        # Runs that have ended, by their state, and whether each was its design's first.
        self._ended = collections.Counter(
            (run.state, run.seed == 0) for run in earlier if run.has_ended
        )
        if self._ended:
            self.say(f"resuming: {self._counts()}")

    def ended(self, run: Run) -> None:
        """Prints a line for a run that has ended."""
        self._ended[run.state, run.seed == 0] += 1
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
        if not self.is_live:
            return
        lines = []
        for run in (run for row in rows for run in row.runs if run.state == "running"):
            value = f" {run.values[run.epochs]:.4f}" if run.values else ""
            epochs = f"{run.epochs}/{run.candidate.config.train.epochs}"
            lines.append(
                f"{run.candidate.name}, seed {run.seed}: epoch {epochs}{value}"
            )
        best = table.best(self._study, rows, _MOST_ROWS)
        text = "\n\n".join([self._counts(), best, "  \n".join(lines)])
        self.live.update(rich.markdown.Markdown(text), refresh=True)

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

    def _counts(self) -> str:
        """Returns the time, and how many runs have ended."""
        states = collections.Counter[str]()
        for (state, _), number in self._ended.items():
            states[state] += number
        num_runs = self._study.num_runs
        if self._study.is_staged and not self._study.is_sampled:
            # Without its first run, a design of a fixed space has no further seeds.
            lost = self._ended["pruned", True] + self._ended["failed", True]
            num_runs -= lost * (self._study.seeds - 1)
        seconds = clock_time(time.perf_counter() - self._start)
        asides = table.asides(states)
        note = f" ({', '.join(asides)})" if asides else ""
        return f"{seconds}  {states.total()}/{num_runs} runs{note}"
