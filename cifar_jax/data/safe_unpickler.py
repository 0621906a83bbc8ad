"""A stack machine that runs the harmless instructions of a pickle.

A pickle is a program. `pickletools` of the standard library decodes its instructions;
the machine here knows only those that build plain data, and puts a record where the
program names a function. So nothing is imported or called, whatever the program says,
and nothing grows beyond a small multiple of the file.
"""

import codecs
import dataclasses
import io
import pickletools
from collections.abc import Mapping
from typing import Any

MAX_INSTRUCTIONS = 5_000_000

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MARK = object()
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_WITH_VALUE = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnpicklingError(Exception):
    """The pickle does what a batch of images never does."""


@dataclasses.dataclass(eq=False)
class _Function:
    """Stands for a function that a pickle names."""

    name: str


@dataclasses.dataclass(eq=False)
class Record:
    """Stands for what such a function would return.

    Attributes:
      function: Which one.
      arguments: What it was called with.
      state: What the object was told to become, if it was.
    """

    function: str
    arguments: tuple
    state: Any = None


class SafeUnpickler:
    """Runs the instructions of a pickle that build plain data."""

    def __init__(self, content: bytes, functions: Mapping[tuple[str, str], str]):
        """Takes the pickle, and what to call the functions that it may name."""
        self._functions = functions
        self._file = io.BytesIO(content)
        self._spare = len(content)  # bytes that conversions may still make
        self._stack: list = []
        self._memo: dict = {}

    def run(self) -> Any:
        """Returns what the pickle builds.

        Raises:
          UnpicklingError: If it uses an instruction or a function that is not known.
          Exception: If it is damaged: ValueError, IndexError, KeyError, TypeError or
            OverflowError.
        """
        for _ in range(MAX_INSTRUCTIONS):
            code = self._file.read(1).decode("latin-1")
            if code not in _OPCODES:
                raise UnpicklingError(
                    "it is truncated" if not code else "it is no pickle"
                )
            name = _OPCODES[code].name
            if name == "STOP":
                return self._stack.pop()
            self._execute(name, self._argument(_OPCODES[code]))
        raise UnpicklingError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")

    def _argument(self, opcode):
        if opcode.name == "STRING":  # pickletools knows ASCII only
            quoted = pickletools.read_stringnl(self._file, decode=False)
            return codecs.escape_decode(quoted)[0].decode("latin-1")
        return opcode.arg.reader(self._file) if opcode.arg else None

    def _execute(self, name: str, argument) -> None:
        stack = self._stack
        if name in _WITH_VALUE:
            stack.append(argument)
        elif name in _LITERALS:
            stack.append(_LITERALS[name])
        elif name in _TUPLES:
            stack.append(tuple(self._pop_many(_TUPLES[name])))
        elif handler := getattr(self, f"_do_{name.lower()}", None):
            handler(argument)
        else:
            raise UnpicklingError(f"it uses the instruction {name}")

    def _pop_many(self, count: int) -> list:
        if count > len(self._stack):
            raise UnpicklingError("its stack runs empty")
        start = len(self._stack) - count
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_mark(self) -> list:
        items = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _do_proto(self, argument):
        if argument > 5:
            raise UnpicklingError(f"it has protocol {argument}; 0 to 5 are read")

    def _do_frame(self, argument):
        pass  # says where reading may pause

    def _do_mark(self, argument):
        self._stack.append(_MARK)

    def _do_pop(self, argument):
        self._stack.pop()

    def _do_pop_mark(self, argument):
        self._pop_mark()

    def _do_put(self, argument):
        self._memo[argument] = self._stack[-1]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, argument):
        self._memo[len(self._memo)] = self._stack[-1]

    def _do_get(self, argument):
        self._stack.append(self._memo[argument])

    _do_binget = _do_long_binget = _do_get

    def _do_tuple(self, argument):
        self._stack.append(tuple(self._pop_mark()))

    def _do_empty_list(self, argument):
        self._stack.append([])

    def _do_list(self, argument):
        self._stack.append(self._pop_mark())

    def _do_append(self, argument):
        item = self._stack.pop()
        self._extend([item])

    def _do_appends(self, argument):
        self._extend(self._pop_mark())

    def _extend(self, items: list) -> None:
        if not isinstance(self._stack[-1], list):
            raise UnpicklingError(f"it appends to a {type(self._stack[-1]).__name__}")
        self._stack[-1].extend(items)

    def _do_empty_dict(self, argument):
        self._stack.append({})

    def _do_dict(self, argument):
        items = self._pop_mark()
        self._stack.append({})
        self._update(items)

    def _do_setitem(self, argument):
        self._update(self._pop_many(2))

    def _do_setitems(self, argument):
        self._update(self._pop_mark())

    def _update(self, items: list) -> None:
        keys = items[::2]
        if not isinstance(self._stack[-1], dict) or len(items) % 2:
            raise UnpicklingError("it sets items of what is no dictionary")
        if not all(isinstance(key, str | bytes) for key in keys):
            raise UnpicklingError("it has keys that are not strings")
        self._stack[-1].update(zip(keys, items[1::2], strict=True))

    def _do_global(self, argument):
        self._push_function(*argument.split(" ", 1))

    def _do_stack_global(self, argument):
        self._push_function(*self._pop_many(2))

    def _push_function(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("it names a function by what is no string")
        if (module, name) not in self._functions:
            raise UnpicklingError(f"it names {f'{module}.{name}'[:60]!r}")
        self._stack.append(_Function(self._functions[module, name]))

    def _do_reduce(self, argument):
        function, arguments = self._pop_many(2)
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            raise UnpicklingError("it calls what is no function of NumPy")
        if function.name == "encode":
            self._stack.append(self._encode(*arguments))
        elif function.name == "ndarray":
            raise UnpicklingError("it makes an array without its content")
        else:
            self._stack.append(Record(function.name, arguments))

    def _encode(self, text="", encoding="latin1"):
        if not isinstance(text, str) or encoding != "latin1":
            raise UnpicklingError("it encodes a text in another way than latin1")
        self._spare -= len(text)
        if self._spare < 0:
            raise UnpicklingError("it makes more bytes than it holds")
        return text.encode("latin-1")

    def _do_build(self, argument):
        state = self._stack.pop()
        if not isinstance(self._stack[-1], Record):
            raise UnpicklingError(
                f"it sets the state of a {type(self._stack[-1]).__name__}"
            )
        self._stack[-1].state = state
