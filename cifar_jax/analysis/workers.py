"""Contenders in processes of their own, of which one at a time computes.

PyTorch's and XLA's threads would spin beside each other in one process, and the most
memory that a process has held is known for the process alone.
"""

import importlib
import multiprocessing
import os
import time
import traceback
from typing import Any, NamedTuple

from cifar_jax import UserError

# Module, class, and further arguments of each contender.
CONTENDERS = {
    "ours": ("contenders", "Ours", ()),
    "plain_flax": ("contenders", "PlainFlax", ()),
    "torch": ("torch_contender", "Torch", (False,)),
    "torch_compiled": ("torch_contender", "Torch", (True,)),
}
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
      name: Key of `CONTENDERS`.
      argument: What it is made from: a config, or for PyTorch a `Task`.

    Raises:
      UserError: If it cannot be made here.
    """

    def __init__(self, name: str, argument: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, name, argument), daemon=False
        )
        self._process.start()
        theirs.close()
        self._receive()

    def call(self, method: str, *args: Any) -> Any:
        """Returns what a method of the contender returns."""
        return self.timed(method, *args)[0]

    def timed(self, method: str, *args: Any) -> tuple[Any, Seconds]:
        """Returns what a method of the contender returns, and the time it took."""
        self._connection.send((method, args))
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            fault, answer = self._connection.recv()
        except EOFError:
            fault, answer = "its process died", None
        if fault:
            raise UserError(f"{self.name} cannot be measured here: {fault}")
        return answer


def _serve(connection, name: str, argument: Any) -> None:
    os.environ.update(_ENVIRONMENT)
    module, kind, more = CONTENDERS[name]
    try:
        module = importlib.import_module(f"cifar_jax.analysis.{module}")
        contender = getattr(module, kind)(argument, *more)
        connection.send((None, None))
        while True:
            method, args = connection.recv()
            before = _clocks()
            answer = getattr(contender, method)(*args)
            seconds = Seconds(*(b - a for a, b in zip(before, _clocks(), strict=True)))
            connection.send((None, (answer, seconds)))
    except EOFError:  # the other side has closed
        pass
    except UserError as fault:
        connection.send((str(fault), None))
    except Exception as fault:
        traceback.print_exc()
        connection.send((f"{type(fault).__name__}: {fault}".splitlines()[0], None))


def _clocks() -> Seconds:
    return Seconds(time.perf_counter(), time.thread_time(), time.process_time())
