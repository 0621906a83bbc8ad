"""The scripts beside the package, called within the process of the tests."""

import contextlib
import importlib
import io
import pathlib
import sys

from cifar_jax import _cli

ROOT = pathlib.Path(__file__).parents[2]


def load(name):
    """Returns a script, or one of the modules beside it, as a module."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))
    return importlib.import_module(name)


def call(name, *arguments):
    """Runs a script in the root of the checkout; returns its exit code and output."""
    script = load(name)
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = _cli.run_command(script, list(map(str, arguments)))
    return code, stdout.getvalue(), stderr.getvalue()
