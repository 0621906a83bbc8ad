"""Contenders in processes of their own, of which one at a time computes.

PyTorch's and XLA's threads would spin beside each other in one process, and the most
memory that a process has held is known for the process alone.
"""

import contextlib
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

from cifar_jax import UserError

# Module, class, and further arguments of each contender,
CONTENDERS = {
    "ours": ("contenders", "Ours", ()),
    "plain_flax": ("contenders", "PlainFlax", ()),
    "torch": ("torch_contender", "Torch", (False,)),
    "torch_compiled": ("torch_contender", "Torch", (True,)),
}
# and of what else has a process of its own.
_WORKERS = CONTENDERS | {
    "breakdown": ("traces", "Traced", ()),
    "records": ("record_runs", "Runs", ()),
    "variant": ("variant_contender", "Variant", ()),
}
# For one that does not answer, to save what it has, and to end.
PATIENCE_SECONDS = 10.0
SAVING_SECONDS = 120.0
_ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a GPU
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",  # the time of compiling counts
}


class Seconds(NamedTuple):
    """The time that a call took.

    Attributes:
      wall: From its start to its end.
      thread: Of a CPU, in the calling thread: Python and dispatch, without waiting.
      process: Of all CPUs, in all threads.
    """

    wall: float
    thread: float
    process: float


class Worker:
    """A contender that answers calls from its process.

    Args:
      kind: Key of `CONTENDERS`, or of what else there is.
      argument: What it is made from: a config, or for PyTorch a `Task`.
      name: What it is called; None: as its kind.
      environment: Variables that are set before it is made; XLA_FLAGS are added to
        those that are set here.

    Raises:
      UserError: If it cannot be made here.
    """

    def __init__(
        self,
        kind: str,
        argument: Any,
        *,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.name = name or kind
        context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, kind, argument, dict(environment or {})),
            daemon=False,
        )
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *args: Any) -> Any:
        """Returns what a method of the contender returns."""
        return self.timed(method, *args)[0]

    def timed(
        self, method: str, *args: Any, limit: float | None = None
    ) -> tuple[Any, Seconds]:
        """Returns what a method of the contender returns, and the time it took.

        Args:
          method: Its name.
          *args: Of the method.
          limit: Seconds after which the contender is ended; None: never.

        Raises:
          UserError: If it fails, or takes longer.
        """
        with contextlib.suppress(ConnectionError):  # what a dead one said can be read
            self._connection.send((method, args))
        return self._receive(limit)

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()

    def stop(self) -> None:
        """Ends the process soon, even if it is in the middle of a call."""
        self._connection.close()
        # Ctrl-C on a terminal has reached it too; a second signal would end it at once.
        self._process.join(PATIENCE_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(SAVING_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self, limit: float | None = None) -> Any:
        try:
            if not self._connection.poll(limit):
                self._process.kill()
                raise UserError(f"{self.name} took more than {limit:.0f} s")
            fault, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            fault, answer = "its process died", None
        if fault:
            raise UserError(f"{self.name} cannot be measured here: {fault}")
        return answer


def _serve(connection, kind: str, argument: Any, environment: dict) -> None:
    if flags := environment.pop("XLA_FLAGS", None):
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.update(_ENVIRONMENT | environment)
    module, made, more = _WORKERS[kind]
    try:
        module = importlib.import_module(f"cifar_jax.evaluation.{module}")
        contender = getattr(module, made)(argument, *more)
        connection.send((None, None))
        while True:
            method, args = connection.recv()
            before = _clocks()
            answer = getattr(contender, method)(*args)
            seconds = Seconds(*(b - a for a, b in zip(before, _clocks(), strict=True)))
            connection.send((None, (answer, seconds)))
    except (EOFError, ConnectionError):  # the other side has closed
        pass
    except UserError as fault:
        connection.send((str(fault), None))
    except Exception as fault:
        traceback.print_exc()
        connection.send((f"{type(fault).__name__}: {fault}".splitlines()[0], None))


def _clocks() -> Seconds:
    return Seconds(time.perf_counter(), time.thread_time(), time.process_time())
