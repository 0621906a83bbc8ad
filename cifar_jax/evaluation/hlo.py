"""What the operations of a compiled training step are for, read from XLA's text.

Flax puts the layer into an operation's name, JAX whether it belongs to the gradient,
and `cifar_jax.training.steps` the rest, by named scopes.
"""

import dataclasses
import re
from collections.abc import Iterator

# Operations that only hold others.
CONTROL = ("while", "conditional", "call", "tuple", "get-tuple-element", "parameter")
_COMMUNICATION = ("all-", "reduce-scatter", "collective")  # waiting for others, too
_MOVES = ("copy", "copy-start", "copy-done", "transpose", "pad", "slice", "reverse")

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_BATCH_NORM = re.compile(r"/\w*bn\d*/|BatchNorm")
# What an operation is for, by the first pattern that is in its name.
_PURPOSES = (
    ("optimizer", re.compile(r"/optimizer(/|$)")),
    ("augment", re.compile(r"/augment/")),
    ("gather", re.compile(r"/gather/")),
    ("metrics", re.compile(r"/metrics(/|$)")),
    ("pooling", re.compile(r"_pool/(?!conv|bn)|reduce_window|select_and_scatter")),
    ("elementwise", re.compile(r"jvp\(\w+\)|_bn")),
    ("loss", re.compile(r"jvp\(|smooth_labels|one_hot")),
    ("random", re.compile(r"threefry|random")),
)
# Kernels of cuDNN's and CUTLASS's convolutions, should nothing else be known of one.
_KERNELS = (
    ("conv_forward", re.compile(r"fprop|convolve_sgemm|implicit_convolve|winograd")),
    ("conv_backward", re.compile(r"dgrad|wgrad|bwd|backward", re.I)),
    ("copies", re.compile(r"memcpy|nchwTo|nhwcTo|transpose|memset", re.I)),
)
LARGEST_KERNEL = 7  # pixels
CATEGORIES = (
    *("conv_forward", "conv_backward", "bn_reductions", "elementwise", "pooling"),
    *("loss", "gather", "augment", "random", "optimizer", "metrics", "copies"),
    *("communication", "other", "unknown"),
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An operation of the program.

    Attributes:
      name: Unique in the program.
      opcode: Such as "fusion".
      source: Where it comes from: JAX's and Flax's names, or "".
      window: Of a convolution, or "".
      target: Of a custom call, or "".
      calls: The computation that it consists of, or "".
    """

    name: str
    opcode: str
    source: str
    window: str
    target: str
    calls: str


class Program:
    """A compiled program.

    Args:
      text: As `jax.stages.Compiled.as_text` returns it.
    """

    def __init__(self, text: str):
        self.module = _first(re.compile(r"HloModule ([\w.\-]+)"), text)
        self._computations: dict[str, list[Instruction]] = {}
        self._instructions: dict[str, Instruction] = {}
        body = []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                body = self._computations.setdefault(header[1], [])
            elif found := _INSTRUCTION.match(line):
                instruction = _instruction(found[1], found[2])
                body.append(instruction)
                self._instructions[instruction.name] = instruction
        # Kernels on a GPU are named after operations, with other separators.
        self._kernels = {_kernel_name(name): name for name in self._instructions}

    def find(self, name: str) -> Instruction | None:
        """Returns the operation of a name, or of a kernel's name."""
        name = name.removeprefix("%")
        return self._instructions.get(name) or self._instructions.get(
            self._kernels.get(_kernel_name(name), "")
        )

    def category(self, instruction: Instruction) -> str:
        """Returns what an operation is for: of `CATEGORIES`, or "control"."""
        if instruction.opcode in CONTROL:
            return "control"
        if instruction.opcode.startswith(_COMMUNICATION):
            return "communication"
        parts = list(self._parts(instruction))
        convolutions = [part for part in parts if _is_convolution(part)]
        if convolutions:
            is_backward = any(_is_backward(part) for part in convolutions)
            return "conv_backward" if is_backward else "conv_forward"
        if any(_reduces_batch_norm(part) for part in parts):
            return "bn_reductions"
        sources = [part.source for part in parts if part.source]
        if all(part.opcode in (*_MOVES, "parameter", "bitcast") for part in parts) and (
            not sources or "conv_general_dilated" in sources[0]
        ):
            return "copies"
        for source in sources:
            for purpose, pattern in _PURPOSES:
                if pattern.search(source):
                    return purpose
        return "other"

    def _parts(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yields an operation and all that it consists of."""
        yield instruction
        if instruction.opcode in ("fusion", "call", "async-start", "custom-call"):
            for part in self._computations.get(instruction.calls, ()):
                yield from self._parts(part)


def kernel_category(name: str) -> str:
    """Returns what a kernel is for whose operation is not known, or "unknown"."""
    for category, pattern in _KERNELS:
        if pattern.search(name):
            return category
    return "unknown"


def _instruction(name: str, rest: str) -> Instruction:
    return Instruction(
        name=name,
        opcode=_first(_OPCODE, _after_type(rest)),
        source=_first(_NAME, rest),
        window=_first(_WINDOW, rest),
        target=_first(_TARGET, rest),
        calls=_first(_CALLS, rest),
    )


def _after_type(rest: str) -> str:
    """Drops the type in front, which may be a tuple of types."""
    if not rest.startswith("("):
        return rest.partition(" ")[2]
    depth = 0
    for position, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[position + 1 :]
    return ""


def _first(pattern: re.Pattern, text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _kernel_name(name: str) -> str:
    return re.sub(r"[.\-]", "_", name)


def _is_convolution(part: Instruction) -> bool:
    if part.opcode == "convolution" or "conv" in part.target.lower():
        return True
    named = part.source.endswith("conv_general_dilated")
    return named and part.opcode in ("custom-call", "dot")


def _is_backward(part: Instruction) -> bool:
    if part.source:
        return "transpose(" in part.source
    # XLA:CPU may lose the name; a kernel's gradient has a window as large as the map.
    size = re.search(r"size=(\d+)", part.window)
    is_large = size is not None and int(size[1]) > LARGEST_KERNEL
    return is_large or "dilate" in part.window or "Backward" in part.target


def _reduces_batch_norm(part: Instruction) -> bool:
    reduces = part.opcode in ("reduce", "reduce-window") or part.source.endswith(
        "reduce_sum"
    )
    return reduces and _BATCH_NORM.search(part.source) is not None
