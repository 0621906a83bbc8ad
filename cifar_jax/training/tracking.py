"""The run directory: what a run writes beside its checkpoints."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.config import config_diff, config_to_dict
from cifar_jax.training import distributed
from cifar_jax.training.scalars import Scalars

# For a network file system to show a file to another host.
SHARED_SECONDS = 10


class RunDirectory:
    """The files of one run, as `README.md` lists them."""

    def __init__(self, path: os.PathLike):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.profile = self.path / "profile"
        self._lock = self.path / ".lock"
        self._config = self.path / "config.json"
        self._dataset = self.path / "dataset.json"
        self._metrics = self.path / "metrics.jsonl"
        self._result = self.path / "result.json"
        self._tensorboard = None
        self.token = ""  # of the lock, once it is held

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second run out for as long as the block lasts.

        Raises:
          UserError: If another run is in here, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("a")
        except OSError as error:
            raise UserError(
                f"work directory {self.path} cannot be written ({error.strerror}); "
                "choose another --workdir"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another run works in {self.path}; wait for it, or choose another "
                    "--workdir"
                ) from error
            self.token = uuid.uuid4().hex
            file.truncate(0)
            file.write(self.token)
            file.flush()
            try:
                yield
            finally:
                if self._tensorboard:
                    self._tensorboard.close()

    def check_shared(self, token: str) -> None:
        """Refuses a directory that is not the one which process 0 has locked.

        Args:
          token: What process 0 wrote there.

        Raises:
          UserError: If this process does not find it.
        """
        deadline = time.monotonic() + SHARED_SECONDS
        while not self._lock.exists() or self._lock.read_text() != token:
            if time.monotonic() > deadline:
                raise UserError(
                    f"work directory {self.path} is not the one of process 0; choose a "
                    "--workdir on a file system that all hosts share"
                )
            time.sleep(0.1)

    def check(self, config: ConfigDict, resume: str = "auto") -> None:
        """Refuses a directory that holds the work of another config.

        Args:
          config: Of the run that wants to work here.
          resume: "auto": a run is gone on with or started; "never": one must not be
            here; "must": one must be.

        Raises:
          UserError: names the keys that differ.
        """
        # An imported network has only its best weights.
        folders = (self.checkpoints, self.best)
        states = (path for folder in folders for path in folder.glob("*"))
        holds_work = self._result.exists() or any(p.name.isdigit() for p in states)
        if resume == "must" and not holds_work:
            raise UserError(
                f"there is nothing to resume in {self.path} (--resume=must); give the "
                "--workdir of a run, or use --resume=auto"
            )
        if resume == "never" and holds_work:
            raise UserError(
                f"{self.path} holds a run (--resume=never); choose another --workdir, "
                "or go on with --resume=auto"
            )
        if not holds_work or not self._config.exists():
            return  # nothing to lose
        changed = config_diff(_read_json(self._config), config_to_dict(config))
        if changed:
            raise UserError(
                f"{self.path} was made with another config "
                f"({'; '.join(changed.values())}); use the old values, or choose "
                "another --workdir"
            )

    def check_space(self, num_bytes: int) -> None:
        """Refuses a disk that is too small for the run's checkpoints.

        Args:
          num_bytes: Of all of them; what is here already counts.

        Raises:
          UserError: names what is free and what is needed.
        """
        needed = num_bytes - sum(map(_size, (self.checkpoints, self.best)))
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise UserError(
                f"{self.path} has {free / 1e6:,.0f} MB of free space, and the "
                f"checkpoints need {needed / 1e6:,.0f} MB; free some, lower "
                "checkpoint.keep, or choose another --workdir"
            )

    def result(self) -> dict[str, Any] | None:
        """Returns the result of a run that has ended, or None."""
        return _read_json(self._result) if self._result.exists() else None

    def claim(self, config: ConfigDict, dataset: Mapping[str, Any]) -> None:
        """Writes the resolved config, and what the network was made for.

        Args:
          config: As `cifar_jax.config` has it.
          dataset: `name`, `image_shape`, `label_names`, and the `mean` and `std` that
            images are normalised with.
        """
        with self._writing():
            _write_json(self._dataset, dataset)
            _write_json(self._config, config_to_dict(config))

    def config(self) -> dict[str, Any]:
        """Returns the config that `claim` wrote."""
        return _read_json(self._config)

    def dataset(self) -> dict[str, Any]:
        """Returns what `claim` wrote about the data set."""
        return _read_json(self._dataset)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of metrics.jsonl; a line that was cut off is dropped."""
        rows = []
        if self._metrics.exists():
            for line in self._metrics.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    rows.append(json.loads(line))
        return rows

    def rewind(self, num_epochs: int, step: int) -> None:
        """Drops the rows of all but the first epochs: those will be run again."""
        rows = [row for row in self.rows() if row["epoch"] <= num_epochs]
        with self._writing():
            with replacing(self._metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
            if self._tensorboard:
                self._tensorboard.close()
            self._tensorboard = Scalars(self.path / "tb", purge_step=step + 1)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, and its numbers to TensorBoard.

        Args:
          row: `step`, `epoch`, `split`, and numbers.
        """
        split, position = row["split"], ("step", "epoch", "split")
        numbers = {k: v for k, v in row.items() if k not in position}
        with self._writing():
            with self._metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
            tagged = {f"{split}/{name}": value for name, value in numbers.items()}
            self._tensorboard.add(row["step"], tagged)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, which marks the run as ended."""
        with self._writing():
            _write_json(self._result, result)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror or error}); free some "
                "space there, then run the command again"
            ) from error


class WatchedRunDirectory(RunDirectory):
    """The run directory as processes other than 0 see it: they write nothing."""

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Does nothing: process 0 holds the lock."""
        yield

    def check_space(self, num_bytes: int) -> None:
        """Does nothing."""

    def claim(self, config: ConfigDict, dataset: Mapping[str, Any]) -> None:
        """Does nothing."""

    def rewind(self, num_epochs: int, step: int) -> None:
        """Does nothing."""

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Does nothing."""

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Does nothing."""


@contextlib.contextmanager
def enter(
    workdir: os.PathLike, config: ConfigDict, resume: str
) -> Iterator[RunDirectory]:
    """Yields the run directory, locked and checked, in all processes or in none.

    Args:
      workdir: Its path, on a file system that all processes share.
      config: Of the run.
      resume: As `RunDirectory.check` has it.

    Raises:
      UserError: If it is in use, cannot be written, is not shared, or holds the work of
        another config.
    """
    primary = distributed.is_primary()
    run = (RunDirectory if primary else WatchedRunDirectory)(workdir)
    with contextlib.ExitStack() as stack:
        with distributed.together():
            stack.enter_context(run.lock())
        with distributed.together():
            run.check_shared(distributed.share(run.token))
            run.check(config, resume)
        yield run


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes in a folder, out of which Orbax may be deleting files."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += pathlib.Path(root, name).stat().st_size
    return total


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: {path.parent} is no run directory; give one that "
            "`python -m cifar_jax.main` has written"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a copy, or choose another "
            "--workdir"
        ) from error


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
