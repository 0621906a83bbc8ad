"""Batches of images in pickles, read without importing or calling anything.

A pickle is a program for a stack machine. The machine here is that of the standard
library, of which it keeps the instructions that build plain data. A function that a
program names is a stand-in that only notes its calls, as a `_Call`. So whatever the
program says, nothing of it is executed, and nothing grows beyond a small multiple of
the file.
"""

import functools
import io
import pickle
import pickletools
import struct
import warnings
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np

from cifar_jax import UserError

# The unpickler that is written in Python, and the names of instructions by code. Type
# checkers do not know them.
_PythonUnpickler: Any = vars(pickle)["_Unpickler"]
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET "
    "LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 "
    "FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 TUPLE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM "
    "SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
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


class _Call:
    """Stands for the result of a function that a pickle calls.

    Attributes:
      function: Name of the function.
      arguments: Arguments of the call.
      state: State that the pickle gives the result; None: it gives none.
    """

    def __init__(self, function: str, *arguments: Any):
        self.function, self.arguments = function, arguments
        self.state: Any = None


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
            batch = _Unpickler(content).load()
        if not isinstance(batch, dict):
            kind = type(batch).__name__
            raise UnpicklingError(f"it holds a {kind} instead of a dictionary")
        values = {}
        for key, value in batch.items():
            if isinstance(value, _Call):
                value = _array(value)
            elif isinstance(value, list):
                value = [_array(v).item() if isinstance(v, _Call) else v for v in value]
            values[key.decode("latin-1") if isinstance(key, bytes) else key] = value
        return values
    except Exception as error:  # whatever an instruction meets unexpectedly
        reason = "it is damaged, or holds more than a batch needs"
        if isinstance(error, UnpicklingError):
            reason = str(error)
        raise UserError(
            f"{where} cannot be read as a pickled batch ({reason}); give a dictionary "
            "of data, labels and ids, of NumPy arrays and lists, in protocol 0 to 5, "
            "or save it as .npz"
        ) from error


def _array(call: _Call) -> np.ndarray:
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
    code, byte_order = dtype.arguments[0], dtype.state[1]
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if not isinstance(code, str) or code[:1] not in tuple("biuf"):
        name = code[:20] if isinstance(code, str) else type(code).__name__
        raise UnpicklingError(f"it holds an array of dtype {name!r}")
    if isinstance(content, str):
        content = content.encode("latin-1")
    values = np.frombuffer(content, np.dtype(code).newbyteorder(byte_order))
    return values.reshape(shape, order=order)


class _Dictionary(dict):
    """A dictionary of strings: to hash a tuple of tuples may take for ever."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | bytes):
            raise UnpicklingError("it has keys that are not strings")
        super().__setitem__(key, value)


class _Unpickler(_PythonUnpickler):
    """Python's unpickler, in Python, without all that a batch does not need.

    A method of the base class, `load_...`, carries out one instruction; those here
    replace some that a hostile pickle could make large or slow.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.dispatch = {
            code: getattr(self, method.__name__).__func__
            for code, method in super().dispatch.items()
            if _NAMES[code] in _INSTRUCTIONS
        }
        self._spare = len(content)  # bytes that conversions may still make

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _FUNCTIONS:
            raise UnpicklingError(f"it names {f'{module}.{name}'[:60]!r}")
        known = _FUNCTIONS[module, name]
        return self._encode if known == "encode" else functools.partial(_Call, known)

    def _encode(self, text: str = "", encoding: str = "latin1") -> bytes:
        self._spare -= len(text)
        if encoding != "latin1" or self._spare < 0:  # one text again and again, say
            raise UnpicklingError("it encodes too much, or not in latin1")
        return text.encode("latin-1")

    def load_bytearray8(self):
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # as many as there are

    def load_empty_dictionary(self):
        self.append(_Dictionary())

    def load_dict(self):
        items, made = self.pop_mark(), _Dictionary()
        for key, value in zip(items[::2], items[1::2], strict=True):
            made[key] = value
        self.append(made)

    def load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Call):
            raise UnpicklingError(f"it sets the state of a {type(target).__name__}")
        target.state = state
