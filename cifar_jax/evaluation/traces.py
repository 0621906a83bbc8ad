"""Traces of training steps in a steady state, in a process of their own."""

import glob
import math
import pathlib
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cifar_jax.evaluation import peaks
from cifar_jax.evaluation.contenders import Ours
from cifar_jax.evaluation.hlo import Program, kernel_category
from cifar_jax.models import count


class Event(NamedTuple):
    """Something that a device does.

    Attributes:
      start: In nanoseconds.
      end: Likewise.
      category: See `Program.category`; "unknown" if no operation has this name.
    """

    start: float
    end: float
    category: str


class Traced(Ours):
    """This project's training step, as a recipe has it in the middle of its run.

    Args:
      config: The recipe, as it is.
    """

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        epoch = self._setup.num_epochs // 2
        self._step = epoch * self._steps_per_epoch
        self._state = self._state.replace(
            step=jax.jit(
                lambda step: step + self._step, out_shardings=self._engine.replicated
            )(self._state.step)
        )
        self._engine.compile(self._state)

    def seconds(self, num_steps: int, repeats: int) -> list[float]:
        """Returns the seconds of a step, without a trace; waits after each repeat."""
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.train(num_steps)
            found.append((time.perf_counter() - start) / num_steps)
        return found

    def trace(self, num_steps: int) -> list[Event]:
        """Returns what the devices do in so many steps."""
        program = Program(self._engine.program(self._step))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the dispatch down
        with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
            jax.profiler.start_trace(folder, profiler_options=options)
            try:
                self.train(num_steps)
            finally:
                jax.profiler.stop_trace()
            (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
            return read(pathlib.Path(file), program)

    def costs(self) -> dict[str, Any]:
        """Returns what the floor of a step follows from, for a device's share of it."""
        setup, state = self._setup, self._state
        share = setup.options.batch_size / setup.mesh.size
        rows = count.layer_table(setup.model, setup.source.image_shape)
        rows = [row for row in rows if len(row.output_shape) > 1]  # not the head

        def elements(is_convolution):
            return sum(
                math.prod(row.output_shape)
                for row in rows
                if bool(row.macs) == is_convolution
            )

        def num_bytes(tree):
            return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

        return {
            "images": share,
            "pixels": share * math.prod(setup.source.image_shape),
            "flops": share * setup.flops_per_image,
            "conv_elements": share * elements(True),
            "norm_elements": share * elements(False),
            "dtype_bytes": jax.numpy.dtype(setup.model.dtype).itemsize,
            "parameter_bytes": num_bytes(state.params),
            "optimizer_bytes": num_bytes((state.opt_state, state.averages)),
        }

    def peaks(self) -> dict[str, float]:
        """Returns the device's FLOP/s, in the network's dtype, and bytes a second."""
        return {
            "flops": peaks.flops(self._setup.model.dtype),
            "bytes_per_second": peaks.bandwidth(),
        }


def read(file: pathlib.Path, program: Program) -> list[Event]:
    """Returns what devices did of a program, from a file of JAX's profiler.

    Args:
      file: `*.xplane.pb`.
      program: Whose operations have categories; what else ran is "other".
    """
    profile = jax.profiler.ProfileData.from_file(str(file))  # holds what it yields
    with warnings.catch_warnings():
        # Of jaxlib's own types, on Python 3.12; as an error it would end the process.
        warnings.filterwarnings("ignore", "builtin type .* has no __module__")
        return _read(list(profile.planes), program)


def _read(planes: list, program: Program) -> list[Event]:
    devices = [p for p in planes if p.name.startswith(("/device:GPU", "/device:TPU"))]
    if not devices:
        lines = [line for p in planes if p.name == "/host:CPU" for line in p.lines]
        return _of_cpu(lines, program)
    events = []
    for plane in devices:
        lines = list(plane.lines)
        # A GPU's streams hold its kernels, and the other lines sum these up.
        chosen = [line for line in lines if line.name.startswith("Stream")]
        chosen = chosen or [line for line in lines if line.name == "XLA Ops"]
        for line in chosen:
            events += [_of_device(event, program) for event in line.events]
    return events


def _of_device(event, program: Program) -> Event:
    stats = dict(event.stats)
    end = event.start_ns + event.duration_ns
    module = str(stats.get("hlo_module", program.module)).partition("(")[0]
    if module != program.module:
        return Event(event.start_ns, end, "other")
    # An operation within others may be named after all of them.
    names = str(stats.get("hlo_op", "")).split("::")
    for name in (*reversed(names), event.name):
        if found := program.find(name):
            return Event(event.start_ns, end, program.category(found))
    return Event(event.start_ns, end, kernel_category(event.name))


def _of_cpu(lines, program: Program) -> list[Event]:
    """Returns a CPU's events; one that ends in another thread has a mark there."""
    begun, ends = [], {}
    for line in lines:
        for event in line.events:
            stats = dict(event.stats)
            if event.name.startswith("end: "):
                ends[stats.get("_c")] = event.start_ns
            elif "hlo_op" in stats:
                begun.append((event, stats))
    events = []
    for event, stats in begun:
        end = event.start_ns + event.duration_ns
        end = max(end, ends.get(stats.get("_p"), end))
        found = program.find(str(stats["hlo_op"]))
        ours = stats.get("hlo_module") == program.module
        category = program.category(found) if ours and found else "other"
        events.append(Event(event.start_ns, end, category))
    return events
