"""Commands, in the process of the tests, where imports are paid once, or in others."""

import contextlib
import importlib
import importlib.util
import io
import mmap
import os
import pathlib
import re
import socket
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]


class Finished(NamedTuple):
    """What a command leaves behind, with the names of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


_DEVICES = "--xla_force_host_platform_device_count="
# The older of XLA's two code generators compiles these networks in a third of the time;
# a program that is not divided for several cores, in two thirds of that.
_QUICK = {
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}


def xla_flags(num_devices: int = 0) -> str:
    """Returns XLA_FLAGS for a process; with 0 it divides the CPU as it likes."""
    given = re.sub(rf"{_DEVICES}\d+", "", os.environ.get("XLA_FLAGS", ""))
    for name, value in _QUICK.items():
        if name not in given and _is_known(name):
            given += f" --{name}={value}"
    if num_devices:
        given += f" {_DEVICES}{num_devices}"
    return given.strip()


def environment(num_devices: int = 0, **others: str) -> dict[str, str]:
    """Returns the environment of a process of its own: see `xla_flags`."""
    return {**os.environ, "XLA_FLAGS": xla_flags(num_devices), **others}


def free_port() -> int:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_known(flag: str) -> bool:
    """Returns whether the installed XLA has a flag: it aborts at one that it lacks."""
    folder = pathlib.Path(importlib.util.find_spec("jaxlib").origin).parent
    for library in folder.glob("libjax_common.*"):
        with library.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return content.find(flag.encode()) >= 0
    return False


def call(name: str, *arguments: object) -> Finished:
    """Runs `python -m cifar_jax.NAME ARGUMENTS` in the root of the checkout."""
    from cifar_jax import _cli

    command = importlib.import_module(f"cifar_jax.{name}")
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = _cli.run_command(command, [str(argument) for argument in arguments])
    return Finished(code, stdout.getvalue(), stderr.getvalue())
