"""An unpickler that builds plain data only: nothing is ever imported or called.

A pickle is a program for a stack machine. `pickletools` of the standard library decodes
its instructions; the machine here knows only those that build plain data, and puts a
`Call` where the program calls a function. So whatever the program says, nothing of it
is executed, and nothing grows beyond a small multiple of the file.

A reader who only wants to know what is accepted can skip this module: `pickles` says
which functions of NumPy a pickle may name, and what becomes of their calls.
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
_WITH_VALUE = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8".split()
)
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class UnpicklingError(Exception):
    """The pickle does something that a batch of images never does."""


@dataclasses.dataclass(eq=False)
class _Function:
    """Stands for a function that a pickle names."""

    name: str


@dataclasses.dataclass(eq=False)
class Call:
    """Stands for the result of a function that a pickle calls.

    Attributes:
      function: Name of the function.
      arguments: Arguments of the call.
      state: State that the pickle gives the result; None: it gives none.
    """

    function: str
    arguments: tuple
    state: Any = None


class SafeUnpickler:
    """Runs the instructions of a pickle that build plain data.

    Args:
      content: The pickle, of protocol 0 to 5.
      functions: Names for the functions that the pickle may call, by module and name.
        The name "encode" means text to bytes in latin1, which is done at once.
    """

    def __init__(self, content: bytes, functions: Mapping[tuple[str, str], str]):
        self._functions = functions
        self._file = io.BytesIO(content)
        self._spare = len(content)  # bytes that conversions may still make
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Returns what the pickle builds.

        Raises:
          UnpicklingError: If it uses an instruction or a function that is not allowed.
          Exception: If it is damaged: ValueError, IndexError, KeyError, TypeError or
            OverflowError.
        """
        for _ in range(MAX_INSTRUCTIONS):
            code = self._file.read(1).decode("latin-1")
            if code not in _OPCODES:
                raise UnpicklingError(
                    "it is not a pickle" if code else "it is truncated"
                )
            opcode, argument = _OPCODES[code], None
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name == "STRING":  # pickletools knows ASCII only
                quoted = pickletools.read_stringnl(self._file, decode=False)
                argument = codecs.escape_decode(quoted)[0].decode("latin-1")
            elif opcode.arg:
                argument = opcode.arg.reader(self._file)
            if not (
                self._do_value(opcode.name, argument)
                or self._do_container(opcode.name)
                or self._do_call(opcode.name, argument)
            ):
                raise UnpicklingError(f"it uses the instruction {opcode.name}")
        raise UnpicklingError(f"it has more than {MAX_INSTRUCTIONS:,} instructions")

    def _pop(self, count: int | None = None) -> list[Any]:
        """Takes items off the stack: a number of them, or all back to the last mark."""
        if count is not None and count > len(self._stack):
            raise UnpicklingError("its stack runs empty")
        if count is None:
            items = []
            while (item := self._stack.pop()) is not _MARK:
                items.append(item)
            return items[::-1]
        start = len(self._stack) - count
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _do_value(self, name: str, argument: Any) -> bool:
        """Executes instructions about one value; returns whether this was one."""
        stack, memo = self._stack, self._memo
        if name in _WITH_VALUE:
            stack.append(argument)
        elif name in _LITERALS:
            stack.append(_LITERALS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]  # a dictionary: the index may be huge
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "PROTO":
            if argument > 5:
                raise UnpicklingError(f"it has protocol {argument}; 0 to 5 are read")
        else:
            return name == "FRAME"  # which only says where reading may pause
        return True

    def _do_container(self, name: str) -> bool:
        """Executes instructions about containers; returns whether this was one."""
        stack = self._stack
        if name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._pop()))
        elif name == "POP_MARK":
            self._pop()
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "LIST":
            stack.append(self._pop())
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self._pop()
            if not isinstance(stack[-1], list):
                raise UnpicklingError(f"it appends to a {type(stack[-1]).__name__}")
            stack[-1].extend(items)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("DICT", "SETITEM", "SETITEMS"):
            items = self._pop(2 if name == "SETITEM" else None)
            if name == "DICT":
                stack.append({})
            if not isinstance(stack[-1], dict) or len(items) % 2:
                raise UnpicklingError("it sets items of something not a dictionary")
            if not all(isinstance(key, str | bytes) for key in items[::2]):
                raise UnpicklingError("it has keys that are not strings")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        else:
            return False
        return True

    def _do_call(self, name: str, argument: Any) -> bool:
        """Executes instructions about functions; returns whether this was one.

        No function is looked up or called, except that "encode" is done here.
        """
        if name in ("GLOBAL", "STACK_GLOBAL"):
            path = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
            module, function = path
            if not isinstance(module, str) or not isinstance(function, str):
                raise UnpicklingError("it names a function by something not a string")
            if (module, function) not in self._functions:
                raise UnpicklingError(f"it names {f'{module}.{function}'[:60]!r}")
            self._stack.append(_Function(self._functions[module, function]))
        elif name == "REDUCE":
            function, arguments = self._pop(2)
            if not isinstance(function, _Function) or not isinstance(arguments, tuple):
                raise UnpicklingError("it calls a function that is not allowed")
            if function.name == "encode":
                # Either argument may be missing, as in Python.
                text, encoding = arguments + ("", "latin1")[len(arguments) :]
                if not isinstance(text, str) or encoding != "latin1":
                    raise UnpicklingError(
                        "it encodes a text in another way than latin1"
                    )
                self._spare -= len(text)
                if self._spare < 0:  # one text, encoded again and again
                    raise UnpicklingError("it makes more bytes than it holds")
                self._stack.append(text.encode("latin-1"))
            elif function.name == "ndarray":
                raise UnpicklingError("it makes an array without its content")
            else:
                self._stack.append(Call(function.name, arguments))
        elif name == "BUILD":
            state, target = self._stack.pop(), self._stack[-1]
            if not isinstance(target, Call):
                raise UnpicklingError(f"it sets the state of a {type(target).__name__}")
            target.state = state
        else:
            return False
        return True
