"""Where the runs of a study are done: executors of `concurrent.futures`' protocol.

An executor only launches functions. What they share with the driver are files, so any
executor will do whose workers see the study's folder.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import queue
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from cifar_jax import UserError
from cifar_jax.studies.study import Study


class WorkerDied(Exception):
    """The process that did a run has died: what it did may be the reason."""


class NodeLost(Exception):
    """The machine that did a run is gone, for which the run cannot be blamed."""


def make(spec: str, workers: int, study: Study, logs: pathlib.Path) -> Executor:
    """Returns the executor that --executor asks for.

    Args:
      spec: "local", "ray" or "ray=ADDRESS".
      workers: Number of local processes; 0: one per accelerator, or else a single one.
      study: Study, whose `threads` and `accelerators` a run has.
      logs: Folder for the logs of local processes.
    """
    name, _, address = spec.partition("=")
    if name == "ray":
        return RayExecutor(address or None, study.threads, study.accelerators)
    if spec == "local":
        return LocalExecutor(workers, study.threads, logs)
    raise UserError(f"--executor is {spec!r}; use local, ray or ray=ADDRESS")


class LocalExecutor(Executor):
    """Processes of this machine, each replaced when it dies.

    `ProcessPoolExecutor` will not do: one dead process breaks the whole pool. The
    processes end with this one, however it ends.
    """

    def __init__(self, workers: int, threads: int, logs: pathlib.Path):
        accelerators = _accelerators()
        self.num_workers = workers or len(accelerators) or 1
        if self.num_workers == 1:  # it may have them all
            accelerators = []
        self._logs = logs
        self._tasks: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._processes: dict[int, multiprocessing.process.BaseProcess] = {}
        self._supervisors: list[threading.Thread] = []
        can_confine = hasattr(os, "sched_getaffinity")  # on Linux
        cores = sorted(os.sched_getaffinity(0)) if can_confine else []
        num_cores = len(cores) or os.cpu_count() or 1
        threads = threads or max(1, num_cores // self.num_workers)
        # Where the processes take all cores, each is confined to its own: threads of
        # Python and of the compiler would else slow its neighbours down.
        is_confined = 1 < self.num_workers == num_cores // threads and not accelerators
        for n in range(self.num_workers):
            environment = {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
            if accelerators:
                environment |= accelerators[n % len(accelerators)]
                if self.num_workers > len(accelerators):
                    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            own = set(cores[n * threads :][:threads]) if is_confined else set()
            thread = threading.Thread(
                target=self._supervise, args=(n, environment, own), daemon=True
            )
            thread.start()
            self._supervisors.append(thread)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Queues a call, whose future raises WorkerDied if its process dies."""
        future: Future = Future()
        self._tasks.put((future, (fn, args, kwargs)))
        return future

    def interrupt(self) -> None:
        """Asks all processes to save their runs now, not only at an epoch's end."""
        for process in list(self._processes.values()):
            process.terminate()  # SIGTERM, which a training run takes as a request

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes, when they have done what they are doing."""
        with contextlib.suppress(queue.Empty):
            while cancel_futures:
                if task := self._tasks.get_nowait():
                    task[0].cancel()
        for _ in self._supervisors:
            self._tasks.put(None)
        for thread in self._supervisors if wait else ():
            thread.join()

    def _supervise(
        self, number: int, environment: dict[str, str], cores: set[int]
    ) -> None:
        """Keeps one process busy: hands it one call after the other."""
        context = multiprocessing.get_context("spawn")
        log = self._logs / f"worker-{os.getpid()}-{number}.log"
        process = connection = None
        while (task := self._tasks.get()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            if process is None or connection is None:
                connection, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, environment, cores, log)
                )
                process.start()
                theirs.close()  # else its death would not be noticed here
                self._processes[number] = process
            try:
                connection.send(call)
                result, error = connection.recv()
            except (EOFError, OSError):
                process.join()
                connection, code = None, process.exitcode or 0
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                future.set_exception(WorkerDied(f"{how}; see {log}"))
            else:
                future.set_exception(error) if error else future.set_result(result)
        if process is not None and connection is not None:
            connection.close()  # which ends the process
            process.join()


def _accelerators() -> list[dict[str, str]]:
    """Returns what gives a process each accelerator, without starting JAX."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = sorted(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    gpus = [path.name.removeprefix("nvidia") for path in devices]
    if visible is not None:
        gpus = [name for name in visible.split(",") if name]
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": name} for name in gpus]
    chips = range(len(list(pathlib.Path("/dev").glob("accel[0-9]*"))))
    bounds = ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS")
    alone = dict.fromkeys(bounds, "1,1,1")
    return [alone | {"TPU_VISIBLE_CHIPS": str(chip)} for chip in chips]


