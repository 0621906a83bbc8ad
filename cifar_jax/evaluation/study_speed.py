"""Speed of several runs of a config: trained together, and in other arrangements.

Each arrangement trains them from the config to result.json, in new processes and with
nothing compiled before. They take turns, round after round, so that what else the
machine does meets all of them; what counts are medians over the rounds, and of the
ratios within a round.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cifar_jax import UserError

FORMS = ("each", "unrolled", "vmap")

CLOCKS = ("compile", "train", "evaluate")


class Arrangement(NamedTuple):
    """How runs are trained.

    Attributes:
      form: Of `joined.FORMS`; None: one run after another.
      num_processes: That share the runs, each on a core of its own.
      cpu_devices: That a process divides the CPU into.
      spread: Whether each run has one of the devices, and not all of them.
    """

    form: str | None
    num_processes: int = 1
    cpu_devices: int = 1
    spread: bool = False


class Turn(NamedTuple):
    """What a process has measured.

    Attributes:
      start: Of the first run, in seconds since the epoch.
      end: Of the last.
      cpu: Seconds of all cores, which other work on the machine changes less.
      seconds: By `CLOCKS`, all its runs together.
      losses: By run: of metrics.jsonl, and at last the test's, if that is scored.
    """

    start: float
    end: float
    cpu: float
    seconds: dict[str, float]
    losses: list[list[float]]


def arrangements(num_cores: int) -> dict[str, Arrangement]:
    """Returns what there is to compare.

    Args:
      num_cores: Of the CPU that trains; 0: an accelerator does.
    """
    found = {"apart": Arrangement(None)}
    if num_cores > 1:
        found["apart_divided"] = Arrangement(None, cpu_devices=num_cores)
        found["processes"] = Arrangement(None, num_processes=num_cores)
    for form in FORMS:
        found[form] = Arrangement(form)
        if num_cores > 1 and form != "vmap":
            for name, spread in (("divided", False), ("spread", True)):
                found[f"{form}_{name}"] = Arrangement(form, 1, num_cores, spread)
    return found


def num_cores() -> int:
    """Returns the number of this process's cores, or 0 if JAX has an accelerator."""
    with _processes(1) as processes:
        backend = processes.submit(_backend).result()
    return len(os.sched_getaffinity(0)) if backend == "cpu" else 0


def compare(
    config: ConfigDict, names: Sequence[str], *, num_runs: int, rounds: int
) -> dict[str, Any]:
    """Measures arrangements side by side.

    Args:
      config: As `cifar_jax.config` has it; the runs have the seeds 0, 1 and so on.
      names: Of `arrangements`; "apart" is always among them.
      num_runs: How many are trained.
      rounds: Turns of each arrangement.

    Returns:
      The record: `table` makes it readable.

    Raises:
      UserError: If an arrangement is unknown here.
    """
    known = arrangements(num_cores())
    for name in names:
        if name not in known:
            raise UserError(f"arrangement {name!r} is not here; use {', '.join(known)}")
    names = [name for name in known if name in ("apart", *names)]
    configs = [config.copy_and_resolve_references() for _ in range(num_runs)]
    for seed, each in enumerate(configs):
        each.seed = seed
    load, turns = os.getloadavg()[0], {name: [] for name in names}
    for number in range(rounds):
        # Every other round backwards: no arrangement always follows the same one.
        for name in names[:: -1 if number % 2 else 1]:
            turns[name].append(_turn(known[name], configs))
    return {
        "config": config.to_dict(),
        "num_runs": num_runs,
        "rounds": rounds,
        "load": {"before": load, "after": os.getloadavg()[0]},
        "cores": len(os.sched_getaffinity(0)),
        "arrangements": {name: _summary(turns[name], turns["apart"]) for name in names},
    }


