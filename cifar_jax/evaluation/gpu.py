"""The state of NVIDIA's GPUs while something is measured. Nothing here needs JAX."""

import importlib.metadata
import shutil
import statistics
import subprocess
import threading
from typing import Any

_FACTS = ("name", "driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem")
_READINGS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
_UNITS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "watts",
    "temperature.gpu": "celsius",
}
# What runs JAX's programs, under the names of either generation of CUDA.
_LIBRARIES = ("jax-cuda{}-plugin", "nvidia-cudnn-cu{}")


class Watch:
    """Reads clocks, power and temperature while a block runs, if nvidia-smi is there.

    Args:
      seconds: Between two readings.
    """

    def __init__(self, seconds: float = 2.0):
        self._seconds = seconds
        self._ended = threading.Event()
        self._readings = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Watch":
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()

    def summary(self) -> dict[str, Any] | None:
        """Returns the first GPU's facts, and median and range of what was read.

        None where nothing was read.
        """
        facts = query(_FACTS)
        if facts is None or not self._readings:
            return None
        found = {key.replace(".", "_"): value for key, value in facts.items()}
        found["readings"] = len(self._readings)
        for key, name in _UNITS.items():
            values = [float(r[key]) for r in self._readings if _is_number(r[key])]
            if values:
                found[name] = {
                    "median": statistics.median(values),
                    "min": min(values),
                    "max": max(values),
                }
        return found

    def _read(self) -> None:
        while not self._ended.wait(self._seconds):
            reading = query(_READINGS)
            if reading:
                self._readings.append(reading)


def line(summary: dict[str, Any]) -> str:
    """Returns a summary as text."""
    parts = [f"{summary['name']}, driver {summary['driver_version']}"]
    for name, unit in (("sm_mhz", "MHz"), ("watts", "W"), ("celsius", "C")):
        if values := summary.get(name):
            parts.append(f"{values['median']:,.0f} {unit}")
            parts[-1] += f" ({values['min']:,.0f}-{values['max']:,.0f})"
    return ", ".join(parts)


def query(fields: tuple[str, ...]) -> dict[str, str] | None:
    """Returns fields of nvidia-smi for the first GPU, or None if it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}"]
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


def libraries() -> dict[str, str]:
    """Returns the versions of what JAX needs on a GPU, if that is installed."""
    found = {}
    for name in (name.format(n) for name in _LIBRARIES for n in (12, 13)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:  # "[N/A]"
        return False
    return True
