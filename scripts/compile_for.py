"""Compiles a config's training for a GPU or TPU that is not there: what does it do?

python scripts/compile_for.py --target h200x8 --config configs/resnet_4p9m.py

XLA needs no device to compile for one. Memory, bytes, launches, loops and collectives
are the compiler's own figures; times are estimates. --json prints one object of them.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from cifar_jax import UserError, _cli
from cifar_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class Target:
    """Hardware to compile for.

    Attributes:
      platform: Platform, as JAX names it.
      topology: Topology, as the compiler names it.
      num_devices: Number of devices.
      memory: Bytes of memory a device.
      product_flops: FLOP/s that convolutions may reach, bfloat16.
      bandwidth: Bytes a second that a device's memory may reach.
      link: Bytes a second between two devices.
      launch_seconds: Least time of a kernel.
      clock: Cycles a second, where the compiler estimates cycles, or None.
    """

    platform: str
    topology: str
    num_devices: int
    memory: float
    product_flops: float
    bandwidth: float
    link: float
    launch_seconds: float = 0.0
    clock: float | None = None


# An H200 does 790 TFLOP/s in large products; convolutions reach about half of that. Of
# 4.8 TB/s streams reach 4.3. For TPUs the compiler itself estimates cycles.
_H200 = Target("cuda", "1x1x1", 1, 141e9, 0.52 * 790e12, 4.3e12, 300e9, 2e-6)
_V5E = Target("tpu", "v5e:2x2", 1, 16e9, 197e12, 819e9, 50e9, clock=1.5e9)
_V6E = Target("tpu", "v6e:2x4", 8, 32e9, 918e12, 1640e9, 100e9, clock=1.75e9)
TARGETS = {
    "h200": _H200,
    "h200x8": dataclasses.replace(_H200, topology="1x1x8", num_devices=8),
    "v5e": _V5E,
    "v5e-8": dataclasses.replace(_V5E, topology="v5e:2x4", num_devices=8),
    "v6e-8": _V6E,
}
WHEELS = {
    "cuda": ("jax_cuda12_plugin", "aot-gpu"),
    "tpu": ("libtpu", "aot-tpu"),
}
# Trying out algorithms needs a device.
OPTIONS = {"cuda": {"xla_gpu_autotune_level": "0"}, "tpu": {}}


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("target", f"hardware: {', '.join(TARGETS)}")
    flags.add_bool("json", "print one JSON object instead of a table")
    flags.add_bool(
        "longest_only",
        "compile only the longest part of the run in which the same transforms act",
    )
    flags.add_string("hlo", "file to write the training call's HLO text to")


def main(flags: _cli.Flags) -> None:
    """Compiles the calls and prints what they do."""
    config_lib.check(flags.config)
    if flags.target not in TARGETS:
        raise _cli.UsageError(
            f"--target is {flags.target!r}; use one of {', '.join(TARGETS)}"
        )
    target = TARGETS[flags.target]
    check_wheels(flags.target, target)
    with tempfile.TemporaryDirectory(prefix="compile_for-") as dumps:
        facts = {
            "target": flags.target,
            "config": flags.config_name,
            **compile_config(
                flags.config, Compiler(target, dumps), flags.hlo, flags.longest_only
            ),
        }
    print(json.dumps(facts) if flags.json else table(facts))


def check_wheels(name: str, target: Target) -> None:
    """Refuses a target whose compiler is not installed.

    CIFAR_JAX_AOT_PATH may name a folder that holds the wheels, from pip install
    --target: beside an ordinary JAX they would make it complain of a missing driver.
    """
    if wheels := os.environ.get("CIFAR_JAX_AOT_PATH"):
        sys.path.insert(0, wheels)
    module, extra = WHEELS[target.platform]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"the compiler for {name} is not installed; install the extra {extra} "
            f"(pip install '.[{extra}]'), best in an environment of its own"
        )


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Drops what the compilers' C++ prints about drivers that it does not find."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled call.

    Attributes:
      text: The optimised HLO.
      memory_bytes: Bytes of a device's memory that it needs.
      bundles: What `_hlo.bundles` counts in each kernel of a TPU, by its name.
    """

    text: str
    memory_bytes: int
    bundles: dict[str, tuple[int, bool]]


