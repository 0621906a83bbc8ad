"""Process set-up that every command shares: C allocator, log level, devices, cache.

And processes that work for this one: as an executor of `concurrent.futures`' protocol.
"""

import contextlib
import ctypes
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import platform
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import absl.logging

from cifar_jax import UserError

# Parameters of glibc's mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


@contextlib.contextmanager
def errors_alone() -> Iterator[None]:
    """Keeps what libraries log by absl, but for errors, from the terminal."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(min(verbosity, absl.logging.ERROR))
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def start(cpu_devices: int = 0, *, cpu_only: bool = False) -> None:
    """Sets the process up; call it before JAX looks for devices or computes anything.

    Args:
      cpu_devices: Number of devices that the CPU is divided into; 0 leaves it to JAX.
        XLA leaves cores idle in small convolutions, above all in the gradients of
        their kernels: two devices on two cores train 1.2 times as fast as one. What
        the environment asks for (XLA_FLAGS, JAX_NUM_CPU_DEVICES) comes first.
      cpu_only: Whether accelerators are left alone.
    """
    # First of all: memory that other threads allocate before it keeps its old ways.
    _tune_malloc()
    # Errors alone: XLA warns of each doubtful timing while it tunes for a GPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    # Orbax logs what it then raises, and warns of options that are asked for.
    absl.logging.set_verbosity(absl.logging.FATAL)
    if cpu_only:
        jax.config.update("jax_platforms", "cpu")
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if folder := _cache_folder():
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if cpu_devices and not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cpu_devices)


def _tune_malloc() -> None:
    """Stops glibc from returning freed memory to the kernel; does nothing elsewhere.

    XLA allocates the temporary arrays of a step, 90 MB to 1.2 GB, anew in each step.
    glibc maps such large blocks from the kernel and hands them back, so each step pays
    a page fault for every 4 KB of them, a quarter of its time on two cores. In a heap
    that does not shrink, which may hold several copies of the largest, they fault once.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = {
        _ARENA_MAX: 1,  # the arenas of other threads map what exceeds 64 MB
        _MMAP_THRESHOLD: min(memory // 16, 2**31 - 1),  # larger ones are mapped
        _TRIM_THRESHOLD: -1,  # never, however much is free
        _TOP_PAD: 64 * 2**20,  # the heap grows in steps of this size
    }
    for parameter, value in values.items():
        library.mallopt(parameter, value)


def _cache_folder() -> pathlib.Path | None:
    """Returns where compiled programs are kept, so that the next run starts at once.

    JAX reads JAX_COMPILATION_CACHE_DIR itself where that is set (empty: no cache).
    Otherwise it is cifar_jax/ in XDG_CACHE_HOME or ~/.cache, with a folder for each
    kind of processor, as homes may be shared; where it cannot be written, none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kinds = ("model name", "flags", "Features")
    facts = [platform.machine(), platform.processor()]
    facts += sorted({line for line in lines if line.startswith(kinds)})
    processor = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "cifar_jax" / f"xla-{processor}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


class WorkerDied(UserError):
    """The process that did a run has died: what it did may be the reason."""


class Processes(ThreadPoolExecutor):
    """Processes of this machine, each looked after by a thread and replaced if it dies.

    A pool for each, as one dead process breaks the whole of a `ProcessPoolExecutor`.
    The processes end with this one, however it ends. 0 workers: one for each
    accelerator, or else a single one; 0 threads: an equal share of the cores.
    """

    def __init__(self, workers: int, threads: int, logs: pathlib.Path):
        accelerators = visible_accelerators()
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
        self._workers: dict[int, tuple] = {}  # pools, each with its process
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
        return super().submit(self._call, fn, *args, **kwargs)

    def _call(self, fn: Callable, *args: Any, **kwargs: Any) -> Any:
        """Has an idle process do a call, and starts that first if need be."""
        number, *_, log = worker = self._idle.get()
        try:
            if number not in self._workers:
                context = multiprocessing.get_context("spawn")
                pool = ProcessPoolExecutor(1, context, _prepare, worker[1:])
                pool.submit(os.getpid)  # which starts its process
                self._workers[number] = pool, *pool._processes.values()
            return self._workers[number][0].submit(fn, *args, **kwargs).result()
        except BrokenProcessPool as broken:
            pool, process = self._workers.pop(number)
            pool.shutdown()
            code = process.exitcode
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerDied(f"{how}; see {log}") from broken
        finally:
            self._idle.put(worker)

    def interrupt(self) -> None:
        """Asks all processes to save their runs now, not only at an epoch's end."""
        for _, process in list(self._workers.values()):
            process.terminate()  # SIGTERM, which a training run takes as a request

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes, when they have done what they are doing."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for pool, _ in self._workers.values():
            pool.shutdown()


def visible_accelerators() -> list[dict[str, str]]:
    """Returns what gives a process each accelerator, without starting JAX."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    number = len(list(pathlib.Path("/dev").glob("nvidia[0-9]*")))
    # CUDA counts from 0, also in a container whose files have other numbers.
    names = map(str, range(number)) if visible is None else visible.split(",")
    if gpus := [name for name in names if name]:
        return [{"CUDA_VISIBLE_DEVICES": name} for name in gpus]
    devices = ("accel[0-9]*", "vfio/[0-9]*")  # of older and newer TPU VMs
    chips = range(sum(len(list(pathlib.Path("/dev").glob(name))) for name in devices))
    bounds = ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS")
    alone = dict.fromkeys(bounds, "1,1,1")
    return [alone | {"TPU_VISIBLE_CHIPS": str(chip)} for chip in chips]


def _prepare(environment: dict[str, str], cores: list[int], log: pathlib.Path) -> None:
    """Prepares a local process for the calls that it will do."""
    os.setsid()  # Ctrl-C reaches only the driver
    os.environ.update(environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Lets this process save and end, as SIGTERM does, when its parent has died."""
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        while signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # a run saves
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)  # the pool would wait for another call
