"""Where the runs of a study are done: executors of `concurrent.futures`' protocol.

Any executor will do whose workers see the study's folder. Three attributes are
optional: `num_workers`, how many runs it should have in hand; `lost`, exceptions of a
machine that is gone, whose runs are not to blame; `interrupt()`, for all runs to save.
"""

import pathlib
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import first_line
from cifar_jax._runtime import Processes


def make(spec: str, workers: int, options: ConfigDict, logs: pathlib.Path) -> Executor:
    """Returns the executor that --executor asks for, of a study with these options."""
    name, _, address = spec.partition("=")
    if name == "ray":
        return RayExecutor(address or None, options.threads, options.accelerators)
    if spec == "local":
        return Processes(workers, options.threads, logs)
    raise UserError(f"--executor is {spec!r}; use local, ray or ray=ADDRESS")


class RayExecutor(Executor):
    """Tasks of the Ray cluster at an address; None: the one here, or this machine.

    A run reserves `accelerators` where the cluster has any, and else `threads` CPUs.
    """

    def __init__(self, address: str | None, threads: int, accelerators: float):
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--executor=ray needs Ray; pip install 'cifar-jax[ray]'"
            ) from error
        try:
            host, _, port = (address or "").rpartition(":")
            if host and port.isdecimal() and "/" not in host:
                # Ray itself would try for ten minutes.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at {address} ({first_line(error)}); "
                "start one with `ray start --head`, or leave the address out"
            ) from error
        self._ray, self.lost = ray, (ray.exceptions.NodeDiedError,)
        resources = ray.cluster_resources()
        found = [name for name in ("GPU", "TPU") if accelerators and name in resources]
        self._resource = found[0] if found else "CPU"
        self._amount = amount = accelerators if found else threads or 1
        options = {
            "CPU": {"num_cpus": amount},
            "GPU": {"num_cpus": 0, "num_gpus": amount},
            "TPU": {"num_cpus": 0, "resources": {"TPU": amount}},
        }[self._resource]
        # A run that kills its process is tried again by the driver, which counts.
        self._call = ray.remote(max_retries=0, **options)(
            lambda fn, args, kwargs: fn(*args, **kwargs)
        )

    @property
    def num_workers(self) -> int:
        """Number of runs that fit the cluster as it is now, but at least one."""
        resources = self._ray.cluster_resources()
        return max(1, int(resources.get(self._resource, 0) / self._amount))

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Submits a call; one that waits for resources counts as running."""
        return self._call.remote(fn, args, kwargs).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the cluster."""
        del wait, cancel_futures
        self._ray.shutdown()
