"""File formats that a trained network is exported to, one module each.

A module has `SUFFIX`, and

- `write(network, path, card)`: writes one file;
- where logits are not to be the same, `prove(network, classify)`: compares them;
- `read(path)`: returns a function that classifies with that file, and the card beside
  it: uint8 images [B, H, W, C] to float32 logits [B, num_classes].
"""

import importlib
from types import ModuleType

from cifar_jax import UserError

MODULES = {
    "stablehlo": "stablehlo",
    "safetensors": "weights",
    "onnx": "onnx_file",
    "onnx-int8": "onnx_int8",
    "torch": "torch_file",
    "pt2": "torch_program",
}
_EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "torch": "torch"}


def find(name: str) -> ModuleType:
    """Returns a module of this room.

    Raises:
      UserError: If a package that it needs is not installed.
    """
    try:
        return importlib.import_module(f"cifar_jax.formats.{name}")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        raise UserError(
            f"the package {error.name} is not installed; "
            f"pip install 'cifar-jax[{_EXTRAS[error.name]}]'"
        ) from error
