"""A network as a file, verified."""

import importlib
from typing import TYPE_CHECKING

from cifar_jax import UserError

if TYPE_CHECKING:
    from cifar_jax.formats.export import Format

# By the name of --format: a module of this room, and the `Format` in it.
FORMATS = {
    "stablehlo": ("stablehlo", "FORMAT"),
    "safetensors": ("safetensors_file", "FORMAT"),
    "onnx": ("onnx_file", "FORMAT"),
    "onnx-int8": ("onnx_int8", "FORMAT"),
    "torch": ("pytorch", "STATE_DICT"),
    "pt2": ("pytorch", "PROGRAM"),
}
_EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "torch": "torch"}


def find(name: str) -> "Format":
    """Returns a format by its name."""
    module, attribute = FORMATS[name]
    return getattr(import_module(module), attribute)


def import_module(name: str):
    """Imports a module of this room, which may need an extra."""
    try:
        return importlib.import_module(f"cifar_jax.formats.{name}")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise UserError(
            f"the package {error.name} is not installed; "
            f"pip install 'cifar-jax[{_EXTRAS[error.name]}]'"
        ) from error