def _turn(arrangement: Arrangement, configs: Sequence[ConfigDict]) -> Turn:
    """Trains all runs once."""
    count = arrangement.num_processes
    cores = sorted(os.sched_getaffinity(0)) if count > 1 else [None]
    with _processes(count) as processes:
        parts = [
            processes.submit(_train, arrangement, configs[n::count], cores[n])
            for n in range(min(count, len(configs)))
        ]
        parts = [part.result() for part in parts]
    return Turn(
        start=min(part.start for part in parts),
        end=max(part.end for part in parts),
        cpu=sum(part.cpu for part in parts),
        seconds={clock: max(part.seconds[clock] for part in parts) for clock in CLOCKS},
        losses=[parts[n % count].losses[n // count] for n in range(len(configs))],
    )


def _processes(count: int) -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    return concurrent.futures.ProcessPoolExecutor(count, context)


def _backend() -> str:
    import jax

    return jax.default_backend()


def _train(
    arrangement: Arrangement, configs: Sequence[ConfigDict], core: int | None
) -> Turn:
    """Trains runs in this process, which is new."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    from cifar_jax.training import host_memory

    host_memory.keep_freed()
    import jax

    from cifar_jax.data import sources
    from cifar_jax.training import loop, sharding, together
    from cifar_jax.training.tracking import RunDirectory

    sharding.divide_cpu(arrangement.cpu_devices)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cifar_jax-"))
        silence = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(silence))
        stack.enter_context(sources.keeping())  # as the worker of a study does
        # As a command has it: the second run finds what the first has compiled.
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "programs"))
        paths = [pathlib.Path(folder, str(config.seed)) for config in configs]
        start, cpu = time.time(), time.process_time()
        if arrangement.form is None:
            results = [
                loop.train_and_evaluate(config, path)
                for config, path in zip(configs, paths, strict=True)
            ]
        else:
            results = together.train_together(
                configs, paths, form=arrangement.form, spread=arrangement.spread
            )
        end, cpu = time.time(), time.process_time() - cpu
        rows = [RunDirectory(path).rows() for path in paths]
    for result in results:
        if isinstance(result, Exception):
            raise result
    return Turn(
        start=start,
        end=end,
        cpu=cpu,
        seconds={clock: _total(results, clock) for clock in CLOCKS},
        losses=[
            [each["loss"] for each in (*of_run, result["test"]) if each]
            for of_run, result in zip(rows, results, strict=True)
        ],
    )


def _total(results: Sequence[dict], clock: str) -> float:
    """Returns the seconds of all runs; what they did together counts once."""
    share = 1 if clock == "evaluate" else len(results)
    seconds = [
        result["seconds"][clock] / (share if result["together"] > 1 else 1)
        for result in results
    ]
    return sum(seconds)


def _summary(turns: Sequence[Turn], apart: Sequence[Turn]) -> dict[str, Any]:
    seconds = {
        "total": [turn.end - turn.start for turn in turns],
        "cpu": [turn.cpu for turn in turns],
        **{clock: [turn.seconds[clock] for turn in turns] for clock in CLOCKS},
    }
    ratios = {
        "total": [
            (b.end - b.start) / (a.end - a.start)
            for a, b in zip(turns, apart, strict=True)
        ],
        "train": [
            b.seconds["train"] / a.seconds["train"]
            for a, b in zip(turns, apart, strict=True)
        ],
    }
    pairs = [
        (x, y)
        for a, b in zip(turns[0].losses, apart[0].losses, strict=True)
        for x, y in zip(a, b, strict=True)
    ]
    return {
        "seconds": {name: _spread(values) for name, values in seconds.items()},
        "times_as_fast": {name: _spread(values) for name, values in ratios.items()},
        "largest_distance_of_losses": max(abs(x - y) for x, y in pairs),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def table(record: dict[str, Any]) -> str:
    """Returns a record as text: a line for each arrangement."""
    lines = [
        f"{record['num_runs']} runs{'':10}{'seconds':>8} {'(range)':>15}{'compile':>9}"
        f"{'train':>8}{'evaluate':>10}{'faster':>8} {'(range)':>13}{'in training':>13}"
        f"{'CPU':>7}{'losses':>9}"
    ]
    for name, each in record["arrangements"].items():
        seconds, faster = each["seconds"], each["times_as_fast"]
        total, ratio = seconds["total"], faster["total"]
        span = f"({total['min']:.1f}-{total['max']:.1f})"
        ratios = f"({ratio['min']:.2f}-{ratio['max']:.2f})"
        lines.append(
            f"{name:16}{total['median']:8.1f} {span:>15}"
            f"{seconds['compile']['median']:9.1f}{seconds['train']['median']:8.1f}"
            f"{seconds['evaluate']['median']:10.1f}{ratio['median']:7.2f}x {ratios:>13}"
            f"{faster['train']['median']:12.2f}x{seconds['cpu']['median']:7.1f}"
            f"{each['largest_distance_of_losses']:9.0e}"
        )
    load = record["load"]
    lines.append(
        f"{record['cores']} cores; load before {load['before']:.1f}, after "
        f"{load['after']:.1f}; losses: the largest distance from those of runs apart"
    )
    return "\n".join(lines)