class Compiler:
    """XLA for hardware that is not there.

    Args:
      target: The hardware.
      dumps: Empty folder for what the compiler writes about kernels.

    Attributes:
      target: The hardware.
      devices: Its devices, which are descriptions alone.

    Raises:
      UserError: If the compiler cannot compile for it.
    """

    def __init__(self, target: Target, dumps: str):
        self.target, self._dumps = target, pathlib.Path(dumps)
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = ""
        os.environ["TPU_SKIP_MDS_QUERY"] = (
            "1"  # it would ask Google's cloud where it is
        )
        os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
        os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # there is no chip to lock
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={dumps} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=^final_bundles$"
        )
        self.devices = self._make_devices()

    def _make_devices(self) -> list:
        with _without_stderr():
            import jax
            from jax.experimental import topologies

        target = self.target
        options: dict[str, Any] = {"platform": target.platform}
        if target.platform == "cuda":
            text = pathlib.Path(__file__).with_name("_h200.txtpb").read_text()
            options |= {"topology": target.topology, "target_config": text}
        name = "" if target.platform == "cuda" else target.topology
        try:
            with _without_stderr():
                jax.devices()
                devices = topologies.get_topology_desc(name, **options).devices
        except Exception as error:  # of a plugin, which may raise anything
            module, extra = WHEELS[target.platform]
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{module} cannot compile for {target.topology} ({reason}); install "
                f"the extra {extra} in the version of jax, {jax.__version__}"
            ) from error
        return list(devices[: target.num_devices])

    def compile(self, lowered) -> Program:
        """Compiles what `jax.jit(...).lower(...)` returns."""
        import _hlo

        program = lowered.compile(compiler_options=OPTIONS[self.target.platform])
        bundles = {}
        for path in self._dumps.glob("*-final_bundles.txt"):
            if match := re.fullmatch(r"\d+-(.*)-\d+-final_bundles\.txt", path.name):
                bundles[match[1]] = _hlo.bundles(path.read_text())
            path.unlink()
        memory = program.memory_analysis()
        return Program(
            program.as_text(),
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes,
            bundles,
        )


class StandIn:
    """A data set's shape, classes and size, with noise for its images.

    What is compiled depends on nothing else, so the data need not be there.

    Args:
      source: The data set.
    """

    def __init__(self, source):
        self._source = source
        self.name, self.image_shape = source.name, source.image_shape
        self.label_names, self.num_classes = source.label_names, source.num_classes

    def check_split(self, split: str) -> None:
        """Takes every split."""

    def read(self, split: str):
        """Returns as many images of noise as the split has, and each class as often."""
        import numpy as np

        from cifar_jax.data.sources import Examples

        random, size = np.random.default_rng(0), self._size(split)
        shape = (size, *self.image_shape)
        images = random.integers(0, 256, shape, dtype=np.uint8)
        return Examples(images, np.arange(size, dtype=np.int32) % self.num_classes)

    def _size(self, split: str) -> int:
        import tensorflow_datasets as tfds

        from cifar_jax.data.builders import BUILDERS

        specs = getattr(BUILDERS.get(self.name), "specs", ())
        if self._source.path is not None or not specs:
            return len(self._source.open_split(split))
        # as in the archive, which need not be downloaded
        sizes = {name: specs[0].num_records(name) for name in ("train", "test")}
        infos = tfds.core.SplitDict(
            [tfds.core.SplitInfo(k, [n], num_bytes=0) for k, n in sizes.items()]
        )
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        return sum((p.to or sizes[p.splitname]) - (p.from_ or 0) for p in parts)


