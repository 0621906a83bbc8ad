"""Drives a study: decides which runs there are, and has an executor do them.

    search.main -> run_study -> Driver.run -> executor.submit(train, task)

The driver alone writes the journal. It follows its runs through the metrics.jsonl in
their directories, and ends one early by a stop file there, so an executor needs to know
nothing of pruning, time limits or Ctrl-C.
"""

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import queue
import signal
import threading
import time
from concurrent.futures import CancelledError, Executor, Future

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import OutputFolder, replacing
from cifar_jax.config import RESUMABLE_KEYS, config_diff, config_to_dict
from cifar_jax.data import sources
from cifar_jax.studies import designs, executors, plots, study, table
from cifar_jax.studies.console import View
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.run import STOP, Outcome, Task, score, train
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Key, Row, Run, Winner

# Keys that a study may be resumed with other values of: it then has more runs, or its
# runs other resources. Those of `base` are the run directories'.
FREE_KEYS = ("study.seeds", "study.trials", "study.finalists", "study.latency")
FREE_KEYS += ("study.accelerators", "study.max_seconds")
MOST_DEATHS = 3  # of a run's processes, without an epoch in between
_LOOK_SECONDS = 1.0  # between looks at the metrics of running runs
_TABLE_SECONDS = 10.0  # between tables, at least


class Stopped(Exception):
    """The study has stopped before its end, its runs saved.

    Attributes:
      exit_code: 128 plus the number of a signal; 0 after `study.max_seconds`.
    """

    def __init__(self, reason: str, exit_code: int):
        super().__init__(f"stopped by {reason}; the same command resumes")
        self.exit_code = exit_code


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
    made, folder = study.make(config), pathlib.Path(workdir).absolute()
    if part and made.is_staged:
        raise UserError(
            "a part of a study needs designs that do not depend on others; use "
            "study.kind='grid', 'list' or 'one_at_a_time', and study.pruner='none'"
        )
    claim(folder, config)
    suffix = f"-{part[0]}-of-{part[1]}" if part else ""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((folder / f".lock{suffix}").open("a"))
        try:  # keep other drivers out; the kernel frees the lock of one that dies
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another command drives the study in {folder}; wait for it, or stop "
                "it and give --workers instead"
            ) from error
        if isinstance(executor, str):
            executor = executors.make(executor, workers, made, folder / "logs")
            stack.callback(executor.shutdown, cancel_futures=True)
        driver = Driver(made, folder, executor, workers, retry_failed, part, merge)
        return driver.run()


