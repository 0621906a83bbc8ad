"""What a result was computed with: devices and versions."""

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

import jax
from jax.sharding import Mesh

_PACKAGES = ("cifar-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def describe(mesh: Mesh) -> dict[str, Any]:
    """Returns device, num_devices, num_processes and versions, for result.json."""
    return {
        "device": _device_name(mesh.devices.flat[0]),
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _device_name(device: jax.Device) -> str:
    if device.platform != "cpu":
        return device.device_kind
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    name = model[1].strip() if model else platform.processor() or "unknown"
    return f"cpu ({name}, {os.cpu_count()} cores)"


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
