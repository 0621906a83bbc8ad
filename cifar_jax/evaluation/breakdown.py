"""Where the time of a training step goes, beside the least that it could take.

The time in which devices do something is shared out: each moment goes in equal parts to
what runs then. What is left of a step, timed without a trace, are gaps.

The floor counts, for a network whose BatchNorm is not fused into its convolutions,

- FLOPs: a forward pass for the forward convolutions, two for the backward ones, over
  the FLOP/s of a large matrix product;
- bytes: how often each element of a layer's output passes through the memory, in the
  dtype of the computation. Of a convolution's: 2 times for the forward one (written,
  and read by the next one once it is normalised), 4 for the backward ones (the input
  and twice the gradient read, a gradient written). Of a BatchNorm's: 3 times for its
  reductions (one forward, two backward), 5 for the elementwise rest (2 forward, 3
  backward). In bfloat16 that makes 28 bytes an element where each convolution has a
  BatchNorm. Over the bytes a second of a pass over a large array.

A category's floor is the larger of its two times.
"""

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.config import config_to_dict
from cifar_jax.evaluation import gpu
from cifar_jax.evaluation.hlo import CATEGORIES
from cifar_jax.evaluation.traces import Event
from cifar_jax.evaluation.workers import Worker

WARM_UP_STEPS = {"cpu": 3, "accelerator": 50}
TRACED_STEPS = {"cpu": 5, "accelerator": 20}
REPEATS = 5
# Forward passes, and passes through memory of a convolution's output.
_FLOPS = {"conv_forward": 1, "conv_backward": 2}
_PASSES = {
    "conv_elements": {"conv_forward": 2, "conv_backward": 4},
    "norm_elements": {"bn_reductions": 3, "elementwise": 5},
}
# Less of the time in known operations than this is not worth a table.
_KNOWN = 0.9
# Kernels that a GPU starts by itself, out of a recorded graph, may be nameless.
_NO_GRAPHS = "--xla_gpu_enable_command_buffer="


def measure(
    config: ConfigDict, *, steps: int | None = None, repeats: int = REPEATS
) -> dict[str, Any]:
    """Breaks a step of a recipe down.

    Args:
      config: As `cifar_jax.config` has it.
      steps: Of a timing and of the trace; None: by the device.
      repeats: Timings.

    Returns:
      The record: `table` makes it readable.

    Raises:
      UserError: If the recipe cannot run here.
    """
    with gpu.Watch() as watch:
        record = _measure(config, steps, repeats, environment={})
        named = 1 - record["unknown_share"]
        if named < _KNOWN:
            with contextlib.suppress(UserError):  # a flag that XLA does not know
                again = _measure(config, steps, repeats, {"XLA_FLAGS": _NO_GRAPHS})
                record = {**again, "usual_step_ms": record["step_ms"]}
        record["gpu"] = watch.summary()
    return {"kind": "breakdown", "config": config_to_dict(config), **record}


def _measure(config, steps, repeats, environment: Mapping[str, str]) -> dict[str, Any]:
    worker = Worker("breakdown", config, environment=environment)
    try:
        facts = worker.call("facts")
        kind = "cpu" if facts["device"].startswith("cpu") else "accelerator"
        worker.call("train", WARM_UP_STEPS[kind])
        traced = steps or TRACED_STEPS[kind]
        peaks = [worker.call("peaks")]
        seconds = worker.call("seconds", traced, repeats)
        events = worker.call("trace", traced)
        peaks.append(worker.call("peaks"))
        costs = worker.call("costs")
    finally:
        worker.close()
    if not events:
        raise UserError(
            f"JAX's profiler saw nothing on {facts['device']}; a step takes "
            f"{1000 * statistics.median(seconds):.3f} ms"
        )
    peak = {key: max(each[key] for each in peaks) for key in peaks[0]}
    step_ms = 1000 * statistics.median(seconds)
    return {
        **facts,
        "environment": dict(environment),
        "costs": costs,
        "peak": peak,
        "traced_steps": traced,
        "step_ms": step_ms,
        "step_ms_range": [1000 * min(seconds), 1000 * max(seconds)],
        "images_per_second": 1000 * facts["batch_size"] / step_ms,
        **summarize(events, costs, peak, steps=traced, step_ms=step_ms),
    }


