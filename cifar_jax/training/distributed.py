"""Several processes that make one run: how they find each other and agree.

Each process runs the whole program on its own devices, so whatever decides what comes
next must come out the same in all of them. With one process nothing here does anything.
"""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # the one place that has its key-value store

from cifar_jax import UserError
from cifar_jax.training import sharding

# For a process that still downloads its data.
WAIT_MS = 3600 * 1000
# For the others, when a process ends: one that fails alone does not keep them waiting.
SHUTDOWN_SECONDS = 30

_rounds = itertools.count()  # names each agreement; the same in all processes


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 100,
) -> None:
    """Joins the other processes, if there are any, before JAX looks for devices.

    On TPU VMs and under SLURM's srun JAX finds out by itself who they are.

    Args:
      coordinator: HOST:PORT of process 0, or None.
      num_processes: How many there are, or None.
      process_id: Which one this is, from 0, or None.
      heartbeat_seconds: A process that is silent for so long is taken for dead, and
        the others end.

    Raises:
      UserError: If only a part of this is given, or the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise UserError(
            "--coordinator, --num_processes and --process_id go together; give all "
            "three to each process, or none on TPU VMs and under srun"
        )
    if None in given and not (_on_tpu_vm() or _under_srun()):
        return
    # Its handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *given,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the other processes cannot be reached ({reason}); check that all are "
            "started, and that the coordinator's host and port are open to them"
        ) from error


def is_primary() -> bool:
    """Tells whether this process speaks and writes for all."""
    return jax.process_index() == 0


def say(text: object) -> None:
    """Prints a line, in process 0."""
    if is_primary():
        print(text)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Waits at the end of the block for all processes; if one fails, all do.

    Raises:
      UserError: If the block failed in another process.
    """
    try:
        yield
    except Exception as error:
        _exchange(f"{error}" or type(error).__name__)
        raise
    for process, message in enumerate(_exchange("")):
        if message:
            raise UserError(f"process {process}: {message}")


def end_if_alone(error: Exception) -> None:
    """Ends this process with one line and code 1, if there should be others.

    An error of the devices means then that another process has died. JAX would wait for
    it at the exit, and abort.
    """
    if jax.process_count() > 1:
        reason = str(error).strip().splitlines()[0]
        print(
            f"error: another process has ended ({reason}); see its output, and start "
            "all again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def share(text: str) -> str:
    """Returns, in all processes, the text of process 0."""
    return _exchange(text)[0]


def largest(number: int) -> jax.Array:
    """Returns int32 [] on the devices: the largest number of all processes.

    It does not wait for the devices, which answer after what they have been given.
    """
    mesh = sharding.make_mesh()
    numbers = np.full(mesh.size, number, np.int32)
    return _largest(sharding.put(numbers, sharding.split(mesh)))


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return numbers.max()


def _exchange(text: str) -> list[str]:
    """Returns the texts of all processes, when each has given its own."""
    client = distributed.global_state.client
    if client is None:
        return [text]
    key = f"cifar_jax/{next(_rounds)}"
    client.key_value_set(f"{key}/{jax.process_index()}", text)
    return [
        client.blocking_key_value_get(f"{key}/{process}", WAIT_MS)
        for process in range(jax.process_count())
    ]


def _on_tpu_vm() -> bool:
    chips = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _under_srun() -> bool:
    step = "SLURM_STEP_NODELIST" in os.environ  # not in the batch script itself
    return step and int(os.environ.get("SLURM_NTASKS", "1")) > 1
