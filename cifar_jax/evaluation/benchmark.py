"""Speed of this project against other ways to train the same network.

The contenders take turns of about equal length, round after round, so that what else
the machine does meets all of them; what counts are medians over the rounds, and of the
ratios within a round.
"""

import contextlib
import importlib.util
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.evaluation import gpu
from cifar_jax.evaluation.task import Task, comparable
from cifar_jax.evaluation.turns import (
    Protocol,
    images_per_second,
    take_turns,
    times_as_fast,
    turn_lengths,
)
from cifar_jax.evaluation.workers import CONTENDERS, Worker

# An accelerator tunes itself in its first steps, and heats up.
PROTOCOLS = {"cpu": Protocol(3, 10, 3.0), "accelerator": Protocol(50, 5, 20.0)}
# Of the time that is left, what a contender may take to compile.
COMPILE_SHARE = 0.5
# Largest distance of logits from ours, as a share of their norm.
LOGITS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
_KINDS = {"train": 3, "infer": 1}  # passes: backward counts as two forward ones


def available() -> list[str]:
    """Returns the contenders whose packages are installed."""
    torch = importlib.util.find_spec("torch") is not None
    return [name for name in CONTENDERS if torch or not name.startswith("torch")]


def compare(
    config: ConfigDict,
    names: Sequence[str],
    *,
    kinds: Sequence[str] = tuple(_KINDS),
    rounds: int | None = None,
    seconds: float | None = None,
    minutes: float = 0.0,
) -> dict[str, Any]:
    """Measures contenders side by side.

    Args:
      config: As `cifar_jax.config` has it; see `comparable` for what is changed.
      names: Of `CONTENDERS`, "ours" among them.
      kinds: Of "train" and "infer".
      rounds: Turns that each contender has; None: by the device (`PROTOCOLS`).
      seconds: Length of a turn, about; None: likewise.
      minutes: For all of it; turns become shorter where they must; 0: no limit.

    Returns:
      The record: `table` makes it readable.

    Raises:
      UserError: If a comparison would not be fair, or this project's step fails.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else None
    config, workers, load = comparable(config), [], os.getloadavg()[0]
    faults = {}
    try:
        workers.append(Worker("ours", config))
        task = workers[0].call("task")
        for name in names:
            if name != "ours":
                argument = task if name.startswith("torch") else config
                with _noting(faults, name):
                    workers.append(Worker(name, argument))
        facts = {worker.name: worker.call("facts") for worker in workers}
        checks = _check_fairness(workers, facts, task)
        on_cpu = facts["ours"]["device"].startswith("cpu")
        protocol = PROTOCOLS["cpu" if on_cpu else "accelerator"].but(rounds, seconds)
        firsts = {}
        for worker in list(workers):
            with _noting(faults, worker.name):
                firsts[worker.name] = _first_calls(worker, kinds, deadline)
        workers = [worker for worker in workers if worker.name in firsts]
        lengths = turn_lengths(workers, kinds, protocol, deadline)
        with gpu.Watch() as watch:
            turns = take_turns(workers, lengths, task.batch_size, protocol.rounds)
            state = watch.summary()
        peak = max(worker.call("peak_flops") for worker in workers)
        memory = {worker.name: worker.call("peak_memory") for worker in workers}
    finally:
        for worker in workers:
            worker.close()
    return {
        "config": config.to_dict(),
        "flops_per_image": task.flops_per_image,
        "peak_flops": peak,
        "checks": checks,
        "rounds": protocol.rounds,
        "warm_up_steps": protocol.warm_up,
        "gpu": state,
        "faults": faults,
        "load": {"before": load, "after": os.getloadavg()[0]},
        "contenders": {
            name: facts[name]
            | firsts[name]
            | {"peak_memory_bytes": memory[name]}
            | {
                kind: _summary(turns, name, kind, task.flops_per_image, peak)
                for kind in kinds
            }
            for name in firsts
        },
    }


@contextlib.contextmanager
def _noting(faults: dict[str, str], name: str) -> Iterator[None]:
    """Goes on without a contender that fails, unless that is ours."""
    try:
        yield
    except UserError as fault:
        if name == "ours":
            raise
        faults[name] = str(fault)


def _first_calls(
    worker: Worker, kinds: Sequence[str], deadline: float | None
) -> dict[str, Any]:
    """Returns the seconds of the first calls, which compile."""
    limit = None
    if deadline is not None and worker.name != "ours":
        limit = max(COMPILE_SHARE * (deadline - time.monotonic()), 1.0)
    seconds = {kind: worker.timed(kind, 1, limit=limit)[1].wall for kind in kinds}
    return {"first_call_seconds": seconds}


def _summary(turns, name, kind, flops_per_image, peak) -> dict[str, Any]:
    images, spent = zip(*turns[kind][name], strict=True)
    rates = images_per_second(turns[kind][name])
    flops = rates["median"] * flops_per_image * _KINDS[kind]
    return {
        "images_per_second": rates,
        "turn_seconds": statistics.median(each.wall for each in spent),
        "flops": flops,
        "share_of_peak": flops / peak,
        "host_share": statistics.median(each.thread / each.wall for each in spent),
        # of all cores; other work on the machine changes it less than the rate
        "cpu_seconds_per_image": statistics.median(
            each.process / count for count, each in zip(images, spent, strict=True)
        ),
        "ours_is_faster": times_as_fast(turns[kind]["ours"], turns[kind][name]),
    }


def _check_fairness(workers, facts, task: Task) -> dict[str, Any]:
    """Returns what the contenders agree in.

    Raises:
      UserError: If they do not.
    """
    for key in ("num_parameters", "batch_size", "dtype"):
        values = {name: each[key] for name, each in facts.items()}
        if len(set(values.values())) > 1:
            raise UserError(f"the contenders differ in their {key}: {values}")
    random, dtype = np.random.default_rng(0), facts["ours"]["dtype"]
    variables = random_variables(random, task.shapes)
    images = random.normal(size=(8, *task.image_shape)).astype(np.float32)
    logits = {w.name: w.call("logits", variables, images) for w in workers}
    scale = np.linalg.norm(logits["ours"])
    distances = {
        name: float(np.linalg.norm(each - logits["ours"]) / scale)
        for name, each in logits.items()
    }
    furthest = np.max(list(distances.values()))  # NaN, if there is one
    if not furthest <= LOGITS_TOLERANCE[dtype]:
        raise UserError(
            f"logits of shared weights lie up to {furthest:.2g} apart, as a share; the "
            f"limit is {LOGITS_TOLERANCE[dtype]}: the networks differ"
        )
    return {
        "num_parameters": facts["ours"]["num_parameters"],
        "batch_size": task.batch_size,
        "dtype": dtype,
        "augment": ["random_crop", "random_flip"],
        "optimizer": task.optimizer["name"],
        "distance_of_logits": distances,
    }


def random_variables(random: np.random.Generator, shapes: dict) -> dict:
    """Returns weights and statistics like those of a network in training, by path."""
    values = {}
    for path, shape in shapes.items():
        value = random.normal(size=shape) * 0.1
        if path[-1] == "kernel":
            value *= 10 * np.sqrt(2 / np.prod(shape[:-1]))
        elif path[-1] in ("scale", "var"):
            value = random.uniform(0.5, 1.5, shape)
        values[path] = value.astype(np.float32)
    return values


def table(record: dict[str, Any]) -> str:
    """Returns a record as text: a line for each kind and contender."""
    lines = [
        f"{'':22}{'images/s':>10} {'(range)':>17}{'TFLOP/s':>9}{'of peak':>8}"
        f"{'ours is':>9} {'(range)':>13}{'host':>7}{'CPU/image':>11}{'first call':>11}"
        f"{'memory':>9}"
    ]
    for kind in _KINDS:
        for name, each in record["contenders"].items():
            if kind in each:
                lines.append(_line(kind, name, each))
    checks = record["checks"]
    lines.append(
        f"same: {checks['num_parameters']:,} parameters, batch "
        f"{checks['batch_size']}, {checks['dtype']}, "
        f"{' and '.join(checks['augment'])}, {checks['optimizer']}; logits of shared "
        f"weights within {max(checks['distance_of_logits'].values()):.1e}"
    )
    lines.append(
        f"peak {record['peak_flops'] / 1e12:.3g} TFLOP/s in a matrix product; "
        f"{record['contenders']['ours']['device']}; load before "
        f"{record['load']['before']:.1f}, after {record['load']['after']:.1f}"
    )
    lines += record["faults"].values()
    if state := record["gpu"]:
        lines.append(gpu.line(state))
    elif record["load"]["before"] > 0.5:
        lines.append(
            "the machine was busy before: on a CPU the threads that OpenMP has wait "
            "for each other lose far more by that than XLA's do (try "
            "OMP_WAIT_POLICY=passive); compare the CPU's time for an image"
        )
    return "\n".join(lines)


def _line(kind: str, name: str, each: dict[str, Any]) -> str:
    result = each[kind]
    rate, ratio = result["images_per_second"], result["ours_is_faster"]
    span = f"({rate['min']:,.0f}-{rate['max']:,.0f})"
    ratios = f"({ratio['min']:.2f}-{ratio['max']:.2f})"
    return (
        f"{kind} {name:{21 - len(kind)}}{rate['median']:10,.0f} {span:>17}"
        f"{result['flops'] / 1e12:9.3g}{result['share_of_peak']:8.1%}"
        f"{ratio['median']:8.2f}x {ratios:>13}{result['host_share']:7.1%}"
        f"{result['cpu_seconds_per_image'] * 1000:8.3g} ms"
        f"{each['first_call_seconds'][kind]:9.1f} s"
        f"{each['peak_memory_bytes'] / 2**20:6,.0f} MB"
    )
