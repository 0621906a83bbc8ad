"""Reads a compiled program: XLA's optimised HLO text, for GPUs and for TPUs.

What a step launches, moves, waits for and sends between devices is in that text. Cycles
are in it on TPUs alone, and there gathers and scatters have none.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$"
)
_ARRAY = re.compile(r"\b(pred|[subf]\d+|bf16|f8\w+|c\d+)\[([\d,]*)\]")
_NO_WORK = set(
    "parameter get-tuple-element tuple constant bitcast after-all partition-id "
    "replica-id opt-barrier".split()
)
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?"
)
_HOST = re.compile(r"callback|infeed|outfeed|MoveToHost|SendToHost|RecvFromHost")
_CONVOLUTION = re.compile(r"__cudnn\$conv(\w+)")

Array = tuple[str, tuple[int, ...]]  # dtype and shape

PARTS = (
    *("gather", "augment", "teacher", "forward", "backward", "optimizer", "metrics"),
    *("collectives", "other"),
)


def arrays(text: str) -> list[Array]:
    """Returns dtype and shape of every array in the text of a shape."""
    return [
        (dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _ARRAY.findall(text)
    ]


def num_bytes(text: str) -> int:
    """Returns the bytes of all arrays in the text of a shape."""
    # pred and the 4-bit types have whole bytes to themselves
    bits = {"pred": 8, "bf16": 16}
    return sum(
        math.prod(shape) * max(bits.get(dtype, 0) or _digits(dtype), 8) // 8
        for dtype, shape in arrays(text)
    )


def _digits(dtype: str) -> int:
    match = re.search(r"\d+", dtype)
    return int(match[0]) if match else 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Name, unique in its computation.
      shape: Text of the result's shape, which may be a tuple's.
      op: Opcode.
      rest: Text after the opcode: operands and attributes.
    """

    name: str
    shape: str
    op: str
    rest: str

    @property
    def scope(self) -> str:
        """The JAX operation and named scopes that it comes from; may be empty."""
        return self.attribute(r'op_name="([^"]*)"') or ""

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern in the text after the opcode."""
        match = re.search(pattern, self.rest)
        return match[1] if match else None

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split(")")[0])

    @property
    def called(self) -> list[str]:
        """Names of the computations that run once if it runs; not a loop's."""
        names = re.findall(
            r"(?:to_apply|calls|async_computation)=%?([\w.\-]+)", self.rest
        )
        return names + self.branches

    @property
    def branches(self) -> list[str]:
        """Names of the computations of which a conditional runs one."""
        if listed := self.attribute(r"branch_computations=\{([^}]*)\}"):
            return [name.strip().lstrip("%") for name in listed.split(",")]
        return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", self.rest)

    @property
    def part(self) -> str:
        """The part of a training step that it belongs to, one of `PARTS`."""
        if _COLLECTIVE.match(self.op):
            return "collectives"
        scope = self.scope
        for name in ("augment", "gather", "teacher", "optimizer", "metrics"):
            if f"/{name}/" in scope:
                return name
        if "transpose(" in scope:
            return "backward"
        return "forward" if "jvp(" in scope or "/ResNet" in scope else "other"


@dataclasses.dataclass
class Module:
    """A compiled program.

    Attributes:
      computations: Instructions of each computation, by its name.
      entry: Name of the computation that the program starts with.
      text: Source of all this.
    """

    computations: dict[str, list[Instruction]]
    entry: str
    text: str

    def instructions(self, name: str) -> list[Instruction]:
        """Returns the instructions of a computation; none if it is unknown."""
        return self.computations.get(name, [])

    def reachable(self, name: str) -> Iterator[Instruction]:
        """Yields the instructions of a computation, and of all that it calls."""
        seen, stack = set(), [name]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            for instruction in self.instructions(name):
                yield instruction
                stack += instruction.called
                stack += re.findall(
                    r"(?:body|condition)=%?([\w.\-]+)", instruction.rest
                )

    def trips(self, loop: Instruction) -> int | None:
        """Returns how often a loop goes round; None: that depends on data."""
        if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"\}'):
            return int(known)
        # a counter that is compared with a constant, and nothing else
        condition = self.instructions(loop.attribute(r"condition=%?([\w.\-]+)") or "")
        text = "\n".join(f"{i.op}({i.rest}" for i in condition)
        limits = re.findall(r"^constant\((\d+)\)", text, re.MULTILINE)
        if "direction=LT" in text and len(condition) <= 12 and limits:
            return int(limits[-1])
        return None


