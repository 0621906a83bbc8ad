"""Drives a study: decides which runs there are, and has an executor do them.

    search.main -> run_study -> Driver.run -> executor.submit(train, task)

The driver alone writes the journal. It follows its runs through the metrics.jsonl in
their directories, and ends one early by a stop file there, so an executor needs to know
nothing of pruning, time limits or Ctrl-C.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import queue
import signal
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError, Executor, Future

from ml_collections import ConfigDict

from cifar_jax import Stopped, UserError
from cifar_jax._files import OutputFolder, first_line, lock_file, on_disk, read_object
from cifar_jax.config import RESUMABLE_KEYS, config_diff, config_to_dict
from cifar_jax.data import sources
from cifar_jax.studies import designs, executors, plots, study, table
from cifar_jax.studies.console import View
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.run import STOP, Outcome, figures, score, train
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Key, Row, Run
from cifar_jax.training.interrupt import listen

# With other values of these a study may be resumed: it then has more runs, or its runs
# other resources.
_FREE = ("seeds", "trials", "finalists", "accelerators", "max_seconds", "reported")
FREE_KEYS = (*(f"study.{k}" for k in _FREE), *(f"base.{k}" for k in RESUMABLE_KEYS))
MOST_DEATHS = 3  # of a run's processes, without an epoch in between
_LOOK_SECONDS = 1.0  # between looks at the metrics of running runs
_TABLE_SECONDS = 10.0  # between tables, at least


def run_study(
    config: ConfigDict,
    workdir: os.PathLike | str,
    *,
    executor: Executor | str = "local",
    workers: int = 0,
    retry_failed: bool = False,
    part: tuple[int, int] | None = None,
    merge: bool = False,
) -> list[Row]:
    """Runs or resumes a study, and writes its tables; returns a row for each design.

    Args:
      config: Config, made by `cifar_jax.config.get_study_config`.
      workdir: Folder of the study, which all workers see under this path.
      executor: "local", "ray", "ray=ADDRESS", or any executor, which stays open.
      workers: Number of runs in the executor's hands; 0: as many as fit, or 32.
      retry_failed: Whether failed runs are done once more.
      part: (k, n): do each n-th design, from the k-th, and leave tables to `merge`.
      merge: Read the runs that are done, and start none.

    Raises:
      UserError: If the config or folder is unusable, or no run has ended well.
      Stopped: After SIGINT, SIGTERM or `study.max_seconds`, when all runs are saved.
    """
    folder = on_disk(os.fspath(workdir), "--workdir").absolute()
    made, name = study.make(config), ""
    if part:
        if made.is_staged:
            raise UserError(
                "a part of a study needs designs that do not depend on others; use "
                "study.kind='grid', 'list' or 'one_at_a_time', and study.pruner='none'"
            )
        number, total = part
        own, name = made.candidates[number - 1 :: total], f"-{number}-of-{total}"
        made = dataclasses.replace(made, candidates=own)
    if merge and not (folder / "study.json").exists():
        raise UserError(f"{folder} holds no study; give the --workdir of its parts")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not lock_file(stack.enter_context((folder / f".lock{name}").open("a"))):
            remedy = "wait for it, or stop it and give --workers instead"
            raise UserError(f"another command works in {folder}; {remedy}")
        claim(folder, config)
        if isinstance(executor, str):
            executor = executors.make(executor, workers, made.options, folder / "logs")
            stack.callback(executor.shutdown, cancel_futures=True)
            interrupt = getattr(executor, "interrupt", lambda: None)
            stack.push(lambda error, *_: error and interrupt())  # runs save and end
        return Driver(made, folder, name, executor, workers, retry_failed, merge).run()


def claim(folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config of a study, or refuses a folder that holds another one."""
    path, new = folder / "study.json", config_to_dict(config)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run; choose another --workdir")
    old = read_object(path) if path.exists() else new
    if changed := config_diff(old, new, FREE_KEYS):
        raise UserError(
            f"{folder} holds a study of another config ({'; '.join(changed.values())})"
            "; use the old values, or choose another --workdir"
        )
    OutputFolder(folder).json(path.name, new)


