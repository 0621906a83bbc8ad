"""Speed of a config's network here, in plain Flax, and in PyTorch, eager and compiled.

python scripts/benchmark.py --config configs/resnet_4p9m.py --output benchmark.json

First the contenders must agree in parameters, batch, dtype and logits. Then they take
turns of about equal length, round after round, so that what else the machine does meets
all of them; what counts are medians over the rounds, and of ratios within a round. All
crop and flip, at a small constant learning rate, without what not all of them have.
"""

import concurrent.futures
import contextlib
import copy
import importlib.util
import multiprocessing
import os
import pathlib
import time
from typing import Any

import _contenders
import _measure
import numpy as np

from cifar_jax import UserError, _cli
from cifar_jax import config as config_lib

KINDS = {"train": 3, "infer": 1}  # passes: backward counts as two forward ones
# By platform, steps that an accelerator tunes itself in, rounds, seconds of a turn.
PROTOCOLS = {"cpu": (3, 10, 3.0), "accelerator": (50, 5, 20.0)}
# Largest distance of logits from ours, as a share of their norm.
LOGITS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
# What not every contender does is off.
COMMON = {
    "model.dropout": 0.0,
    "model.logits_dropout": 0.0,
    "model.block_dropout": 0.0,
    "model.stochastic_depth": 0.0,
    "init.frozen": "0%",
    "optim.gradient_clip": 0.0,
    "optim.weight_decay_mask": "kernels",
    "optim.lr_multipliers": (),
    "optim.sam_rho": 0.0,
    "optim.learning_rate": 1e-3,
    "schedule.name": "constant",
    "schedule.warmup": "0%",
    "schedule.momentum_range": None,
    "train.accumulate": 1,
    "train.deterministic": False,
    "train.repeats": 1,
    "train.ema_decay": 0.0,
    "prune.sparsity": 0.0,
}
OPTIMIZERS = ("adam", "adamw", "sgd")


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    names = ", ".join(_contenders.CONTENDERS)
    flags.add_list("contenders", f"beside ours, of {names} [all that can run here]")
    flags.add_list("kinds", "what is measured", ",".join(KINDS))
    flags.add_integer("rounds", "turns of each contender", lower_bound=1)
    flags.add_float("seconds", "length of a turn", lower_bound=0.0)
    flags.add_float("minutes", "time limit; 0: none", 0.0, lower_bound=0.0)
    flags.add_string("output", "file [results/benchmarks/ and the config's name]")
    flags.add_string("cache", "folder that keeps compiled programs [compile all anew]")


def main(flags: _cli.Flags) -> None:
    """Measures, writes the file and prints a table."""
    config_lib.check(flags.config)
    for flag, choices in (("contenders", _contenders.CONTENDERS), ("kinds", KINDS)):
        for name in getattr(flags, flag) or ():
            if name not in choices:
                raise _cli.UsageError(
                    f"--{flag} has {name!r}; use {', '.join(choices)}"
                )
    names = flags.contenders or available()
    path = f"results/benchmarks/{flags.config_name}.json"
    record = compare(
        comparable(flags.config),
        ["ours", *(name for name in names if name != "ours")],
        kinds=flags.kinds,
        rounds=flags.rounds,
        seconds=flags.seconds,
        minutes=flags.minutes,
        cache=flags.cache,
    )
    _measure.write_json(pathlib.Path(flags.output or path), record)
    print(table(record))


def available() -> list[str]:
    """Returns the contenders whose packages are here; autotuning is for GPUs."""
    names = [name for name in _contenders.CONTENDERS if name != "ours_float32"]
    if importlib.util.find_spec("torch") is None:
        return [name for name in names if not name.startswith("torch")]
    return names if pathlib.Path("/dev/nvidia0").exists() else names[:-1]


def comparable(config):
    """Returns a config of which all contenders do every part.

    Where it has an optimizer that PyTorch lacks, all take SGD.
    """
    config = copy.deepcopy(config)
    config.augment = (
        dict(name="random_crop", padding=_contenders.CROP_PADDING),
        dict(name="random_flip"),
    )
    config.update_from_flattened_dict(COMMON)
    config.distill.teacher = None
    if config.optim.name not in OPTIMIZERS:
        config.optim.name = "sgd"
    return config


