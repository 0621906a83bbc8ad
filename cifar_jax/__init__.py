"""Small residual networks for CIFAR-scale images, under a parameter budget.

    model = cifar_jax.load("cifar10_cpu")  # a name, a run directory or exported weights
    model.predict("image.png", resize=True)

`load`, `list_models`, `create_model`, `get_config` and `train` are imported when they
are first used, and JAX with them. `python -m cifar_jax` lists the commands.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar_jax.evaluation.api import (
        Model,
        create_model,
        get_config,
        list_models,
        load,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "Model",
    "Stopped",
    "UserError",
    "create_model",
    "get_config",
    "list_models",
    "load",
    "train",
]


class UserError(ValueError):
    """A mistake that the user can mend: one line with the value, the limit, the remedy.

    Commands print it without a traceback and exit with code 1. It is raised wherever
    input is refused, so docstrings name it only where that tells more.
    """


class Stopped(Exception):
    """Training has stopped before its end, its state saved.

    Attributes:
      exit_code: 128 plus the number of a signal; 0 after `train.max_seconds`.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def __getattr__(name: str) -> Any:
    """Imports what the Python door has, at its first use."""
    if name in __all__:
        return getattr(importlib.import_module("cifar_jax.evaluation.api"), name)
    raise AttributeError(f"module 'cifar_jax' has no attribute {name!r}")