def make_setup(config, compiler: Compiler):
    """Returns the run as `training.setup` makes it for the compiler's devices."""
    from cifar_jax.training import setup

    source: Any = StandIn(setup.open_source(config))
    if config.data.placement == "auto":  # by the memory of a device that is not there
        num_bytes = source.read(config.data.train_split).images.nbytes
        fits = num_bytes <= setup.DEVICE_SHARE * compiler.target.memory
        config.data.placement = "device" if fits else "host"
    return setup.make(config, compiler.devices, lambda *_: None, source)


def compile_config(
    config, compiler: Compiler, hlo: str | None = None, longest_only: bool = False
) -> dict[str, Any]:
    """Returns the facts of a config's training and evaluation, compiled for a target.

    Args:
      config: Config of the run; its data need not be there.
      compiler: Compiler for the target.
      hlo: File for the text of the training call, or None.
      longest_only: Whether to compile the longest part of the run and nothing else.
    """
    run = make_setup(config, compiler)
    lengths = segment_lengths(run)
    starts = list(lengths)
    longest = max(lengths, key=lengths.__getitem__)
    parts: dict[int, dict[str, Any]] = {}
    for start in [longest] if longest_only else starts:
        program, num_steps = training_call(run, start, compiler)
        if hlo and start == longest:
            pathlib.Path(hlo).write_text(program.text)
        parts[start] = describe(program, run, compiler.target, num_steps)
    step_ms = {k: parts.get(k, parts[longest])["estimated_step_ms"] for k in starts}
    seconds = sum(n * step_ms[start] / 1e3 for start, n in lengths.items())
    evaluation = None
    if not longest_only:
        evaluation = evaluation_facts(run, compiler, config.evaluate.batch_size)
    return {
        "device": compiler.devices[0].device_kind,
        "num_devices": len(compiler.devices),
        "num_parameters": run.num_parameters,
        "batch_size": run.options.batch_size,
        "placement": run.placement,
        "steps_per_call": run.steps_per_dispatch,
        "total_steps": run.options.total_steps,
        **parts[longest],
        "estimated_training_seconds": seconds,
        "segments": [
            {"from_step": start, "num_steps": lengths[start], **part}
            for start, part in parts.items()
        ],
        "evaluation": evaluation,
        "notes": _notes(config, len(starts) - len(parts)),
    }


def _notes(config, num_missing: int) -> list[str]:
    notes = ["times are estimates; all else is what the compiler says"]
    if config.distill.teacher:
        notes.append("the teacher's forward pass is not in it")
    if num_missing:
        notes.append(
            f"{num_missing} shorter parts of the run, in which fewer transforms act, "
            "are counted like the longest one"
        )
    return notes


def _abstract(tree, mesh):
    """Returns shapes and dtypes of arrays that every device holds whole."""
    import jax

    from cifar_jax.training import distributed

    replicated = distributed.replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), tree
    )


def segment_lengths(run) -> dict[int, int]:
    """Returns the steps of each part of a run with a program of its own, by its start.

    A part's first step is its name.
    """
    ends = [*list(run.segments)[1:], run.options.total_steps]
    return {start: end - start for start, end in zip(run.segments, ends, strict=True)}


def training_call(run, start: int, compiler: Compiler) -> tuple[Program, int]:
    """Returns the longest call of a part of the run, compiled, and its steps."""
    from cifar_jax.training import feed

    stop = start + segment_lengths(run)[start]
    call = max(run.calls(start, stop), key=lambda call: call.num_steps)
    return compiler.compile(feed.lower(run, call)), call.num_steps


