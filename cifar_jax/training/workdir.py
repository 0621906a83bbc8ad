"""The run directory: what a run writes beside its checkpoints."""

import contextlib
import functools
import json
import operator
import os
import pathlib
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import (
    check,
    explained,
    lock_file,
    on_disk,
    read_object,
    replacing,
)
from cifar_jax.config import complete, config_diff, config_to_dict
from cifar_jax.training import distributed
from cifar_jax.training.results import Dataset, Result

# Time that a network file system takes to show a file to another host.
SHARED_SECONDS = 10


class RunDirectory:
    """The files of one run, as `docs/training.md` lists them.

    Only a directory with `is_writer` changes them: that of process 0. In the others the
    writing methods do nothing, so all processes can call the same ones.

    Args:
      path: Path of the directory.
      is_writer: Whether to write.
    """

    def __init__(self, path: os.PathLike | str, *, is_writer: bool = True):
        self.path = on_disk(os.fspath(path), "--workdir")
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.profile = self.path / "profile"
        self._is_writer = is_writer
        self._lock = self.path / ".lock"
        self._config = self.path / "config.json"
        self._dataset = self.path / "dataset.json"
        self._metrics = self.path / "metrics.jsonl"
        self._result = self.path / "result.json"
        self._tensorboard: TensorBoard | None = None
        self._explained = functools.partial(explained, f"{self.path} cannot be written")
        self.token = ""  # content of the lock file, once the lock is held

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second run out for as long as the block lasts.

        Raises:
          UserError: If another run is in here, or the folder cannot be written.
        """
        if not self._is_writer:
            yield
            return
        try:
            os.fspath(self.path).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"--workdir is {os.fspath(self.path)!r}, and checkpoints need a path "
                "in UTF-8; choose another"
            ) from error
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("a")
        except OSError as error:
            raise UserError(
                f"work directory {self.path} cannot be written ({error.strerror}); "
                "choose another --workdir"
            ) from error
        with file:
            if not lock_file(file):
                raise UserError(
                    f"another run works in {self.path}; wait, or use another --workdir"
                )
            self.token = uuid.uuid4().hex
            file.truncate(0)
            file.write(self.token)
            file.flush()
            try:
                yield
            finally:
                if self._tensorboard:
                    self._tensorboard.close()
                if made and os.listdir(self.path) == [self._lock.name]:
                    self._lock.unlink()  # refused: nothing is left behind
                    with contextlib.suppress(OSError):
                        for path in made:
                            path.rmdir()

    def check_shared(self, token: str) -> None:
        """Refuses a directory that is not the one which process 0 has locked.

        Args:
          token: Content that process 0 wrote to the lock file.
        """
        deadline = time.monotonic() + SHARED_SECONDS
        while not self._lock.exists() or self._lock.read_text() != token:
            if time.monotonic() > deadline:
                raise UserError(
                    f"work directory {self.path} is not the one of process 0; choose a "
                    "--workdir on a file system that all hosts share"
                )
            time.sleep(0.1)

    def _holds_work(self) -> bool:
        """Returns whether there is something to lose."""
        # An imported network has only its best weights.
        folders = (self.checkpoints, self.best)
        states = (path for folder in folders for path in folder.glob("*"))
        return self._result.exists() or any(path.name.isdigit() for path in states)

    def check(self, config: ConfigDict, resume: str = "auto") -> None:
        """Refuses a directory that holds a study, or the work of another config.

        Args:
          config: Config of the run that wants to work here.
          resume: "auto": a run is resumed or started; "never": a run must not be here;
            "must": one must be.
        """
        holds_work = self._holds_work()
        if (self.path / "study.json").exists():
            raise UserError(f"{self.path} holds a study; choose another --workdir")
        if resume == "must" and not holds_work:
            raise UserError(
                f"there is nothing to resume in {self.path} (--resume=must); give the "
                "--workdir of a run, or use --resume=auto"
            )
        if resume == "never" and holds_work:
            raise UserError(
                f"{self.path} holds a run (--resume=never); choose another --workdir, "
                "or resume it with --resume=auto"
            )
        if not holds_work:
            return  # nothing to lose
        if not self._config.exists():
            raise UserError(
                f"{self.path} holds a run but no config.json, so it cannot be told "
                "whether this config is the run's; restore config.json from a copy, or "
                "choose another --workdir"
            )
        if changed := config_diff(self.config(), config_to_dict(config)):
            raise UserError(
                f"{self.path} was made with another config "
                f"({'; '.join(changed.values())}); use the old values, or choose "
                "another --workdir"
            )

    def result(self) -> Result | None:
        """Returns the result of a run that has ended, or None."""
        if not self._result.exists():
            return None
        return check(read_object(self._result), Result, self._result)

    def config(self) -> dict[str, Any]:
        """Returns the config of the run, under today's keys."""
        return complete(_read_run_file(self._config), self._config)

    def dataset(self) -> Dataset:
        """Returns what the network needs to know of its images."""
        return check(_read_run_file(self._dataset), Dataset, self._dataset)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of metrics.jsonl, without a last line that was cut off."""
        if not self._metrics.exists():
            return []
        # A line is written with its end: what follows the last one was cut off.
        *lines, _ = self._metrics.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                    raise ValueError("it has no epoch")
                if not {"step", "split"} <= row.keys():
                    raise ValueError("it has no step or no split")
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self._metrics} is damaged in line {number} ({error}); restore "
                    "it from a copy, or take the line out"
                ) from error
            rows.append(row)
        return rows

    def claim(self, config: ConfigDict, dataset: Dataset) -> None:
        """Writes config.json and dataset.json.

        Raises:
          UserError: If the run that is here was trained on other images.
        """
        if self._holds_work() and self._dataset.exists():
            old = self.dataset()
            for key in ("image_shape", "label_names", "mean", "std"):
                same = np.allclose if key in ("mean", "std") else operator.eq
                if not same(old[key], dataset[key]):
                    raise UserError(
                        f"{self.path} was trained on other images: their {key} is "
                        "another; use the same again, or choose another --workdir"
                    )
        self._write_json(self._dataset, dataset)
        self._write_json(self._config, config_to_dict(config))

    def rewind(self, num_epochs: int, step: int) -> None:
        """Drops the rows after the first epochs, which will be run again."""
        rows = [row for row in self.rows() if row["epoch"] <= num_epochs]
        self._write(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))
        if self._is_writer:
            if self._tensorboard:
                self._tensorboard.close()
            with self._explained():
                self._tensorboard = TensorBoard(self.path / "tb", purge_step=step + 1)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, and its numbers to TensorBoard.

        Args:
          row: `step`, `epoch`, `split`, and numbers.
        """
        if not self._is_writer:
            return
        place = ("step", "epoch", "split")
        numbers = {f"{row['split']}/{k}": v for k, v in row.items() if k not in place}
        with self._explained():
            with self._metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if self._tensorboard:
                self._tensorboard.add(row["step"], numbers)

    def write_result(self, result: Result) -> None:
        """Writes result.json, which marks the run as ended."""
        self._write_json(self._result, result)

    def _write_json(self, path: pathlib.Path, content: Mapping[str, Any]) -> None:
        self._write(path, json.dumps(content, indent=2) + "\n")

    def _write(self, path: pathlib.Path, text: str) -> None:
        """Writes a whole file, in the process that writes."""
        if self._is_writer:
            with self._explained(), replacing(path) as temporary:
                temporary.write_text(text)


