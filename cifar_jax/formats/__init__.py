"""A network as a file, verified."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from cifar_jax import UserError, _packaged

if TYPE_CHECKING:
    from cifar_jax.formats.export import Format
    from cifar_jax.training.pretrained import LoadedModel

# By the name of --format: a module of this room, and the `Format` in it.
FORMATS = {
    "stablehlo": ("stablehlo", "FORMAT"),
    "safetensors": ("safetensors_file", "FORMAT"),
    "safetensors-float16": ("safetensors_file", "HALF"),
    "hub": ("hub", "FORMAT"),
    "onnx": ("onnx_file", "FORMAT"),
    "onnx-int8": ("onnx_int8", "FORMAT"),
    "torch": ("pytorch", "STATE_DICT"),
    "pt2": ("pytorch", "PROGRAM"),
}
# Formats of whole networks and of PyTorch, by the suffixes of their files.
_PROGRAMS = {".stablehlo": "stablehlo", ".onnx": "onnx", ".pt2": "pt2", ".pt": "torch"}


def find(name: str) -> "Format":
    """Returns a format by its name."""
    module, attribute = FORMATS[name]
    return getattr(import_module(module), attribute)


def load(workdir: os.PathLike | str, **choice: Any) -> "LoadedModel":
    """Reads a trained network from wherever it is, also from an exported program.

    Args:
      workdir: What `pretrained.load_model` takes, or a file of `cifar_jax.export`.
      **choice: `which` and `step`, as `load_model` takes them.
    """
    from cifar_jax.formats import export
    from cifar_jax.training import pretrained

    path = _packaged.find_network(workdir)
    is_program = path.is_file() and path.suffix in _PROGRAMS
    if is_program and choice.get("which", "best") == "best":
        return export.load_program(path, find(_PROGRAMS[path.suffix]))
    return pretrained.load_model(path, **choice)


def import_module(name: str):
    """Imports a module of this room, which may need an extra."""
    try:
        return importlib.import_module(f"cifar_jax.formats.{name}")
    except ModuleNotFoundError as error:
        extra = "torch" if error.name == "torch" else "onnx"
        raise UserError(
            f"the package {error.name} is not installed; "
            f"pip install 'cifar-jax[{extra}]'"
        ) from error