@dataclasses.dataclass
class Driver:
    """The loop that asks for runs, submits them, and follows them to their end.

    When it is made, it reads the journal of its study: what has ended stays as it is,
    and what has not is resumed. The study is all of one, with the name "", or a part,
    whose name its journal has; a part writes no tables. Further fields are arguments of
    `run_study`.
    """

    study: Study
    folder: pathlib.Path
    name: str
    executor: Executor
    workers: int
    retry_failed: bool
    merge: bool

    def __post_init__(self):
        self._runs: dict[Key, Run] = {}
        self._waiting: collections.deque[Run] = collections.deque()
        self._running: dict[Future, Run] = {}
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._metrics: dict[Key, int] = {}  # bytes of metrics.jsonl that were read
        self._deaths: collections.Counter[tuple[Key, int]] = collections.Counter()
        self._stop: Stopped | None = None
        self._is_used_up = self.merge  # whether no new designs can be proposed
        start = time.monotonic()
        self._deadline = start + (self.study.options.max_seconds or math.inf)
        self._next_look, self._next_table = 0.0, start + _TABLE_SECONDS
        self._journal = Journal(self.study, self.folder, f"journal{self.name}.log")
        for run in self._journal.runs():
            is_again = self.retry_failed and run.state == "failed"
            self._add([Run(run.candidate, run.seed) if is_again else run])
        for path in sorted(self.folder.glob(".lock-*")) if self.merge else ():
            with path.open("a") as file:
                if lock_file(file):  # the part has ended, or was stopped
                    name = path.name.replace(".lock", "journal") + ".log"
                    part = Journal(self.study, self.folder, name).runs()
                    failed = [run for run in part if run.state == "failed"]
                    self._add(r for r in failed if not figures(self._workdir(r)))
        self._view = View(self.study, self._runs.values())

    def run(self) -> list[Row]:
        """Does all runs that are left, scores the winner, and writes the tables."""
        with listen() as signals, self._view.live:
            while True:
                if not self._stop:
                    self._submit()
                if not self._running:
                    if self._stop or not self._extend():
                        break
                    continue
                with contextlib.suppress(queue.Empty):
                    self._collect(self._ended.get(timeout=_LOOK_SECONDS))
                if time.monotonic() >= self._next_look:
                    self._look(signals.noted)
            rows = table.rows(self._journal.designs.values(), self._runs.values())
            winner = None
            if not self.name:
                self._write(rows)  # whatever becomes of the scores
                is_over = rows and all(run.has_ended for run in self._runs.values())
                if is_over and not self._stop:
                    winner = self._score_winner(rows)
        self._view.show(rows, self.folder, winner)
        if self._stop:
            raise self._stop
        if not self.name and not any(row.done for row in rows):
            raise UserError(
                f"no run of the study has ended well; {self.folder}/table.md says "
                "what has failed, and --retry_failed tries it again"
            )
        return rows

    def _add(self, runs: Iterable[Run]) -> bool:
        """Adds runs that are new, to be done; returns whether there are any."""
        new = {run.key: run for run in runs if run.key not in self._runs}
        self._runs |= new
        self._waiting.extend(run for run in new.values() if not run.has_ended)
        return bool(new)

    def _extend(self) -> bool:
        """Adds the next runs when all others have ended; returns whether it has any.

        First these are all of a study, or the first one of each design; then the other
        seeds of designs whose first run was done, or of the best of them.
        """
        options, study = self.study.options, self.study
        known = self._journal.designs.values()
        sound = [design for design in known if not design.skip_reason]
        seeds = range(1 if study.is_staged else options.seeds)
        is_new = self._add(Run(design, seed) for design in sound for seed in seeds)
        if is_new or not study.is_staged or self.merge:
            return is_new
        firsts = table.rows(sound, (r for r in self._runs.values() if r.seed == 0))
        done = [row.candidate for row in table.ranked(study, firsts) if row.done]
        best = done[: options.finalists] if study.is_sampled else done
        others = range(1, options.seeds)
        return self._add(Run(design, seed) for design in best for seed in others)

    def _submit(self) -> None:
        """Fills the executor, with waiting runs before new designs of the sampler."""
        options, data = self.study.options, self.study.rules.base.data
        latency = options.latency or "latency" in options.objectives
        # Machines may join a cluster: it is asked anew.
        while len(self._running) < (
            self.workers or getattr(self.executor, "num_workers", 32)
        ):
            if not self._waiting:
                proposed = None if self._is_used_up else self._journal.propose()
                if proposed is None:
                    self._is_used_up = True
                    return
                self._add([proposed])
            run = self._waiting.popleft()
            workdir, known = self._workdir(run), figures(self._workdir(run))
            if self.merge and not known:
                continue
            if known and (not latency or known.get("latency")):
                run.figures = known  # an earlier command has done it
                future: Future[Outcome] = Future()
                future.set_result(Outcome("done", known))
            else:
                if not self._metrics:  # the first run: before workers would, at once
                    sources.open(data.name, data.dir, local=data.source).prepare()
                self._metrics[run.key] = 0
                (workdir / STOP).unlink(missing_ok=True)
                call = train, run.config(), workdir, options.threads, latency
                future = self.executor.submit(*call)
            self._journal.begin(run)
            run.state, self._running[future] = "running", run
            future.add_done_callback(self._ended.put)

    def _look(self, signal_number: int) -> None:
        """Follows the running runs, passes a stop on, and shows where the study is."""
        start, is_new = time.monotonic(), False
        if not self._stop and (signal_number or start > self._deadline):
            reason, code = f"study.max_seconds={self.study.options.max_seconds:g}", 0
            if signal_number:
                reason, code = signal.Signals(signal_number).name, 128 + signal_number
            self._stop = Stopped(f"stopped by {reason}; the same command resumes", code)
            is_new = True
        for run in self._running.values():
            self._read_metrics(run)
            if self._stop or run.has_ended:
                workdir = self._workdir(run)
                workdir.mkdir(parents=True, exist_ok=True)  # it may not have started
                (workdir / STOP).touch()
        if is_new:
            getattr(self.executor, "interrupt", lambda: None)()
        if start >= self._next_table and not self.name:
            rows = table.rows(self._journal.designs.values(), self._runs.values())
            self._view.show(rows)
            self._write(rows)
            seconds = time.monotonic() - start  # tables may not hold the runs up
            self._next_table = start + max(_TABLE_SECONDS, 20 * seconds)
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _read_metrics(self, run: Run) -> None:
        """Records validations that a run has written, and prunes it."""
        try:
            content = (self._workdir(run) / "metrics.jsonl").read_bytes()
        except OSError:  # not there yet
            return
        if len(content) == self._metrics.get(run.key):
            return
        self._metrics[run.key] = len(content)
        first = self.study.options.objectives[0]
        watched = "loss" if first == "loss" else "accuracy"
        for line in content.splitlines(keepends=True):
            if run.has_ended or not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:  # damaged: the run itself will say so
                return
            if row["split"] != "val" or row["epoch"] in run.values:
                continue
            run.values[row["epoch"]] = row[watched]
            if self._journal.report(run, row["epoch"]):
                # Closed now: a pruner that is asked again may answer otherwise.
                self._close(run, Outcome("pruned"))

    def _collect(self, future: Future[Outcome]) -> None:
        """Closes a run whose call has ended, or queues it again."""
        run, outcome = self._running.pop(future), Outcome("stopped")
        self._read_metrics(run)  # what it wrote last may be what it is pruned for
        if run.has_ended:
            return
        try:
            outcome = future.result()
        except Exception as error:  # the executor's: a call returns its own faults
            lost = CancelledError, *getattr(self.executor, "lost", ())
            death = run.key, max(run.values, default=0)  # without an epoch between
            self._deaths[death] += not self._stop and not isinstance(error, lost)
            if self._deaths[death] == MOST_DEATHS:
                text = f"its process died {MOST_DEATHS} times ({first_line(error)}); "
                text += "try it again with --retry_failed, with fewer --workers if "
                outcome = Outcome("failed", error=f"{text}memory is short")
        if outcome.state == "stopped":
            run.state = "waiting"
            self._waiting.appendleft(run)
        else:
            self._close(run, outcome)

    def _close(self, run: Run, outcome: Outcome) -> None:
        run.state, run.figures, run.error = outcome
        self._journal.close(run)
        self._view.ended(run)

    def _workdir(self, run: Run) -> pathlib.Path:
        name = designs.folder_of(run.candidate.name)
        return self.folder / "runs" / name / f"seed-{run.seed}"

    def _write(self, rows: list[Row]) -> None:
        """Writes results.csv, table.md and plots/, each file whole or not at all."""
        output = OutputFolder(self.folder)
        output.table("results.csv", *table.csv(rows))
        output.text("table.md", table.markdown(self.study, rows))
        output = OutputFolder(self.folder / "plots")
        for name, figure in plots.draw(self.study, rows):
            output.figure(f"{name}.png", figure)

    def _score_winner(self, rows: list[Row]) -> Mapping | None:
        """Writes winner.json and table.md: the best design, which alone is tested.

        `validation` and `test` are accuracies by seed. Each run is scored once.
        """
        best = table.ranked(self.study, rows)[0]
        design, tests, futures = best.candidate, {}, {}
        if not best.done:
            return None
        for run in best.done:
            workdir = self._workdir(run)
            tests[run.seed] = figures(workdir).get("test_accuracy")
            if tests[run.seed] is None:
                call = score, run.config(), workdir, self.study.options.threads
                futures[run.seed] = self.executor.submit(*call)
        tests |= {seed: future.result() for seed, future in futures.items()}
        winner = {
            "design": design.name,
            "factors": design.factors,
            "widths": design.widths,
            "parameters": design.num_parameters,
            "macs": best.values("macs")[0],
            "seeds": list(tests),
            "validation": best.values("accuracy"),
            "test": list(tests.values()),
        }
        output = OutputFolder(self.folder)
        output.json("winner.json", winner)
        output.text("table.md", table.markdown(self.study, rows, winner))
        return winner
