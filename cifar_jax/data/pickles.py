"""Batches of images in pickles, read without ever unpickling."""

import math
import warnings
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.data.safe_unpickler import Call, SafeUnpickler, UnpicklingError

# Functions that pickles of NumPy name, and what they are called here.
_FUNCTIONS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    # Python 3 writes bytes so in old protocols; the second makes those of length 0.
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "encode",
}
for _package in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _FUNCTIONS |= {
        (f"{_package}.multiarray", "_reconstruct"): "_reconstruct",
        (f"{_package}.multiarray", "scalar"): "scalar",
        (f"{_package}.numeric", "_frombuffer"): "_frombuffer",
    }

_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


def read_batch(content: bytes, where: str) -> dict[str, Any]:
    """Reads a pickled dictionary, such as a batch of the official Python archives.

    Args:
      content: The pickle, of any protocol (0 to 5), from Python 2 or 3.
      where: Name of the file, for errors.

    Returns:
      The values by key. Keys are str; arrays of numbers are NumPy arrays, and lists of
      NumPy scalars are lists of numbers. Strings of Python 2 are str in latin1.
    """
    try:
        # Damaged text may hold escapes that Python warns of.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            batch = SafeUnpickler(content, _FUNCTIONS).load()
        if not isinstance(batch, dict):
            kind = type(batch).__name__
            raise UnpicklingError(f"it holds a {kind} instead of a dictionary")
        values = {}
        for key, value in batch.items():
            if isinstance(value, Call):
                value = _array(value)
            elif isinstance(value, list):
                value = [_array(v).item() if isinstance(v, Call) else v for v in value]
            values[key.decode("latin-1") if isinstance(key, bytes) else key] = value
        return values
    except UnpicklingError as error:
        reason = str(error)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # From the decoders of pickletools, and from a stack that runs empty.
        reason = f"it is damaged: {str(error).partition(chr(10))[0][:100]!r}"
    raise UserError(
        f"{where} cannot be read as a pickled batch ({reason}); give a dictionary of "
        "data, labels and ids, of NumPy arrays and lists, or save it as .npz"
    )


def _array(call: Call) -> np.ndarray:
    """Makes the array that NumPy would have made; its size is that of its content."""
    if call.function == "_reconstruct":
        _version, shape, dtype, is_fortran, content = call.state
        order = "F" if is_fortran else "C"
    elif call.function == "_frombuffer":
        content, dtype, shape, order = call.arguments
    elif call.function == "scalar":
        (dtype, content), shape, order = call.arguments, (), "C"
    else:
        raise UnpicklingError(f"it holds a {call.function} where an array should be")
    # Only calls of `numpy.dtype` that stand for numbers are taken.
    if not isinstance(dtype, Call) or dtype.function != "dtype":
        raise UnpicklingError("it holds an array without a dtype")
    code = dtype.arguments[0] if dtype.arguments else None
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if code not in _DTYPES:
        name = code[:20] if isinstance(code, str) else type(code).__name__
        raise UnpicklingError(f"it holds an array of dtype {name!r}")
    is_big_endian = isinstance(dtype.state, tuple) and ">" in dtype.state[1:2]
    dtype = np.dtype(code).newbyteorder(">" if is_big_endian else "<")
    if isinstance(content, str):
        content = content.encode("latin-1")
    if not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
        raise UnpicklingError("it holds an array without its content")
    is_shape = isinstance(shape, tuple) and len(shape) <= 4
    if not is_shape or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnpicklingError("it holds an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise UnpicklingError(f"it has {len(content):,} bytes for an array of {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order=order)