def parse(text: str) -> Module:
    """Returns the module of `compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry, name = "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif line.startswith("}"):
            name = None
        elif name is not None and (match := _INSTRUCTION.match(line)):
            computations[name].append(Instruction(*match.groups()))
    return Module(computations, entry, text)


def step_computation(module: Module, *, in_loop: bool) -> str:
    """Returns the name of the computation that is one step.

    Args:
      module: The compiled training call.
      in_loop: Whether the call loops over several steps. The largest loop is that one,
        with what it calls: a step may loop over parts of its batch.
    """
    bodies = [
        instruction.attribute(r"body=%?([\w.\-]+)") or ""
        for instruction in module.reachable(module.entry)
        if instruction.op == "while"
    ]
    if not (in_loop and bodies):
        return module.entry
    return max(bodies, key=lambda body: sum(1 for _ in module.reachable(body)))


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a device does for one instruction.

    Attributes:
      name: Name of the instruction.
      part: Part of the step, one of `PARTS`.
      kind: Opcode, or the target of a custom call, with the gathers and scatters in it.
      count: Times in a step.
      num_bytes: Bytes read and written each time: operands and results.
      flops: Floating-point operations of a convolution each time; else 0.
      cycles: Estimate of XLA for a TPU each time, or None.
      scope: JAX operation that it comes from.
    """

    name: str
    part: str
    kind: str
    count: int
    num_bytes: int
    flops: int
    cycles: int | None
    scope: str


@dataclasses.dataclass
class Step:
    """What one step does on one device.

    Attributes:
      kernels: All work. Of a conditional's branches it is the longest one.
      loops: Loops within the step: scope, and trips or None if they depend on data.
      conditionals: Scopes of the conditionals.
    """

    kernels: list[Kernel] = dataclasses.field(default_factory=list)
    loops: list[tuple[str, int | None]] = dataclasses.field(default_factory=list)
    conditionals: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: "Step") -> None:
        """Adds what another computation does."""
        self.kernels += other.kernels
        self.loops += other.loops
        self.conditionals += other.conditionals


def walk(module: Module, name: str, times: int = 1) -> Step:
    """Returns what a computation does; a loop of unknown length is counted once."""
    step = Step()
    shapes = {i.name: i.shape for i in module.instructions(name)}
    for instruction in module.instructions(name):
        if instruction.op == "while":
            trips = module.trips(instruction)
            step.loops.append((instruction.scope, trips))
            body = instruction.attribute(r"body=%?([\w.\-]+)") or ""
            step.add(walk(module, body, times * (trips or 1)))
        elif instruction.op == "conditional":
            step.conditionals.append(instruction.scope)
            branches = [walk(module, branch, times) for branch in instruction.branches]
            longest = max(branches, key=lambda s: sum(k.num_bytes for k in s.kernels))
            step.kernels += longest.kernels
            for branch in branches:  # what any of them may wait for
                step.loops += branch.loops
                step.conditionals += branch.conditionals
        elif instruction.op == "call":  # of a CUDA graph too
            for called in instruction.called:
                step.add(walk(module, called, times))
        elif instruction.op not in _NO_WORK and not instruction.op.endswith("-done"):
            step.kernels.append(_kernel(module, instruction, shapes, times))
    return step


def _kernel(
    module: Module, instruction: Instruction, shapes: dict[str, str], times: int
) -> Kernel:
    kind = instruction.attribute(r'custom_call_target="([^"]+)"') or instruction.op
    inner = {i.op for name in instruction.called for i in module.reachable(name)}
    kind += "".join(f":{op}" for op in ("gather", "scatter", "sort") if op in inner)
    sizes = [num_bytes(shapes.get(name, "")) for name in instruction.operands]
    moved = sum(sizes) + num_bytes(instruction.shape)
    if instruction.op == "dynamic-update-slice":  # in place: reads and writes the slice
        moved = 2 * sizes[1]
    cycles = instruction.attribute(r'"estimated_cycles":"?(\d+)"?')
    return Kernel(
        name=instruction.name,
        part=instruction.part,
        kind=kind,
        count=times,
        num_bytes=moved,
        flops=_conv_flops(module, instruction, shapes),
        cycles=int(cycles) if cycles else None,
        scope=instruction.scope,
    )


def _conv_flops(
    module: Module, instruction: Instruction, shapes: dict[str, str]
) -> int:
    """Returns 2 x multiply-adds of a convolution, or of those within a fusion."""
    labels = instruction.attribute(r"dim_labels=(\w+_\w+->\w+)")
    if labels is None:
        total = 0
        for name in instruction.called if instruction.op == "fusion" else ():
            inner = {i.name: i.shape for i in module.instructions(name)}
            total += sum(
                _conv_flops(module, i, inner) for i in module.instructions(name)
            )
        return total
    kernel_labels = re.split("_|->", labels)[1]
    sides = [arrays(shapes.get(name, "")) for name in instruction.operands[:2]]
    if len(sides) < 2 or not all(sides):
        return 0
    (_, left), (_, right) = sides[0][0], sides[1][0]
    (_, result), *_ = arrays(instruction.shape)
    direction = _CONVOLUTION.search(instruction.rest)
    if direction and direction[1] == "BackwardFilter":
        output, kernel = right, result
    elif direction and direction[1] == "BackwardInput":
        output, kernel = left, right
    else:
        output, kernel = result, right
    if len(kernel) != len(kernel_labels):
        return 0
    per_output = math.prod(kernel) // kernel[kernel_labels.index("o")]
    return 2 * math.prod(output) * per_output


