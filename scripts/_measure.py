"""What the scripts measure beside a run: clocks, and what a device can do at most."""

import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from cifar_jax._files import replacing

_FACTS = ("name", "driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
_READINGS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "watts",
    "temperature.gpu": "celsius",
}
# What runs JAX's programs on a GPU, under the names of either generation of CUDA.
_LIBRARIES = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)


class GpuClocks:
    """Reads clocks, power and temperature of JAX's first GPU while a block runs.

    Args:
      seconds: Time between two readings.
    """

    def __init__(self, seconds: float = 2.0):
        self._seconds = seconds
        self._ended = threading.Event()
        self._readings: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "GpuClocks":
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()

    def summary(self) -> dict[str, Any] | None:
        """Returns the GPU's facts, and median and range of the readings, if any."""
        facts = _query(_FACTS)
        if facts is None or not self._readings:
            return None
        result: dict[str, Any] = {k.replace(".", "_"): v for k, v in facts.items()}
        result["readings"] = len(self._readings)
        for key, name in _READINGS.items():
            # some GPUs answer [N/A]
            texts = [reading[key] for reading in self._readings]
            values = [float(text) for text in texts if text[:1].isdigit()]
            if values:
                result[name] = spread(values)
        return result

    def _read(self) -> None:
        while not self._ended.wait(self._seconds):
            if reading := _query(tuple(_READINGS)):
                self._readings.append(reading)


def _query(fields: tuple[str, ...]) -> dict[str, str] | None:
    """Returns what nvidia-smi says of JAX's first GPU; None: it does not answer."""
    # nvidia-smi itself ignores the variable; an index and a UUID are both fine
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    command = ["nvidia-smi", f"--id={first}", f"--query-gpu={','.join(fields)}"]
    command.append("--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if done.returncode or len(values) != len(fields):
        return None
    return dict(zip(fields, values, strict=True))


def gpu_libraries() -> dict[str, str]:
    """Returns the versions of what JAX needs on a GPU, as far as it is installed."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def spread(values: list[float]) -> dict[str, float]:
    """Returns `median`, `min` and `max`."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def product_dtype(config) -> str:
    """Returns the dtype of what a config's convolutions multiply on JAX's devices."""
    import jax

    from cifar_jax.models import gemm

    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and gemm.rounds(config.model.conv_precision):
        return "bfloat16"
    auto = "float32" if on_cpu else "bfloat16"
    return auto if config.model.dtype == "auto" else config.model.dtype


def matrix_peak(dtype: Any) -> float:
    """Returns the FLOP/s of a large matrix product on JAX's first device.

    The numbers are random: a chip clocks higher on zeros and ones. A CPU is fast at
    products of bfloat16 numbers where they are float32.
    """
    import jax
    import jax.numpy as jnp

    on_cpu = jax.default_backend() == "cpu"
    size, results = (1024, jnp.float32) if on_cpu else (8192, None)
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
    product = jax.jit(functools.partial(jnp.matmul, preferred_element_type=results))
    return (
        2
        * size**3
        / _least_seconds(
            lambda n: jax.block_until_ready([product(a, b) for _ in range(n)])
        )
    )


def _least_seconds(call: Callable[[int], Any], calls: int = 5, turns: int = 5):
    """Returns the shortest time of one of several calls in a row."""
    call(calls)
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        call(calls)
        seconds.append((time.perf_counter() - start) / calls)
    return min(seconds)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a file, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