class Worker:
    """A contender in a process of its own.

    Args:
      name: Name of the contender.
      argument: What it is made from: a config, or for PyTorch a task.
      cache: Folder that keeps compiled programs; None: all are compiled anew.

    Raises:
      UserError: If it cannot be made here.
    """

    def __init__(self, name: str, argument: Any, cache: str | None = None):
        self.name = name
        self._pool = concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn")
        )
        self._submit(None, _contenders.start, name, argument, cache)

    def call(self, method: str, *arguments: Any) -> Any:
        """Returns what a method of the contender returns."""
        return self.timed(method, *arguments)[0]

    def timed(
        self, method: str, *arguments: Any, limit: float | None = None
    ) -> tuple[Any, float, float]:
        """Returns also the seconds it took, by the clock and of the calling thread."""
        return self._submit(limit, _contenders.call, method, *arguments)

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, limit: float | None, function, *arguments: Any) -> Any:
        future = self._pool.submit(function, *arguments)
        try:
            return future.result(limit)
        except TimeoutError as error:
            for process in multiprocessing.active_children():
                if process.pid in self._pool._processes:
                    process.kill()
            raise UserError(f"{self.name} took more than {limit:.0f} s") from error
        except Exception as error:  # of PyTorch's compiler, say
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.name} cannot be measured here: {reason}") from error


def compare(
    config,
    names: list[str],
    *,
    kinds: list[str],
    rounds: int | None,
    seconds: float | None,
    minutes: float,
    cache: str | None = None,
) -> dict[str, Any]:
    """Measures contenders side by side; the first one is "ours".

    Args:
      config: Config, as `comparable` returns it.
      names: Names of contenders.
      kinds: Some of `KINDS`.
      rounds: Turns of each contender; None: by the platform, as `PROTOCOLS` has it.
      seconds: Length of a turn, about; None: by the platform.
      minutes: Time limit, for which turns are made shorter; 0: none.
      cache: Folder that keeps compiled programs; None: all are compiled anew, and the
        first calls tell how long that takes.

    Raises:
      UserError: If the comparison is not fair, or ours fails. Others may fail.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else None
    load, faults = os.getloadavg()[0], {}
    with contextlib.ExitStack() as stack:
        ours = Worker(names[0], config, cache)
        stack.callback(ours.close)
        task = ours.call("task")
        workers = [ours, *_start_others(names[1:], config, task, cache, stack, faults)]
        facts = {worker.name: worker.call("facts") for worker in workers}
        checks = check_fairness(workers, facts, task)
        on_cpu = facts["ours"]["device"].startswith("cpu")
        protocol = PROTOCOLS["cpu" if on_cpu else "accelerator"]
        warm_up = protocol[0]
        rounds = protocol[1] if rounds is None else rounds
        seconds = protocol[2] if seconds is None else seconds
        firsts, steps = _warm_up(workers, kinds, warm_up, deadline, faults)
        workers = [worker for worker in workers if worker.name in firsts]
        lengths = _turn_lengths(steps, rounds, seconds, deadline)
        with _measure.GpuClocks() as clocks:
            turns = take_turns(workers, lengths, rounds)
            gpu = clocks.summary()
        # before the product, whose matrices would count
        memory = {worker.name: worker.call("peak_memory") for worker in workers}
        peak = max(worker.call("matrix_peak") for worker in workers)
    return {
        "config": config.to_dict(),
        "flops_per_image": task.flops_per_image,
        "peak_flops": peak,
        "checks": checks,
        "rounds": rounds,
        "warm_up_steps": warm_up,
        "compiled_before": cache is not None,
        "gpu": gpu,
        "faults": faults,
        "load": {"before": load, "after": os.getloadavg()[0]},
        "contenders": {
            name: {
                **facts[name],
                "first_call_seconds": firsts[name],
                "peak_memory_bytes": memory[name],
                **{
                    kind: summary(
                        turns[kind], name, KINDS[kind] * task.flops_per_image, peak
                    )
                    for kind in kinds
                },
            }
            for name in firsts
        },
    }


def _start_others(names, config, task, cache, stack, faults) -> list[Worker]:
    """Returns the other contenders, started side by side; notes why one is missing."""

    def start(name):
        is_torch = name.startswith("torch")
        return Worker(name, task if is_torch else config, cache)

    workers = []
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, future in [(name, threads.submit(start, name)) for name in names]:
            try:
                workers.append(future.result())
                stack.callback(workers[-1].close)
            except UserError as error:
                faults[name] = str(error)
    return workers


def _warm_up(workers, kinds, steps: int, deadline, faults) -> tuple[dict, dict]:
    """Returns the seconds of first calls, which compile, and of later steps.

    By contender and kind, of the contenders that manage them; of the others it notes
    why not.
    """
    firsts, later = {}, {}
    for worker in workers:
        limit = None
        if deadline is not None and worker.name != "ours":  # half of what is left
            limit = max((deadline - time.monotonic()) / 2, 1.0)
        first, step = {}, {}
        try:
            for kind in kinds:
                first[kind] = worker.timed(kind, 1, limit=limit)[1]
                worker.timed(kind, steps, limit=limit)
                step[kind] = worker.timed(kind, steps, limit=limit)[1] / steps
        except UserError as error:
            if worker.name == "ours":
                raise
            faults[worker.name] = str(error)
            continue
        firsts[worker.name], later[worker.name] = first, step
    return firsts, later


def check_fairness(workers, facts, task) -> dict[str, Any]:
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
    with concurrent.futures.ThreadPoolExecutor() as threads:
        calls = [threads.submit(w.call, "logits", variables, images) for w in workers]
    logits = {w.name: c.result() for w, c in zip(workers, calls, strict=True)}
    scale = np.linalg.norm(logits["ours"])
    distances = {
        name: float(np.linalg.norm(values - logits["ours"]) / scale)
        for name, values in logits.items()
    }
    furthest = np.max(list(distances.values()))  # NaN, if there is one
    precision = facts["ours"]["conv_precision"]
    tolerance = LOGITS_TOLERANCE[precision]
    if not furthest <= tolerance:
        raise UserError(
            f"logits of shared weights lie up to {furthest:.2g} apart, as a share; the "
            f"limit is {tolerance}: the networks differ"
        )
    return {
        "num_parameters": facts["ours"]["num_parameters"],
        "batch_size": task.batch_size,
        "dtype": dtype,
        "conv_precision": precision,
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


def _turn_lengths(
    step_seconds, rounds: int, seconds: float, deadline: float | None
) -> dict[str, dict[str, int]]:
    """Returns the steps of a turn, by kind and contender."""
    kinds = list(step_seconds["ours"])
    if deadline is not None:
        left = 0.9 * (deadline - time.monotonic())  # the peak is still to be measured
        turns = len(kinds) * len(step_seconds) * rounds
        seconds = min(seconds, max(left, 0) / turns)
    return {
        kind: {
            n: max(1, round(seconds / each[kind])) for n, each in step_seconds.items()
        }
        for kind in kinds
    }


def take_turns(workers, lengths, rounds: int) -> dict[str, dict[str, list]]:
    """Returns images, seconds and thread's seconds, by kind, contender and round."""
    turns = {kind: {worker.name: [] for worker in workers} for kind in lengths}
    for kind, by_name in turns.items():
        for number in range(rounds):
            # Every other round backwards: no contender always follows the same one.
            for worker in workers[:: -1 if number % 2 else 1]:
                by_name[worker.name].append(
                    worker.timed(kind, lengths[kind][worker.name])
                )
    return turns