def evaluation_facts(run, compiler: Compiler, batch_size: int) -> dict[str, Any]:
    """Returns the facts of one batch of evaluation."""
    import jax
    import jax.numpy as jnp

    from cifar_jax.training import feed
    from cifar_jax.training.state import Metrics
    from cifar_jax.training.steps import Batch

    rows = -(-batch_size // run.mesh.size) * run.mesh.size  # what all can share

    def split(shape, dtype) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=run.options.split)

    batch = Batch(
        split(run.source.image_shape, jnp.uint8),
        split((), run.train.labels.dtype),
        split((), jnp.int32),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key: run.create_state(key).eval_variables, key)
    metrics = jax.eval_shape(Metrics.empty)
    metrics, variables = _abstract((metrics, variables), run.mesh)
    call = feed.evaluation_call(run)
    lowered = call.lower(metrics, variables, batch, split((), bool))
    facts = describe(compiler.compile(lowered), run, compiler.target)
    kept = "conv_batch_per_device host_callbacks memory_bytes_per_device "
    kept += "bytes_per_step launches estimated_step_ms"
    return {"batch_size": rows} | {key: facts[key] for key in kept.split()}


def describe(
    program: Program, run, target: Target, num_steps: int = 1
) -> dict[str, Any]:
    """Returns the facts of one step of a compiled call."""
    import _hlo

    module = _hlo.parse(program.text)
    name = _hlo.step_computation(module, in_loop=num_steps > 1)
    step = _hlo.walk(module, name)
    parts, missing = estimate(step, target, program.bundles)
    reduced = _hlo.all_reduced(module, name)
    batches = _hlo.conv_batches(module)
    # XLA for TPUs may make images of small batches into several: the least is true.
    own_batch = min if target.platform == "tpu" else max
    num_launches = sum(kernel.count for kernel in step.kernels)
    return {
        "conv_batch_per_device": own_batch(batches, default=None),
        "conv_batches": batches,
        "conv_flops_per_device": sum(k.flops * k.count for k in step.kernels),
        "gradient_all_reduces": sum(_is_gradient(each, run) for each in reduced),
        "reduced_numbers": sum(
            math.prod(shape) for each in reduced for _, shape in each
        ),
        "collectives": _hlo.collectives(module, name),
        "gathered_batches": _hlo.gathered_batches(module, name, run.options.batch_size),
        "loops": len(step.loops),
        "loops_until_data_say_so": sum(trips is None for _, trips in step.loops),
        "loop_scopes": [scope for scope, _ in step.loops],
        "conditionals": len(step.conditionals),
        "conditional_scopes": step.conditionals,
        "host_callbacks": _hlo.host_callbacks(module),
        "float64": "f64[" in module.text,
        "product_dtypes": _hlo.product_dtypes(module),
        "launches": num_launches if target.platform == "cuda" else None,
        "bytes_per_step": sum(k.num_bytes * k.count for k in step.kernels),
        "memory_bytes_per_device": program.memory_bytes,
        "parts": parts,
        "without_estimate": missing,
        "estimated_step_ms": sum(part["estimated_ms"] for part in parts.values()),
    }


def _is_gradient(reduced: list, run) -> bool:
    """Returns whether an all-reduce holds gradients of kernels.

    XLA joins small all-reduces into flat ones. Those of BatchNorm, forward and
    backward, hold a few numbers for each channel; there are more in the kernels.
    """
    import jax

    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.tree.leaves(jax.eval_shape(run.create_state, key).params)
    in_vectors = sum(leaf.size for leaf in params if leaf.ndim == 1)
    total = sum(math.prod(shape) for _, shape in reduced)
    return total > 4 * in_vectors or any(len(shape) == 4 for _, shape in reduced)


