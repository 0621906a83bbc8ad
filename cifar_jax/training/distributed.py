"""The devices and the processes that share a run.

All devices form one mesh: batches are split over it, all else is replicated. Under
`jax.jit` the program is that of one big device: BatchNorm, for example, takes the
statistics of the global batch.

Each process runs the whole program on its own devices, so whatever decides what comes
next must come out the same in all of them. A function that is called a *collective*
must be called by all processes equally often, in the same order; with one process it
costs nothing.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import os
import signal
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # the one place that has its key-value store
from jax._src.clusters import ClusterEnv
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from cifar_jax import UserError, _runtime
from cifar_jax._files import causes, first_line

AXIS = "data"
# For a process that still downloads its data.
WAIT_MS = 3600 * 1000
# Of the devices, but no sign that another process has died.
OWN_ERRORS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
# For the others, when a process ends: one that fails alone does not keep them waiting.
SHUTDOWN_SECONDS = 30

_max = jax.jit(jnp.max)
_rounds = itertools.count()  # names each exchange; the same in all processes


# Devices


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data" over the devices; None: all of them."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def is_on_cpu(sharding: Sharding) -> bool:
    """Returns whether its devices are CPUs, whose convolutions are slow in a loop."""
    return next(iter(sharding.device_set)).platform == "cpu"


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Every device holds its part of the first axis."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def abstract(tree: Any, sharding: Sharding) -> Any:
    """Returns what is known of arrays before they are on the devices."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree
    )


def put(tree: Any, sharding: Sharding, rows: np.ndarray | None = None) -> Any:
    """Returns host arrays, or rows of them, on the devices of all processes.

    `jax.device_put` would first compare the values of all processes.

    Args:
      tree: NumPy arrays, the same in every process; each reads the part that its own
        devices hold.
      sharding: Sharding of the result.
      rows: int [B], the rows to take of arrays [N, ...], in this order; None: all.
    """

    def place(array):
        shape, read = array.shape, array.__getitem__
        if rows is not None:
            shape, read = (len(rows), *shape[1:]), lambda part: array[rows[part[0]]]
        return jax.make_array_from_callback(shape, sharding, read)

    return jax.tree.map(place, tree)


# Processes


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
      num_processes: Number of processes, or None.
      process_id: Number of this process, from 0, or None.
      heartbeat_seconds: Silence after which a process is taken for dead, and the others
        end.

    Raises:
      UserError: If only a part of this is given, or the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise UserError(
            "--coordinator, --num_processes and --process_id go together; give all "
            "three to each process, or none on TPU VMs and under srun"
        )
    cluster = _cluster()
    if None in given and cluster is None:
        return
    # Its handler of SIGTERM would replace ours; its threads answer a death by abort().
    jax.config.update("jax_enable_preemption_service", False)
    ctypes.CDLL(None).signal(signal.SIGABRT, _ON_ABORT)
    try:
        jax.distributed.initialize(
            *given,
            **cluster or {},
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"the other processes cannot be reached ({first_line(error)}); check that "
            "all are started, and that the coordinator's host and port are open to them"
        ) from error


def _cluster() -> dict[str, Any] | None:
    """Returns what JAX is not to find out by itself; None outside of a cluster."""
    num_tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    # In srun's tasks, but not in the batch script itself.
    if "SLURM_STEP_NODELIST" in os.environ and num_tasks > 1:
        # Steps of one job share its number, from which JAX makes the port.
        step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
        port = 61440 + zlib.crc32(step.encode()) % 4096
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(port))
        # JAX gives task N of a node device N, also if it is alone there or sees one.
        visible = len(_runtime.visible_accelerators())
        is_alone = os.environ.get("SLURM_STEP_NUM_NODES") == str(num_tasks)
        has_all = visible and (is_alone or visible == 1)
        return {"local_device_ids": list(range(visible)) if has_all else None}
    chips = importlib.util.find_spec("libtpu") and _runtime.visible_accelerators()
    if not chips or "tpu" not in (os.environ.get("JAX_PLATFORMS") or "tpu"):
        return None
    kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
    found = next((kind for kind in kinds if kind.is_env_present()), None)
    return {} if found is not None and found.get_process_count() > 1 else None


def is_primary() -> bool:
    """Returns whether this process prints and writes for all."""
    return jax.process_index() == 0


def log(text: object) -> None:
    """Prints a line, in process 0 only."""
    if is_primary():
        print(text)


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """A collective: waits for all processes at the end; if one fails, all do."""
    try:
        yield
    except Exception as error:
        exchange(f"{error}" or type(error).__name__)
        raise
    for process, message in enumerate(exchange("")):
        if message:
            raise UserError(f"process {process}: {message}")


def exchange(text: str) -> list[str]:
    """A collective: returns the texts of all processes, in their order."""
    client = distributed.global_state.client
    if client is None:
        return [text]
    key = f"cifar_jax/{next(_rounds)}"
    client.key_value_set(f"{key}/{jax.process_index()}", text)
    processes = range(jax.process_count())
    return [client.blocking_key_value_get(f"{key}/{p}", WAIT_MS) for p in processes]


class LateMax:
    """The largest number that any process has given, as of the call before.

    The devices are asked, which answer after the work they already have, and their
    answer is read one call late, so no process blocks. With one process, it is the
    number itself, at once.
    """

    def __init__(self):
        self._reduced: jax.Array | None = None

    def __call__(self, number: int) -> int:
        """A collective: gives a number, and returns the largest; 0 the first time."""
        if jax.process_count() == 1:
            return number
        mesh, answer = make_mesh(), self._reduced
        self._reduced = _max(put(np.full(mesh.size, number, np.int32), split(mesh)))
        return 0 if answer is None else int(answer)


def exit_if_peer_died(error: BaseException) -> None:
    """Ends this process with one line and code 1, if another has died.

    An error of the devices means that, if there are several processes, also where it
    has kept a checkpoint from being saved; but not one of memory or of the program.
    JAX would wait for the other at the exit.
    """
    for cause in reversed(list(causes(error))):
        is_of_device = isinstance(cause, jax.errors.JaxRuntimeError)
        is_of_device &= not str(cause).startswith(OWN_ERRORS)
        if jax.process_count() > 1 and (is_of_device or "Gloo" in str(cause)):
            _end(cause)


def _end(reason: object, *_: object) -> None:
    """Ends this process at once, because another one has ended."""
    print(
        f"error: another process has ended ({first_line(reason)}); see its output, and "
        "start all again",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


_ON_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)(
    lambda number: _end("it is silent, or the coordinator is gone")
)