def summary(
    turns: dict[str, list], name: str, flops_per_image: int, peak: float
) -> dict[str, Any]:
    """Returns a contender's speed, and how many times as fast ours is.

    Args:
      turns: Images, seconds and thread's seconds of each round, by contender.
      name: Contender.
      flops_per_image: Floating-point operations for an image.
      peak: FLOP/s of a matrix product.
    """
    rates = [images / seconds for images, seconds, _ in turns[name]]
    ours = [images / seconds for images, seconds, _ in turns["ours"]]
    flops = _measure.spread(rates)["median"] * flops_per_image
    return {
        "images_per_second": _measure.spread(rates),
        "flops": flops,
        "share_of_peak": flops / peak,
        "host_share": _measure.spread([t / s for _, s, t in turns[name]])["median"],
        "ours_is_faster": _measure.spread(
            [a / b for a, b in zip(ours, rates, strict=True)]
        ),
    }


def table(record: dict[str, Any]) -> str:
    """Returns a record as text: a line for each kind and contender."""
    lines = [
        f"{'':24}{'images/s':>10} {'(range)':>17}{'TFLOP/s':>9}{'of peak':>8}"
        f"{'ours is':>9} {'(range)':>13}{'host':>7}{'first call':>11}{'memory':>9}"
    ]
    for kind in KINDS:
        for name, contender in record["contenders"].items():
            if kind in contender:
                lines.append(_line(kind, name, contender))
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
    if record.get("compiled_before"):
        lines.append("programs were kept in --cache: first calls may not have compiled")
    lines += record["faults"].values()
    if gpu := record["gpu"]:
        lines.append(f"{gpu['name']}, driver {gpu['driver_version']}, {gpu['sm_mhz']}")
    elif record["load"]["before"] > 0.5:
        lines.append(
            "the machine was busy before: PyTorch's threads, which wait for each "
            "other, lose more by that than XLA's (try OMP_WAIT_POLICY=passive)"
        )
    return "\n".join(lines)


def _line(kind: str, name: str, contender: dict[str, Any]) -> str:
    result = contender[kind]
    rate, ratio = result["images_per_second"], result["ours_is_faster"]
    span = f"({rate['min']:,.0f}-{rate['max']:,.0f})"
    ratios = f"({ratio['min']:.2f}-{ratio['max']:.2f})"
    return (
        f"{kind} {name:{23 - len(kind)}}{rate['median']:10,.0f} {span:>17}"
        f"{result['flops'] / 1e12:9.3g}{result['share_of_peak']:8.1%}"
        f"{ratio['median']:8.2f}x {ratios:>13}{result['host_share']:7.1%}"
        f"{contender['first_call_seconds'][kind]:9.1f} s"
        f"{contender['peak_memory_bytes'] / 2**20:6,.0f} MB"
    )


if __name__ == "__main__":
    _cli.run()
