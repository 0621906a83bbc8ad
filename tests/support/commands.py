"""Commands, called within the process of the tests: their imports are paid once."""

import contextlib
import importlib
import io
import pathlib
from typing import NamedTuple

from cifar_jax import _cli

ROOT = pathlib.Path(__file__).parents[2]


class Finished(NamedTuple):
    """What a command leaves behind, with the names of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def call(name: str, *arguments: object) -> Finished:
    """Runs `python -m cifar_jax.NAME ARGUMENTS` in the root of the checkout."""
    command = importlib.import_module(f"cifar_jax.{name}")
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = _cli.run_command(command, [str(argument) for argument in arguments])
    return Finished(code, stdout.getvalue(), stderr.getvalue())