def summarize(
    events: Sequence[Event],
    costs: Mapping[str, float],
    peak: Mapping[str, float],
    *,
    steps: int,
    step_ms: float,
) -> dict[str, Any]:
    """Returns a step's time and floor by category, with the gaps.

    Args:
      events: Of all steps.
      costs: As `Traced.costs` has them.
      peak: `flops` and `bytes_per_second`.
      steps: That were traced.
      step_ms: Of one without a trace.
    """
    shares = share_out(events)
    floors = floor_ms(costs, peak)
    categories, busy = {}, 0.0
    for name in (*CATEGORIES, "control"):
        ms = shares.get(name, 0.0) / 1e6 / steps
        if ms or name in floors:
            number = sum(event.category == name for event in events) / steps
            categories[name] = {"ms": ms, "floor_ms": floors.get(name), "ops": number}
            busy += ms
    unknown = categories.get("unknown", {"ms": 0.0})["ms"]
    first, last = min(e.start for e in events), max(e.end for e in events)
    return {
        "categories": categories,
        "busy_ms": busy,
        "gaps_ms": max(step_ms - busy, 0.0),
        "traced_step_ms": (last - first) / 1e6 / steps,
        "unknown_share": unknown / busy if busy else 1.0,
        "floor_ms": sum(floors.values()),
        "flops_floor_ms": 1000 * 3 * costs["flops"] / peak["flops"],
    }


def share_out(events: Sequence[Event]) -> dict[str, float]:
    """Returns the time of each category, in nanoseconds.

    Each moment goes in equal parts to the events that run then; to those that only hold
    others ("control"), if nothing else runs.
    """
    marks = sorted(
        (time, step, event.category)
        for event in events
        for time, step in ((event.start, 1), (event.end, -1))
        if event.end > event.start
    )
    running, shares, before = {}, {}, 0.0
    for time, step, category in marks:
        works = {k: n for k, n in running.items() if n and k != "control"}
        works = works or {k: n for k, n in running.items() if n}
        for name, number in works.items():
            part = (time - before) * number / sum(works.values())
            shares[name] = shares.get(name, 0.0) + part
        running[category] = running.get(category, 0) + step
        before = time
    return shares


def floor_ms(costs: Mapping[str, float], peak: Mapping[str, float]) -> dict[str, float]:
    """Returns the least milliseconds of a step, by category: see the module."""
    num_bytes = {
        name: passes * costs[elements] * costs["dtype_bytes"]
        for elements, by_name in _PASSES.items()
        for name, passes in by_name.items()
    }
    # uint8 images are read and written; read again, and written for the network.
    num_bytes["gather"] = 2 * costs["pixels"]
    num_bytes["augment"] = (1 + costs["dtype_bytes"]) * costs["pixels"]
    # Weights and the optimiser's state are read and written, gradients read.
    state = costs["parameter_bytes"] + costs["optimizer_bytes"]
    num_bytes["optimizer"] = 2 * state + costs["parameter_bytes"]
    return {
        name: 1000
        * max(
            number / peak["bytes_per_second"],
            _FLOPS.get(name, 0) * costs["flops"] / peak["flops"],
        )
        for name, number in num_bytes.items()
    }


def table(record: Mapping[str, Any]) -> str:
    """Returns a record as text: a line for each category."""
    step = record["step_ms"]
    lines = [f"{'':16}{'ms':>9}{'share':>8}{'floor':>9}{'ops':>8}"]
    for name, each in record["categories"].items():
        floor = "" if each["floor_ms"] is None else f"{each['floor_ms']:.3f}"
        lines.append(
            f"{name:16}{each['ms']:9.3f}{each['ms'] / step:8.1%}{floor:>9}"
            f"{each['ops']:8.1f}"
        )
    lines += [
        f"{'gaps':16}{record['gaps_ms']:9.3f}{record['gaps_ms'] / step:8.1%}",
        f"{'a step':16}{step:9.3f}{'':8}{record['floor_ms']:9.3f}",
        f"{record['images_per_second']:,.0f} images/s in batches of "
        f"{record['batch_size']}, {record['dtype']}; FLOPs alone would take "
        f"{record['flops_floor_ms']:.3f} ms ({record['flops_floor_ms'] / step:.1%}) at "
        f"{record['peak']['flops'] / 1e12:.3g} TFLOP/s; "
        f"{record['peak']['bytes_per_second'] / 1e9:,.0f} GB/s",
        f"{record['num_devices']} x {record['device']}; a step with the trace: "
        f"{record['traced_step_ms']:.3f} ms, of which {record['busy_ms']:.3f} busy",
    ]
    if "usual_step_ms" in record:
        lines.append(
            f"traced with {record['environment']['XLA_FLAGS']}, for the names; without "
            f"it a step takes {record['usual_step_ms']:.3f} ms"
        )
    if record["gpu"]:
        lines.append(gpu.line(record["gpu"]))
    return "\n".join(lines)
