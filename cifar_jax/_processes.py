"""Processes of this machine, as an executor of `concurrent.futures`' protocol."""

import multiprocessing
import multiprocessing.connection
import os
import pathlib
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class WorkerDied(Exception):
    """The process that did a run has died: what it did may be the reason."""


class Processes(ThreadPoolExecutor):
    """Processes of this machine, each looked after by a thread and replaced if it dies.

    `ProcessPoolExecutor` will not do: one dead process breaks the whole pool. The
    processes end with this one, however it ends. 0 workers: one for each accelerator,
    or else a single one; 0 threads: an equal share of the cores.
    """

    def __init__(self, workers: int, threads: int, logs: pathlib.Path):
        accelerators = _accelerators()
        self.num_workers = workers or len(accelerators) or 1
        super().__init__(self.num_workers)
        if self.num_workers == 1:  # it may have them all
            accelerators = []
        cores = list(range(os.cpu_count() or 1))
        if hasattr(os, "sched_getaffinity"):  # on Linux
            cores = sorted(os.sched_getaffinity(0))
        threads = threads or max(1, len(cores) // self.num_workers)
        # Where the processes take all cores, each is confined to its own: threads of
        # Python and of the compiler would else slow its neighbours down.
        is_confined = 1 < self.num_workers == len(cores) // threads and not accelerators
        self._processes: dict[int, tuple] = {}  # each with the connection to it
        self._idle: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        for n in range(self.num_workers):
            environment = {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
            if accelerators:
                environment |= accelerators[n % len(accelerators)]
                if self.num_workers > len(accelerators):
                    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            own = cores[n * threads :][:threads] if is_confined else []
            log = logs / f"worker-{os.getpid()}-{n}.log"
            self._idle.put((n, environment, own, log))

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Queues a call, whose future raises WorkerDied if its process dies."""
        return super().submit(self._call, fn, args, kwargs)

    def _call(self, *call: Any) -> Any:
        """Has an idle process do a call, and starts that first if need be."""
        worker = number, *options = self._idle.get()
        try:
            if number not in self._processes:
                context = multiprocessing.get_context("spawn")
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, *options))
                process.start()
                theirs.close()  # else its death would not be noticed here
                self._processes[number] = process, ours
            process, connection = self._processes[number]
            try:
                connection.send(call)
                result, error = connection.recv()
            except (EOFError, OSError) as broken:
                del self._processes[number]
                process.join()
                code = process.exitcode
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise WorkerDied(f"{how}; see {options[-1]}") from broken
        finally:
            self._idle.put(worker)
        if error:
            raise error
        return result

    def interrupt(self) -> None:
        """Asks all processes to save their runs now, not only at an epoch's end."""
        for process, _ in list(self._processes.values()):
            process.terminate()  # SIGTERM, which a training run takes as a request

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes, when they have done what they are doing."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process, connection in self._processes.values():
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
    cores: list[int],
    log: pathlib.Path,
) -> None:
    """Does calls until the connection is closed: the life of a local process."""
    os.setsid()  # Ctrl-C reaches only the driver
    os.environ.update(environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            fn, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            reply = fn(*args, **kwargs), None
        except Exception as error:
            reply = None, error
        connection.send(reply)


def _end_with_parent() -> None:
    """Lets this process save and end, as SIGTERM does, when its parent has died."""
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
