"""Batches of images in pickles, read without ever unpickling."""

import math
import warnings
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.data.safe_unpickler import Record, SafeUnpickler, UnpicklingError

# Functions of NumPy's pickles, each with what stands for it.
_NUMPY = {
    **{
        (f"{package}.{module}", name): name
        for package in ("numpy.core", "numpy._core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    },
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    # how Python 3 writes bytes in old protocols
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "encode",  # of nothing
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

    Raises:
      UserError: If it is damaged, or holds anything but plain data and such arrays.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            batch = SafeUnpickler(
                content, _NUMPY
            ).run()  # warns of escapes in damaged text
        if not isinstance(batch, dict):
            raise UnpicklingError(
                f"it holds a {type(batch).__name__} instead of a dictionary"
            )
        return {_text(key): _value(value) for key, value in batch.items()}
    except UnpicklingError as error:
        reason = str(error)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        # what the decoders of pickletools raise, and a stack that runs empty
        reason = f"it is damaged: {str(error).partition(chr(10))[0][:100]!r}"
    raise UserError(
        f"{where} cannot be read as a pickled batch ({reason}); give a dictionary of "
        "data, labels and ids, of NumPy arrays and lists, or save it as .npz"
    )


def _text(key: str | bytes) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else key


def _value(value):
    if isinstance(value, Record):
        return _array(value)
    if isinstance(value, list):
        return [_array(v).item() if isinstance(v, Record) else v for v in value]
    return value


def _array(record: Record) -> np.ndarray:
    """Makes the array that NumPy would have made; its size is that of its content."""
    if record.function == "_reconstruct":
        _version, shape, dtype, is_fortran, content = record.state
        order = "F" if is_fortran else "C"
    elif record.function == "_frombuffer":
        content, dtype, shape, order = record.arguments
    elif record.function == "scalar":
        (dtype, content), shape, order = record.arguments, (), "C"
    else:
        raise UnpicklingError(f"it holds a {record.function} where an array should be")
    dtype = _dtype(dtype)
    if isinstance(content, str):
        content = content.encode("latin-1")
    if not isinstance(content, bytes | bytearray) or order not in ("C", "F"):
        raise UnpicklingError("it holds an array without its content")
    known = isinstance(shape, tuple) and len(shape) <= 4
    if not known or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise UnpicklingError("it holds an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise UnpicklingError(f"it has {len(content):,} bytes for an array of {shape}")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _dtype(record) -> np.dtype:
    """The dtype of numbers that a record stands for."""
    if not isinstance(record, Record) or record.function != "dtype":
        raise UnpicklingError("it holds an array without a dtype")
    code = record.arguments[0] if record.arguments else None
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if code not in _DTYPES:
        raise UnpicklingError(f"it holds an array of dtype {str(code)[:20]!r}")
    big = isinstance(record.state, tuple) and ">" in record.state[1:2]
    return np.dtype(code).newbyteorder(">" if big else "<")