def conv_batches(module: Module) -> list[int]:
    """Returns the batches of the network's convolutions on one device, each once."""
    batches = set()
    for instruction in _all(module):
        labels = instruction.attribute(r"dim_labels=\w+_\w+->(\w+)")
        # In the backward pass the gradient of a kernel has the kernel's shape.
        if labels and "b" in labels and instruction.part == "forward":
            batches.add(arrays(instruction.shape)[0][1][labels.index("b")])
    return sorted(batches)


def all_reduced(module: Module, name: str) -> list[list[Array]]:
    """Returns the floating-point arrays of each all-reduce of a computation."""
    results = [
        [array for array in arrays(i.shape) if "f" in array[0]]
        for i in module.reachable(name)
        if re.fullmatch("all-reduce(-start)?", i.op)
    ]
    return [result for result in results if result]


def gathered_batches(module: Module, name: str, rows: int) -> int:
    """Returns the number of all-gathers of arrays [rows, H, W, C] of a computation."""
    return sum(
        any(len(shape) == 4 and shape[0] == rows for _, shape in arrays(i.shape))
        for i in module.reachable(name)
        if re.fullmatch("all-gather(-start)?", i.op)
    )


def collectives(module: Module, name: str) -> dict[str, int]:
    """Returns the number of each kind of collective of a computation."""
    return dict(
        collections.Counter(
            match[1]
            for i in module.reachable(name)
            if (match := _COLLECTIVE.fullmatch(i.op))
        )
    )


def host_callbacks(module: Module) -> int:
    """Returns the number of instructions that go through the host."""
    return sum(
        bool(_HOST.search(i.attribute(r'custom_call_target="([^"]+)"') or i.op))
        for i in _all(module)
    )


def product_dtypes(module: Module) -> dict[str, int]:
    """Returns the dtypes of what convolutions and matrix products compute."""
    return dict(
        collections.Counter(
            arrays(i.shape)[0][0]
            for i in _all(module)
            if i.op in ("convolution", "dot") or "dim_labels=" in i.rest
            if arrays(i.shape)
        )
    )


def _all(module: Module) -> Iterator[Instruction]:
    for instructions in module.computations.values():
        yield from instructions


_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(\w\w)? *: *((?:> ?)*)\{(.*)")
_LOOPS_BACK = re.compile(r"sbr\.rel \(!%(\w+)\)")


def bundles(text: str) -> tuple[int, bool]:
    """Returns how many instruction bundles a TPU executes for a kernel, one a cycle.

    All bundles of a loop's body count for each trip, those that a predicate skips too.

    Args:
      text: The kernel's bundles in their final order, as XLA for TPUs dumps them.

    Returns:
      The number, and whether all loops' trips are known; others count once.
    """
    lines: list[tuple[int, bool, str]] = []  # depth in loops, whether one starts, text
    for match in filter(None, map(_BUNDLE.match, text.splitlines())):
        depth = match[2].count(">")
        if match[3].startswith("}") and lines:  # the depth of an empty one is not told
            depth = lines[-1][0]
        lines.append((depth, match[1] == "LB", match[3]))
    return _count_bundles(lines, 0)


def _count_bundles(lines: list[tuple[int, bool, str]], depth: int) -> tuple[int, bool]:
    total, known, start = 0, True, 0
    while start < len(lines):
        end = start + 1
        if lines[start][0] <= depth:
            total += 1
        else:  # a loop, up to the next one
            while end < len(lines) and lines[end][0] > depth:
                if lines[end][:2] == (depth + 1, True):
                    break
                end += 1
            number, known_within = _count_bundles(lines[start:end], depth + 1)
            trips = _bundle_trips(lines[start:end])
            total += number * (trips or 1)
            known = known and known_within and trips is not None
        start = end
    return total, known


def _bundle_trips(body: list[tuple[int, bool, str]]) -> int | None:
    """Returns how often a loop goes round, by its last branch; None: unknown."""
    text = "\n".join(line for _, _, line in body)
    back = _LOOPS_BACK.findall(text)
    if not body[0][1] or not back:
        return 1
    name = re.escape(back[-1])
    if re.search(rf"%{name} = pmov 1", text):
        return 1
    found = re.search(rf"%{name} = scmp\.ge\.s32\.totalorder %\w+, (\d+)", text)
    return int(found[1]) if found else None