def claim(folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config of a study, or refuses a folder that holds another one."""
    path, new = folder / "study.json", config_to_dict(config)
    free = (*FREE_KEYS, *(f"base.{key}" for key in RESUMABLE_KEYS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = json.loads(path.read_text()) if path.exists() else new
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(new, indent=2) + "\n")
            if changed := config_diff(old, new, free):
                raise UserError(
                    f"{folder} holds a study of another config "
                    f"({'; '.join(changed.values())}); use the old values, or choose "
                    "another --workdir"
                )
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose another --workdir"
        ) from error
    except ValueError as error:
        remedy = "remove it, and the same command writes it again"
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error


class Driver:
    """The loop that asks for runs, submits them, and follows them to their end.

    When it is made, it reads the journal, and queues what is left of the study.
    """

    def __init__(
        self,
        made: Study,
        folder: pathlib.Path,
        executor: Executor,
        workers: int,
        retry_failed: bool,
        part: tuple[int, int] | None,
        merge: bool,
    ):
        self._study, self._folder, self._executor = made, folder, executor
        self._num_workers = workers or getattr(executor, "num_workers", 32)
        self._merge, self._is_part = merge, part is not None
        first, step = part or (1, 1)
        suffix = f"-{first}-of-{step}" if part else ""
        self._journal = Journal(made, folder, f"journal{suffix}.log")
        self._candidates = list(made.candidates[first - 1 :: step])
        self._runs: dict[Key, Run] = {}
        self._waiting: collections.deque[Run] = collections.deque()
        self._running: dict[Future, Run] = {}
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._metrics: dict[Key, tuple[int, int]] = {}  # as they were read last
        self._deaths: dict[Key, list[int]] = {}  # by run: its epochs at each of them
        self._stop: Stopped | None = None
        self._deadline = time.monotonic() + (made.max_seconds or float("inf"))
        self._next_look = 0.0
        self._next_table = time.monotonic() + _TABLE_SECONDS
        for old in self._journal.runs():
            again = retry_failed and old.state == "failed"
            known = Run(old.candidate, old.seed) if again else old
            self._runs[known.key] = known
            if known.candidate not in self._candidates:
                self._candidates.append(known.candidate)
            if not known.has_ended:
                self._waiting.append(known)
        self._view = View(made, self._runs.values())
        self._queue(self._candidates, range(1 if made.is_staged else made.seeds))

    def run(self) -> list[Row]:
        """Does all runs that are left, scores the winner, and writes the tables.

        Raises:
          Stopped: If the study was stopped.
          UserError: If no run has ended well.
        """
        # The first SIGINT or SIGTERM is a request to save and stop.
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
        handlers = {
            number: signal.signal(number, self._on_signal) for number in numbers
        }
        try:
            with self._view.live:
                while True:
                    if self._stop is None:
                        self._submit()
                    if not self._running and (self._stop or not self._extend()):
                        break
                    with contextlib.suppress(queue.Empty):
                        self._collect(self._ended.get(timeout=_LOOK_SECONDS))
                    if time.monotonic() >= self._next_look:
                        self._look()
                if self._stop is None and not self._is_part:
                    self._score_winner()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        rows = table.rows(self._candidates, self._runs.values())
        if not self._is_part:
            self._write(rows)
        self._view.summarise(rows, self._folder)
        if self._stop:
            raise self._stop
        if not self._is_part and not any(row.done for row in rows):
            raise UserError(
                f"no run of the study has ended well; {self._folder}/table.md says "
                "why, and --retry_failed tries them again"
            )
        return rows

    def _on_signal(self, number: int, frame) -> None:
        del frame
        if self._stop:
            os._exit(128 + number)
        self._stop = Stopped(signal.Signals(number).name, 128 + number)
        self._next_look = 0.0
        # Not print: a handler may interrupt one.
        os.write(2, b"\nstopping when all runs are saved; again to stop at once\n")

    def _submit(self) -> None:
        """Fills the executor, with waiting runs before new designs of the sampler."""
        while len(self._running) < self._num_workers:
            if self._waiting:
                run = self._waiting.popleft()
            else:
                num_proposed = sum(seed == 0 for _, seed in self._runs)
                if not self._study.is_sampled or num_proposed >= self._study.trials:
                    return
                run = None if self._merge else self._journal.propose()
                if run is None:
                    return
                self._candidates.append(run.candidate)
                self._runs[run.key] = run
            task = self._task(run)
            if self._merge and not (task.workdir / "result.json").exists():
                continue
            if not self._metrics:  # the first run: before workers would do so at once
                data = self._study.rules.base.data
                sources.open(data.name, data.dir, local=data.source).prepare()
            self._metrics[run.key] = 0, 0
            self._journal.begin(run)
            (task.workdir / STOP).unlink(missing_ok=True)
            run.state = "running"
            future = self._executor.submit(train, task)
            self._running[future] = run
            future.add_done_callback(self._ended.put)

    def _extend(self) -> bool:
        """Queues all seeds of the best designs when the first ones have ended."""
        if not self._study.is_staged or self._merge:
            return False
        firsts = [run for run in self._runs.values() if run.seed == 0]
        ranked = table.ranked(self._study, table.rows(self._candidates, firsts))
        done = [row.candidate for row in ranked if row.done]
        if self._study.is_sampled:
            done = done[: self._study.finalists]
        return self._queue(done, range(1, self._study.seeds))

    def _queue(self, candidates: list[Candidate], seeds: range) -> bool:
        """Queues runs that do not exist yet; returns whether there are any."""
        sound = [design for design in candidates if not design.skip_reason]
        runs = (Run(design, seed) for design in sound for seed in seeds)
        new = {run.key: run for run in runs if run.key not in self._runs}
        self._runs |= new
        self._waiting.extend(new.values())
        return bool(new)

    def _look(self) -> None:
        """Follows the running runs, passes a stop on, and shows where the study is."""
        start = time.monotonic()
        if start > self._deadline and self._stop is None:
            self._stop = Stopped(f"study.max_seconds={self._study.max_seconds:g}", 0)
        for run in self._running.values():
            self._read_metrics(run)
        if self._stop and self._deadline:
            self._deadline = 0.0  # once
            for run in self._running.values():
                self._end_early(run, "stopped")
            getattr(self._executor, "interrupt", lambda: None)()
        is_due = start >= self._next_table and not self._is_part
        if self._view.is_live or is_due:
            rows = table.rows(self._candidates, self._runs.values())
            self._view.show(rows)
            if is_due:
                self._write(rows)
                seconds = time.monotonic() - start  # it may not hold the runs up
                self._next_table = start + max(_TABLE_SECONDS, 20 * seconds)
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def _read_metrics(self, run: Run) -> None:
        """Records validations that a run has written, and prunes it."""
        path = self._workdir(run) / "metrics.jsonl"
        try:
            stat = path.stat()
            version = stat.st_mtime_ns, stat.st_size
            if self._metrics[run.key] == version:
                return
            lines = path.read_bytes().splitlines(keepends=True)
        except OSError:  # not there yet
            return
        self._metrics[run.key] = version
        watched = "loss" if self._study.objectives[0] == "loss" else "accuracy"
        for line in lines:
            if run.has_ended or not line.endswith(b"\n"):
                return
            row = json.loads(line)
            if row["split"] != "val" or row["epoch"] in run.values:
                continue
            run.values[row["epoch"]] = row[watched]
            if self._journal.report(run, row["epoch"]):
                # Closed now: a pruner that is asked again may answer otherwise.
                self._close(run, "pruned")
                self._end_early(run, "pruned")

    def _collect(self, future: Future) -> None:
        """Closes a run whose call has ended, or queues it again."""
        run = self._running.pop(future)
        self._read_metrics(run)  # what it wrote last may be what it is pruned for
        if run.has_ended:
            return
        try:
            outcome: Outcome = future.result()
        except (executors.NodeLost, CancelledError):
            outcome = Outcome("stopped")
        except Exception as error:  # the executor's: a call returns its own faults
            deaths = self._deaths.setdefault(run.key, [])
            deaths.append(run.epochs)
            outcome = Outcome("stopped")
            if deaths.count(run.epochs) >= MOST_DEATHS and not self._stop:
                reason = (
                    f"its process died {MOST_DEATHS} times ({error}); try it again "
                    "with --retry_failed, with fewer --workers if memory is short"
                )
                outcome = Outcome("failed", error=reason)
        if outcome.state == "stopped":
            run.state = "waiting"
            self._waiting.appendleft(run)
        else:
            run.figures, run.error = outcome.figures, outcome.error or None
            self._close(run, outcome.state)

    def _close(self, run: Run, state: str) -> None:
        run.state = state
        self._journal.close(run)
        self._view.ended(run)

    def _end_early(self, run: Run, reason: str) -> None:
        workdir = self._workdir(run)
        workdir.mkdir(parents=True, exist_ok=True)  # it may not have started
        (workdir / STOP).write_text(reason + "\n")

    def _workdir(self, run: Run) -> pathlib.Path:
        name = designs.folder_of(run.candidate.name)
        return self._folder / "runs" / name / f"seed-{run.seed}"

    def _task(self, run: Run) -> Task:
        return Task(
            config=self._study.config(run.candidate, run.seed),
            workdir=self._workdir(run),
            threads=self._study.threads,
            latency=self._study.latency or "latency" in self._study.objectives,
        )

    def _write(self, rows: list[Row]) -> None:
        """Writes results.csv, table.md and plots/, each file whole or not at all."""
        output = OutputFolder(self._folder)
        output.table("results.csv", *table.csv(rows))
        winner = table.read_winner(self._folder)
        output.text("table.md", table.markdown(self._study, rows, winner))
        output = OutputFolder(self._folder / "plots")
        for name, figure in plots.draw(self._study, rows):
            output.figure(f"{name}.png", figure)

    def _score_winner(self) -> None:
        """Scores the runs of the best design on the test images, each of them once."""
        rows = table.rows(self._candidates, self._runs.values())
        best, old = table.ranked(self._study, rows)[0], table.read_winner(self._folder)
        name, seeds = best.candidate.name, [run.seed for run in best.done]
        if not seeds or (old and (old["design"], old["seeds"]) == (name, seeds)):
            return
        tested = self._journal.tested()
        new = [run for run in best.done if run.key not in tested]
        futures = [self._executor.submit(score, self._task(run)) for run in new]
        for run, future in zip(new, futures, strict=True):
            try:
                tested[run.key] = future.result()
            except (executors.NodeLost, executors.WorkerDied) as error:
                raise UserError(
                    f"the winner {name} could not be scored ({error}); the same "
                    "command tries it again"
                ) from error
            self._journal.note_test(run, tested[run.key])
        record = Winner(
            design=name,
            factors=best.candidate.factors,
            widths=best.candidate.widths,
            parameters=best.candidate.num_parameters,
            macs=best.done[0].figures["macs"],
            seeds=seeds,
            validation=best.values("accuracy"),
            test=[tested[run.key] for run in best.done],
        )
        OutputFolder(self._folder).json("winner.json", record)