def estimate(
    step, target: Target, bundles: dict[str, tuple[int, bool]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Returns work and time by part of the step, and what has no whole estimate.

    A TPU's compiler estimates cycles, except for gathers and scatters: of those the
    bundles are counted. On a GPU each kernel takes what its FLOPs or bytes take, or a
    launch.
    """
    import _hlo

    parts = {
        name: {"kernels": 0, "bytes": 0, "cycles": 0, "estimated_ms": 0.0}
        for name in _hlo.PARTS
    }
    missing = []
    for kernel in step.kernels:
        part, cycles = parts[kernel.part], kernel.cycles
        is_special = "custom" in kernel.kind or ":" in kernel.kind
        if target.clock and cycles is None and is_special:
            cycles, all_known = bundles.get(kernel.name, (None, False))
            if not all_known:
                what = "no estimate" if cycles is None else "of loops one trip alone"
                scope = kernel.scope or "the step"
                missing.append(f"{kernel.count} x {kernel.kind} of {scope}: {what}")
        seconds = max(
            kernel.flops / target.product_flops,
            kernel.num_bytes / target.bandwidth,
            target.launch_seconds,
        )
        if kernel.part == "collectives":
            share = 2 * (1 - 1 / target.num_devices)  # there and back, in a ring
            seconds = 10 * target.launch_seconds
            seconds += share * kernel.num_bytes / 2 / target.link
        elif target.clock and cycles is not None:
            seconds = cycles / target.clock
        elif target.clock and (is_special or kernel.kind.endswith("-start")):
            seconds = 0.0  # named as missing, or beside what is computed meanwhile
        part["kernels"] += kernel.count
        part["bytes"] += kernel.count * kernel.num_bytes
        part["cycles"] += kernel.count * (cycles or 0)
        part["estimated_ms"] += 1e3 * kernel.count * seconds
    return {name: part for name, part in parts.items() if part["kernels"]}, missing


def table(facts: dict[str, Any]) -> str:
    """Returns the facts for a person to read."""
    has_cycles = any(part["cycles"] for part in facts["parts"].values())
    lines = [
        f"{facts['config']} for {facts['num_devices']} x {facts['device']}: "
        f"{facts['num_parameters']:,} parameters, batch {facts['batch_size']:,}, "
        f"{facts['total_steps']:,} steps, {facts['steps_per_call']} a call",
        "",
        "compiled, of one training step on one device",
        f"  memory            {facts['memory_bytes_per_device'] / 2**20:,.0f} MiB",
        f"  moved             {facts['bytes_per_step'] / 1e9:.3f} GB",
        f"  convolutions      {facts['conv_flops_per_device'] / 1e9:,.1f} GFLOP at "
        f"batch {facts['conv_batch_per_device']} of {facts['batch_size']}; "
        f"results {_counts(facts['product_dtypes'])}",
        f"  collectives       {_counts(facts['collectives'])}; "
        f"{facts['gradient_all_reduces']} of the gradient, "
        f"{facts['gathered_batches']} of a whole batch of images",
        f"  loops             {facts['loops']}, of which "
        f"{facts['loops_until_data_say_so']} end when data say so",
        f"  conditionals      {facts['conditionals']}",
        f"  through the host  {facts['host_callbacks']} callbacks",
        f"  float64           {'yes' if facts['float64'] else 'none'}",
    ]
    if facts["launches"] is not None:
        lines.append(f"  launches          {facts['launches']}")
    heading = "cycles" if has_cycles else "kernels"
    lines += ["", f"  {'part':12} {heading:>12} {'MB':>10} {'estimated ms':>13}"]
    for name, part in facts["parts"].items():
        lines.append(
            f"  {name:12} {part[heading]:12,} {part['bytes'] / 1e6:10,.1f} "
            f"{part['estimated_ms']:13.3f}"
        )
    lines += [
        "",
        "estimated",
        f"  a step            {facts['estimated_step_ms']:.2f} ms",
        f"  all of training   {facts['estimated_training_seconds']:,.0f} s, without "
        "evaluation, compiling and saving",
    ]
    if evaluation := facts["evaluation"]:
        lines.append(
            f"  evaluation        {evaluation['estimated_step_ms']:.2f} ms for "
            f"{evaluation['batch_size']:,} images, "
            f"{evaluation['memory_bytes_per_device'] / 2**20:,.0f} MiB"
        )
    if facts["without_estimate"]:
        lines += ["", "  not, or not whole, in these times:"]
        lines += [f"    {text}" for text in facts["without_estimate"]]
    return "\n".join([*lines, "", *facts["notes"]])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"


if __name__ == "__main__":
    _cli.run()