def _serve(
    connection: multiprocessing.connection.Connection,
    environment: dict[str, str],
    cores: set[int],
    log: pathlib.Path,
) -> None:
    """Does calls until the connection is closed: the life of a local process."""
    os.setsid()  # Ctrl-C reaches only the driver
    os.environ.update(environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cores:
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            fn, args, kwargs = connection.recv()
            try:
                reply = fn(*args, **kwargs), None
            except Exception as error:
                reply = None, error
            connection.send(reply)


def _end_with_parent() -> None:
    """Lets this process save and end, as SIGTERM does, when its parent has died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


class RayExecutor(Executor):
    """Tasks of a Ray cluster, which only launches them.

    Args:
      address: Address of the cluster; None: the one that is running here, or else
        this machine.
      threads: CPUs that a run reserves, without accelerators; 0: one.
      accelerators: GPUs or TPU chips that it reserves, where the cluster has any.
    """

    def __init__(self, address: str | None, threads: int, accelerators: float):
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--executor=ray needs Ray, which is not installed; "
                "pip install 'cifar-jax[ray]'"
            ) from error
        try:
            host, _, port = (address or "").rpartition(":")
            if host and port.isdecimal() and "/" not in host:
                # Ray itself would try for ten minutes.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at {address} ({str(error).splitlines()[0]}); "
                "start one with `ray start --head`, or leave the address out to use "
                "this machine"
            ) from error
        self._ray, self._threads, self._accelerators = ray, threads, accelerators
        # A lost node is told apart below, from a run that kills its process.
        self._call = ray.remote(max_retries=0)(
            lambda fn, args, kwargs: fn(*args, **kwargs)
        )

    @property
    def num_workers(self) -> int:
        """Number of runs that fit the cluster as it is now, but at least one."""
        name, amount = self._resource()
        return max(1, int(self._ray.cluster_resources().get(name, 0) / amount))

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Submits a call; one that waits for resources counts as running."""
        name, amount = self._resource()
        options: dict[str, Any] = {"resources": {name: amount}, "num_cpus": 0}
        if name in ("CPU", "GPU"):
            options = {"num_cpus": 0, f"num_{name.lower()}s": amount}
        future: Future = Future()
        future.set_running_or_notify_cancel()
        task = self._call.options(**options).remote(fn, args, kwargs).future()
        task.add_done_callback(lambda done: self._pass_on(done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the cluster."""
        del wait, cancel_futures
        self._ray.shutdown()

    def _resource(self) -> tuple[str, float]:
        """Returns what a run reserves, by Ray's name, and how much of it."""
        cluster = self._ray.cluster_resources()
        for name in ("GPU", "TPU"):
            if self._accelerators and cluster.get(name):
                return name, self._accelerators
        return "CPU", self._threads or 1

    def _pass_on(self, done: Future, future: Future) -> None:
        """Hands a task's result, or what has ended it, to the driver's future."""
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.NodeDiedError):
            future.set_exception(NodeLost(str(error)))
        else:
            future.set_exception(WorkerDied(f"{error}".splitlines()[0]))
