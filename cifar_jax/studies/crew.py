"""The workers that one command starts: processes that end with it."""

import os
import pathlib
import signal
import subprocess
import threading
import time

from cifar_jax import UserError
from cifar_jax.studies import cores

SHORT_LIFE = 60.0  # seconds
MOST_SHORT_LIVES = 3  # in a row, after which starting another one will not help


class Crew:
    """Worker processes on this machine.

    A worker that is killed is replaced; its run has been given back to the study. When
    this process is killed its workers find their standard input closed, save, and end.

    Args:
      command: Of a worker; its number is added.
      size: How many workers.
      threads: CPU threads of each; 0: the cores, shared.
      folder: For a log of each.
    """

    def __init__(
        self, command: list[str], *, size: int, threads: int, folder: pathlib.Path
    ):
        self._command, self._size, self._folder = command, size, folder
        self._threads = threads or cores.share(size)
        self._workers: dict[int, subprocess.Popen] = {}
        self._started: dict[int, float] = {}
        self._short_lives = 0
        self._signal: int | None = None

    def __enter__(self):
        self._folder.mkdir(parents=True, exist_ok=True)
        self._old = {
            number: signal.signal(number, self._forward)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        for number in range(self._size):
            self._start(number)
        return self

    def __exit__(self, *error):
        for worker in self._workers.values():
            worker.stdin.close()
        for worker in self._workers.values():
            worker.wait()
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def tend(self) -> bool:
        """Replaces workers that were killed; tells whether any still works.

        Raises:
          UserError: If a worker meets with an error, or workers die again and again.
        """
        for number, worker in list(self._workers.items()):
            code = worker.poll()
            if code is None:
                continue
            if code < 0 and not self._signal:
                self._replace(number, -code)
                continue
            worker.stdin.close()
            del self._workers[number]
            if code and not self._signal:
                raise UserError(self._last_words(number, code))
        return bool(self._workers)

    @property
    def exit_code(self) -> int:
        """0, or 128 plus the number of the signal that asked all to stop."""
        return 128 + self._signal if self._signal else 0

    def _start(self, number: int) -> None:
        with (self._folder / f"worker-{os.getpid()}-{number}.log").open("ab") as log:
            self._workers[number] = subprocess.Popen(
                [*self._command, f"--worker={number}"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment(number)},
                start_new_session=True,  # Ctrl-C reaches only this process
            )
        self._started[number] = time.monotonic()

    def _environment(self, number: int) -> dict[str, str]:
        """Returns a worker's share of the machine."""
        share = {
            "NPROC": str(self._threads),  # XLA's threads
            "OMP_NUM_THREADS": str(self._threads),
            "PYTHONUNBUFFERED": "1",
        }
        devices = gpus()
        if self._size > 1 and devices:
            share["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            if self._size > len(devices):
                share["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        return share

    def _replace(self, number: int, killed_by: int) -> None:
        short = time.monotonic() - self._started[number] < SHORT_LIFE
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives >= MOST_SHORT_LIVES:
            raise UserError(
                f"workers are killed (signal {killed_by}) soon after their start; "
                f"look into {self._folder}, or use fewer --workers if memory is short"
            )
        self._workers[number].stdin.close()
        self._start(number)

    def _last_words(self, number: int, code: int) -> str:
        log = self._folder / f"worker-{os.getpid()}-{number}.log"
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"exit code {code}"
        return f"a worker ended: {last.removeprefix('error: ')} ({log})"

    def _forward(self, number: int, frame) -> None:
        del frame
        again = self._signal is not None
        self._signal = number
        for worker in list(self._workers.values()):
            worker.send_signal(number)
        message = (
            b"\nstopping now\n"
            if again
            else (b"\nstopping when all runs are saved; again to stop at once\n")
        )
        os.write(2, message)


def end_with_parent() -> None:
    """Lets this process stop, as SIGTERM does, when its standard input is closed."""

    def wait():
        while os.read(0, 1):  # a buffered read would hold the interpreter at its end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def gpus() -> list[str]:
    """Returns the NVIDIA GPUs that workers may use, without starting JAX."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    devices = sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    return [path.name.removeprefix("nvidia") for path in devices]
