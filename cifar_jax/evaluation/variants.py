"""What else a training step could be: each way beside the step as it is.

Each variant is a process with flags, config keys or a network of its own. The step as
it is and the variants of a group take turns, and what counts are medians over the
rounds, and of the ratios within a round.
"""

import copy
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.config import config_diff, config_to_dict
from cifar_jax.evaluation import gpu
from cifar_jax.evaluation.output import write_json
from cifar_jax.evaluation.turns import (
    Protocol,
    images_per_second,
    take_turns,
    times_as_fast,
    turn_lengths,
)
from cifar_jax.evaluation.variant_list import GROUPS, Variant
from cifar_jax.evaluation.workers import Worker

BASELINE = "as it is"
PROTOCOLS = {
    "cpu": Protocol(3, 5, 2.0),
    "accelerator": Protocol(50, 5, 4.0),
}


def measure(
    config: ConfigDict,
    variants: Sequence[Variant],
    *,
    recipe: str,
    output: pathlib.Path,
    rounds: int | None = None,
    seconds: float | None = None,
    minutes: float = 0.0,
) -> dict[str, Any]:
    """Measures variants, group by group, or goes on with those that are missing.

    Args:
      config: The recipe.
      variants: Which.
      recipe: Its name.
      output: The file, written after each group.
      rounds: Turns that each has; None: by the device.
      seconds: Length of a turn; None: likewise.
      minutes: After which no group is begun; 0: no limit.

    Returns:
      What the file holds: `table` makes it readable.

    Raises:
      UserError: If the step as it is cannot run, or the file is another config's.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else math.inf
    record = _read(output, config, recipe)
    record["missing"] = _missing(record, variants)
    if not record["missing"]:
        return record
    baseline = _start(config, Variant("", BASELINE))
    try:
        facts = baseline.call("facts")
        if record["device"] not in (None, facts["device"]):
            raise UserError(
                f"{output} was begun on {record['device']}, and here is "
                f"{facts['device']}; choose another --output"
            )
        record |= facts
        kind = "cpu" if facts["device"].startswith("cpu") else "accelerator"
        protocol = PROTOCOLS[kind].but(rounds, seconds)
        if record["pools_ms"] is None:
            record["pools_ms"] = baseline.call("pools", 20)
        longest = 0.0
        for group in GROUPS:
            wanted = [v for v in variants if v.name in record["missing"]]
            wanted = [variant for variant in wanted if variant.group == group]
            start = time.monotonic()
            if not wanted or start + longest > deadline:
                continue
            found = _take_turns(config, baseline, wanted, protocol, kind)
            record["variants"] |= found
            record["missing"] = _missing(record, variants)
            write_json(output, record)
            longest = max(longest, time.monotonic() - start)
    finally:
        baseline.close()
    return record


def _read(output: pathlib.Path, config: ConfigDict, recipe: str) -> dict[str, Any]:
    plain = config_to_dict(config)
    if not output.exists():
        return {
            "kind": "variants",
            "recipe": recipe,
            "config": plain,
            "device": None,
            "pools_ms": None,
            "variants": {},
        }
    record = json.loads(output.read_text())
    changed = config_diff(record["config"], plain)
    if changed:
        raise UserError(
            f"{output} was made with another config ({'; '.join(changed.values())}); "
            "choose another --output"
        )
    return record


def _missing(record: Mapping[str, Any], variants: Sequence[Variant]) -> list[str]:
    return [v.name for v in variants if v.name not in record["variants"]]


def _start(config: ConfigDict, variant: Variant) -> Worker:
    changed = copy.deepcopy(config)
    changed.unlock()
    changed.update_from_flattened_dict(variant.keys)
    environment = dict(variant.environment)
    if variant.flags:
        environment["XLA_FLAGS"] = variant.flags
    return Worker(
        "variant",
        (changed, variant.change),
        name=variant.name,
        environment=environment,
    )


def _take_turns(
    config: ConfigDict,
    baseline: Worker,
    variants: Sequence[Variant],
    protocol: Protocol,
    kind: str,
) -> dict[str, Any]:
    """Returns what is known of each variant of a group."""
    found, workers = {}, []
    try:
        for variant in variants:
            found[variant.name] = {**dataclasses.asdict(variant), "gpu": None}
            try:
                _refuse(variant, kind)
                workers.append(_start(config, variant))
                first = workers[-1].timed("train", 1)[1].wall
                found[variant.name]["first_call_seconds"] = first
            except UserError as fault:
                found[variant.name]["fault"] = str(fault)
        workers = [w for w in workers if "fault" not in found[w.name]]
        if workers:
            _compare(baseline, workers, protocol, found)
    finally:
        for worker in workers:
            worker.close()
    return found


def _refuse(variant: Variant, kind: str) -> None:
    """Raises UserError for a variant that cannot run here."""
    if variant.device == "gpu" and kind == "cpu":
        raise UserError("needs a GPU")
    if fault := unknown_flag(variant.flags):
        raise UserError(fault)


def _compare(
    baseline: Worker, workers: Sequence[Worker], protocol: Protocol, found: dict
) -> None:
    """Fills in how fast the variants are."""
    together, usual = [baseline, *workers], baseline.call("task")
    lengths = turn_lengths(together, ["train"], protocol)
    with gpu.Watch() as watch:
        turns = take_turns(together, lengths, usual.batch_size, protocol.rounds)
        state = watch.summary()
    peak = baseline.call("peak_flops")
    for worker in workers:
        found[worker.name] |= {
            "num_parameters": worker.call("facts")["num_parameters"],
            "peak_flops": peak,
            "gpu": state,
            **_summary(turns["train"], worker.name, worker.call("task"), usual),
        }


def _summary(turns, name: str, task, baseline) -> dict[str, Any]:
    """Returns the speed of a variant, and how it compares with the step as it is."""
    own, usual = images_per_second(turns[name]), images_per_second(turns[BASELINE])
    return {
        "images_per_second": own,
        "baseline_images_per_second": usual,
        "times_as_fast": times_as_fast(turns[name], turns[BASELINE]),
        "flops": 3 * task.flops_per_image * own["median"],
        "baseline_flops": 3 * baseline.flops_per_image * usual["median"],
    }


def unknown_flag(flags: str) -> str | None:
    """Returns what is wrong with flags of XLA, which ends a process, or None."""
    if not flags:
        return None
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if not done.returncode:
        return None
    if "Unknown flag" in done.stderr:
        return f"{flags} is not known to this version of XLA"
    return f"{flags}: {done.stderr.strip().splitlines()[-1]}"


def table(record: Mapping[str, Any]) -> str:
    """Returns a record as text: a line for each variant."""
    lines = [
        f"{'':38}{'images/s':>10}{'as it is':>10}{'times as fast':>15}"
        f"{'(range)':>14}{'TFLOP/s':>9}{'first call':>12}"
    ]
    for name, each in record["variants"].items():
        if "fault" in each:
            lines.append(f"{name:38}{each['fault']}")
            continue
        ratio = each["times_as_fast"]
        span = f"({ratio['min']:.3f}-{ratio['max']:.3f})"
        lines.append(
            f"{name:38}{each['images_per_second']['median']:10,.0f}"
            f"{each['baseline_images_per_second']['median']:10,.0f}{ratio['median']:14.3f}x"
            f"{span:>14}{each['flops'] / 1e12:9.3g}"
            f"{each['first_call_seconds']:10.1f} s"
        )
    if record["pools_ms"]:
        pools = (f"{name} {ms:.3g} ms" for name, ms in record["pools_ms"].items())
        lines.append(f"2x2 pooling and its gradient: {'; '.join(pools)}")
    if record["missing"]:
        lines.append(f"left: {', '.join(record['missing'])}; the same command goes on")
    else:
        lines.append("all variants are done")
    return "\n".join(lines)
