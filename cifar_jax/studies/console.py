"""What a person sees while a study runs."""

import collections
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import rich.console
import rich.live
import rich.markdown

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row, Run
from cifar_jax.training.progress import clock_time

_MOST_ROWS = 20  # of the best designs


class View:
    """A line for each run that ends; on a terminal, a table in the context `live`."""

    def __init__(
        self,
        study: Study,
        earlier: Iterable[Run] = (),
        console: rich.console.Console | None = None,
    ):
        self._study, self._start = study, time.perf_counter()
        # A file's lines may be longer than a terminal's.
        width = None if sys.stdout.isatty() else 160
        self._console = console or rich.console.Console(highlight=False, width=width)
        self.live = rich.live.Live(
            console=self._console, auto_refresh=False, transient=True
        )
        self._states = collections.Counter(r.state for r in earlier if r.has_ended)
        if self._states:
            self._say("resuming")

    def ended(self, run: Run) -> None:
        """Prints a line for a run that has ended."""
        self._states[run.state] += 1
        end = f"failed: {run.error}"
        if run.state == "pruned":
            epoch, value = max(run.values.items())
            end = f"pruned at epoch {epoch} with {value:.4f}"
        elif run.state == "done":
            size, seconds = run.candidate.num_parameters, run.figures["seconds"]
            end = f"accuracy {run.figures['accuracy']:.4f} "
            end += f"({size:,} parameters, {clock_time(seconds)})"
        self._say(f"{run.candidate.name}, seed {run.seed}: {end}")

    def show(
        self,
        rows: Sequence[Row],
        folder: pathlib.Path | None = None,
        winner: Mapping | None = None,
    ) -> None:
        """Shows the best designs: live, or at the end with the winner and the files."""
        best = [r for r in table.ranked(self._study, rows) if r.done][:_MOST_ROWS]
        columns = table.columns(self._study, best, self._study.factors)
        text = table.grid(columns, best) + "\n"
        if folder:
            parts = [text] * bool(best) + ([table.choice(winner)] if winner else [])
            self._console.print(rich.markdown.Markdown("\n".join(parts)))
            names = "results.csv", "table.md", "plots", "winner.json", "runs"
            written = ", ".join(name for name in names if (folder / name).exists())
            self._say(f"{folder}: {written or 'nothing yet'}")
        elif self._console.is_terminal:
            for run in (r for row in rows for r in row.runs if r.state == "running"):
                epochs = f"{len(run.values)}/{run.candidate.config.train.epochs}"
                values = "".join(f" {run.values[e]:.4f}" for e in [*run.values][-1:])
                name = f"{run.candidate.name}, seed {run.seed}"
                text += f"\n- {name}: epoch {epochs}{values}"
            self.live.update(rich.markdown.Markdown(text), refresh=True)

    def _say(self, text: str) -> None:
        """Prints a text after the time and the number of runs that have ended."""
        states, seconds = self._states, clock_time(time.perf_counter() - self._start)
        others = [f"{states[s]} {s}" for s in ("pruned", "failed") if states[s]]
        note = f" ({', '.join(others)})" if others else ""
        line = f"{seconds}  {states.total()}/{self._study.num_runs} runs{note}  {text}"
        self._console.print(line, markup=False, soft_wrap=True)