@contextlib.contextmanager
def enter(
    workdir: os.PathLike | str, config: ConfigDict, resume: str
) -> Iterator[RunDirectory]:
    """Yields the run directory, locked and checked, in all processes or in none.

    Args:
      workdir: Path of the directory, on a file system that all processes share.
      config: Config of the run.
      resume: "auto", "never" or "must", as `RunDirectory.check` takes it.

    Raises:
      UserError: If it is in use, cannot be written, is not shared, or holds a study or
        the work of another config.
    """
    run = RunDirectory(workdir, is_writer=distributed.is_primary())
    with contextlib.ExitStack() as stack:
        with distributed.all_or_none():
            stack.enter_context(run.lock())
        with distributed.all_or_none():
            run.check_shared(distributed.exchange(run.token)[0])
            run.check(config, resume)
        yield run


class TensorBoard:
    """An event file for TensorBoard, written by the caller's own thread.

    tensorboardX's SummaryWriter has a thread that a full disk kills: it waits forever.

    Args:
      folder: Folder of the file, which is made if it does not exist.
      purge_step: Step from which on the folder's older files are not shown.
    """

    def __init__(self, folder: os.PathLike, *, purge_step: int):
        # tensorboardX would import PyTorch where it is installed: seconds for nothing.
        modules: dict[str, Any] = sys.modules
        if hidden := "torch" not in modules:
            modules["torch"] = None
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
        finally:
            if hidden:
                del modules["torch"]
        self._event = Event
        prefix = pathlib.Path(folder, "events")
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(prefix), f".{time.time_ns()}")
        self._write(purge_step, session_log={"status": "START"})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step, by their tags.

        Raises:
          OSError: If they cannot be written.
        """
        for tag, value in values.items():
            self._write(step, summary={"value": [{"tag": tag, "simple_value": value}]})
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **content)
        self._writer.write_event(event)

    def close(self) -> None:
        """Closes the file; writes that failed have been reported."""
        with contextlib.suppress(OSError, ValueError):  # closed already
            self._writer.close()


def _read_run_file(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a JSON file that every run directory has."""
    if not path.exists():
        raise UserError(
            f"{path} does not exist: {path.parent} is not a run directory; give one "
            "that `python -m cifar_jax.main` has written"
        )
    return read_object(path)
