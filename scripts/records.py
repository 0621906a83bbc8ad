"""A record: a recipe run with several seeds on one device, as one file.

python scripts/records.py --config configs/records/seconds.py --seeds 0,1,2 --minutes 9

Type the same command again to resume: finished seeds are skipped, and a run that was
begun resumes from its checkpoint. The clocks, in seconds: `train`, the steps alone,
without compiling; `train_and_evaluate`; and `cold_process`, the whole process of the
first seed, which finds nothing compiled: imports, data, compiling, training, saving.
With JAX_COMPILATION_CACHE_DIR set, its programs are used, and no process is cold.
"""

import concurrent.futures
import contextlib
import copy
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import re
import shlex
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import _measure

from cifar_jax import UserError, _cli, _runtime
from cifar_jax import config as config_lib

# Before the limit a run is told to stop, so that all is saved within it.
RESERVE_SECONDS = 15.0
# A run that is known to be shorter than this is started only if it can end in time.
SHORT_SECONDS = 180.0
# How copies of data sets differ from the original files, by the SHA-256 of their
# training images and labels.
COPIES = {
    "5ed4f347aad61dd4bea70556a8c01f63360108f8676d4d5027f25d0d5caef53f": (
        "109 of the 60,000 images (86 of the training and 23 of the test images) are "
        "JPEG renditions of the originals: on the original files a test accuracy can "
        "differ by at most 0.0023"
    )
}
BUILT_IN = {"digits": "scikit-learn's own"}
UNKNOWN = "not compared with the original files; the SHA-256 lets anybody do so"
SCORES = {
    "val": "validation accuracy",
    "val_tta": "validation accuracy with TTA",
    "test": "test accuracy",
    "test_tta": "test accuracy with TTA",
}


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_list("seeds", "seeds, in their order", "0,1,2")
    flags.add_float(
        "minutes", "time limit, after which all is saved; 0: none", 0.0, lower_bound=0.0
    )
    flags.add_string("output", "file [results/records/ and the config's name]")
    flags.add_string("workdir", "run directories [runs/records/ and the config's name]")
    flags.add_string("data_note", "how the data differ from the original files")


def main(flags: _cli.Flags) -> None:
    """Runs the missing seeds and prints what the file holds."""
    config_lib.check(flags.config)
    name = flags.config_name
    output = pathlib.Path(flags.output or f"results/records/{name}.json")
    workdir = pathlib.Path(flags.workdir or f"runs/records/{name}")
    record = read(output, flags.config, name)
    record["command"] = command(flags.argv)
    record["planned_seeds"] = _seeds(flags.seeds)
    limit = 60 * flags.minutes or math.inf
    run_seeds(record, flags.config, output, workdir, limit, flags.data_note)
    print(text(record))


def command(argv: list[str]) -> str:
    """Returns the command without the flags that say where and for how long."""
    words = ["python", "scripts/records.py"]
    rest = iter(argv)
    for word in rest:
        name, equals, _ = word.lstrip("-").partition("=")
        if name not in ("workdir", "output", "minutes"):
            words.append(word)
        elif not equals:
            next(rest, None)
    return shlex.join(words)


def _seeds(texts: list[str]) -> list[int]:
    if not all(re.fullmatch(r"\d+", text) for text in texts) or not texts:
        raise _cli.UsageError(
            f"--seeds is {','.join(texts)!r}; give whole numbers, such as 0,1,2"
        )
    seeds = [int(text) for text in texts]
    if len(set(seeds)) < len(seeds):
        raise _cli.UsageError(f"--seeds is {','.join(texts)}; give each seed once")
    return seeds


def read(output: pathlib.Path, config, recipe: str) -> dict[str, Any]:
    """Returns the record in a file, or an empty one if there is no file.

    Raises:
      UserError: If the file holds something else, or another config.
    """
    plain = config_lib.config_to_dict(config)
    if not output.exists():
        return {
            "kind": "record",
            "recipe": recipe,
            "config": plain,
            "device": None,
            "gpu": None,
            "data": None,
            "seeds": [],
            "clocks": {"cold_process": None},
        }
    try:
        record = json.loads(output.read_text())
        changes = config_lib.config_diff(
            record["config"], plain, ignore=("seed", "data.dir", "data.source")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{output} is not a record ({error!r}); choose another --output"
        ) from error
    if changes:
        raise UserError(
            f"{output} was made with another config ({'; '.join(changes.values())}); "
            "use the old values, or choose another --output and --workdir"
        )
    return record


def run_seeds(
    record: dict[str, Any],
    config,
    output: pathlib.Path,
    workdir: pathlib.Path,
    limit: float,
    note: str | None,
) -> None:
    """Runs the missing seeds and writes the file after each, within `limit` seconds."""
    end = time.monotonic() + limit
    with _measure.GpuClocks() as clocks, contextlib.ExitStack() as stack:
        # Where it is set but empty, JAX keeps nothing.
        pool, cache = None, os.environ.get("JAX_COMPILATION_CACHE_DIR") or None
        for seed in missing(record):
            left = end - time.monotonic()
            if _is_too_late(record, left):
                break
            folder = workdir / f"seed{seed}"
            resumed = folder.exists()
            is_first = record["clocks"]["cold_process"] is None and not resumed
            is_cold = is_first and cache is None
            if is_cold:
                stack.close()
                pool = None
                shutil.rmtree(workdir / "compiled", ignore_errors=True)
            start = time.perf_counter()
            own = str((workdir / "compiled").absolute())
            pool = pool or stack.enter_context(_process(cache or own))
            result = pool.submit(run, config, seed, folder, left, record).result()
            seconds = time.perf_counter() - start
            if result is None:  # stopped, and saved
                break
            if is_cold:
                record["clocks"]["cold_process"] = {"seconds": seconds, "seed": seed}
            facts, peak = pool.submit(describe_device, config).result()
            _add(record, result, facts, peak, seed=seed, cold=is_cold, resumed=resumed)
            if record["data"] is None:
                record["data"] = pool.submit(describe_data, config).result()
            record["data"]["note"] = note or record["data"]["note"]
            record["gpu"] = clocks.summary() or record["gpu"]
            summarize(record)
            _measure.write_json(output, record)
    record["missing_seeds"] = missing(record)


@contextlib.contextmanager
def _process(cache: str) -> Iterator[concurrent.futures.Executor]:
    """Yields a process that has the device to itself, until the block ends."""
    with concurrent.futures.ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),  # JAX does not survive a fork
        initializer=_set_cache,
        initargs=(cache,),
    ) as executor:
        try:
            yield executor
        except SystemExit:
            # SIGTERM: the run saves and stops. Ctrl-C has reached it as well.
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _set_cache(folder: str) -> None:
    threading.Thread(target=_runtime.end_with_parent, daemon=True).start()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder


def run(
    config, seed: int, workdir: pathlib.Path, limit: float, record: dict[str, Any]
) -> dict[str, Any] | None:
    """Trains with a seed, or resumes.

    Args:
      config: Config of the recipe.
      seed: Seed of the run.
      workdir: Run directory.
      limit: Seconds within which all must be saved.
      record: What is known from other seeds.

    Returns:
      The content of result.json; None if the run was stopped.

    Raises:
      UserError: If the other seeds had another device.
    """
    from cifar_jax import _runtime

    _runtime.start(config.train.cpu_devices)
    from cifar_jax import Stopped
    from cifar_jax.training import distributed, loop, results

    check_device(record, dict(results.environment(distributed.make_mesh())))
    config = copy.deepcopy(config)
    config.seed = seed
    if math.isfinite(limit):
        config.train.max_seconds = max(limit - RESERVE_SECONDS, 1.0)
    try:
        return dict(loop.train_and_evaluate(config, workdir))
    except Stopped as stopped:
        print(stopped, flush=True)
        return None


def describe_device(config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns devices and versions, and the matrix peak of one device.

    The peak is `flops`, FLOP/s, and the `dtype` that it multiplies, as the run does.
    """
    from cifar_jax.training import distributed, results

    facts = results.environment(distributed.make_mesh())
    facts["versions"] |= _measure.gpu_libraries()
    dtype = _measure.product_dtype(config)
    return dict(facts), {"flops": _measure.matrix_peak(dtype), "dtype": dtype}


def describe_data(config) -> dict[str, Any]:
    """Returns the data set's name, digests, and how it differs from the original."""
    from cifar_jax.training import setup

    source = setup.open_source(config)
    digests = {}
    for name in ("train", "test"):
        # all of it: train[:10%] is a part of train
        split = re.sub(r"\[.*?\]", "", config.data[f"{name}_split"])
        digests[name] = digest(source.read(split))
    note = COPIES.get(digests["train"]) or BUILT_IN.get(config.data.name) or UNKNOWN
    return {"name": config.data.name, "sha256": digests, "note": note}


def digest(examples) -> str:
    """Returns the SHA-256 of uint8 images [N, H, W, C], then of uint8 labels [N]."""
    result = hashlib.sha256(examples.images.tobytes())
    result.update(examples.labels.astype("uint8").tobytes())
    return result.hexdigest()


def missing(record: dict[str, Any]) -> list[int]:
    """Returns the planned seeds that the record lacks."""
    done = {row["seed"] for row in record["seeds"]}
    return [seed for seed in record["planned_seeds"] if seed not in done]


def _is_too_late(record: dict[str, Any], left: float) -> bool:
    longest = max((row["clocks"]["run"] for row in record["seeds"]), default=0.0)
    needed = 1.1 * longest if longest < SHORT_SECONDS else 0.0
    return left < needed + RESERVE_SECONDS


def check_device(record: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuses another device than that of the seeds that are done."""
    for key in ("device", "num_devices"):
        if record["device"] and record[key] != facts[key]:
            raise UserError(
                f"the record was begun with {key} {record[key]}, and here it is "
                f"{facts[key]}; choose another --output and --workdir"
            )


def _add(
    record: dict[str, Any],
    result: dict[str, Any],
    facts: dict[str, Any],
    peak: dict[str, Any],
    **more: object,
) -> None:
    """Adds a seed's row, and what the record says of network and device."""
    check_device(record, facts)
    check_device(result, facts)  # a run that had ended before may be another device's
    record |= facts
    for key in ("num_parameters", "flops_per_image", "dataset"):
        record[key] = result[key]
    seconds, rate = result["seconds"], result["images_per_second"]
    flops = 3 * result["flops_per_image"] * rate  # backward counts as two forward ones
    # The devices that a CPU is divided into share its cores: one uses them all.
    num_peaks = 1 if facts["device"].startswith("cpu") else facts["num_devices"]
    scores = {k: result[k]["accuracy"] if result.get(k) else None for k in SCORES}
    record["seeds"].append(
        {
            **more,
            **scores,
            **{key: result[key] for key in ("best_epoch", "epochs", "steps")},
            "images_per_second": rate,
            "flops": flops,
            "peak": peak,
            "share_of_peak": flops / (peak["flops"] * num_peaks),
            "clocks": {
                "train": seconds["train"],
                "train_and_evaluate": seconds["train"] + seconds["evaluate"],
                "compile": seconds["compile"],
                "run": seconds["total"],
            },
        }
    )


def summarize(record: dict[str, Any]) -> None:
    """Computes again what follows from the seeds."""
    rows = record["seeds"]
    record["missing_seeds"] = missing(record)
    for key in SCORES:
        record[key] = summary([row[key] for row in rows])
    # A cold process also loads libraries while its clocks run; the sessions of a
    # resumed run may have been of different speed.
    whole = [row for row in rows if not row["resumed"]] or rows
    warm = [row for row in whole if not row["cold"]] or whole
    for key in ("images_per_second", "flops", "share_of_peak"):
        record[key] = summary([row[key] for row in warm])
    for key in ("train", "train_and_evaluate"):
        record["clocks"][key] = summary([row["clocks"][key] for row in warm])
    median = statistics.median(row["peak"]["flops"] for row in rows)
    record["peak"] = rows[0]["peak"] | {"flops": median}


def summary(values: list[float | None]) -> dict[str, Any] | None:
    """Returns `mean`, `std`, `n` and the 95% `interval` of the mean (Student's t).

    The standard deviation is that of the sample; it and the interval are None for one
    value. None if there is no value.
    """
    from scipy import stats

    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, n = statistics.fmean(known), len(known)
    std = interval = None
    if n > 1:
        std = statistics.stdev(known)
        half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
        interval = [mean - half, mean + half]
    return {"mean": mean, "std": std, "n": n, "interval": interval}


def text(record: dict[str, Any]) -> str:
    """Returns the record in a few lines, and what it lacks."""
    if not record["seeds"]:
        return f"{record['recipe']}: no seed is done; run the same command to resume"
    clocks = record["clocks"]
    lines = [
        f"{record['recipe']}: {record['num_parameters']:,} parameters on "
        f"{record['num_devices']} x {record['device']}"
    ]
    lines += [
        f"{name} {_spread(record[key], '.4f')}"
        for key, name in SCORES.items()
        if record[key]
    ]
    lines.append(f"training {_spread(clocks['train'], '.1f')} s")
    lines.append(f"with evaluation {_spread(clocks['train_and_evaluate'], '.1f')} s")
    if cold := clocks["cold_process"]:
        lines.append(f"cold process {cold['seconds']:.1f} s (seed {cold['seed']})")
    lines.append(
        f"{_spread(record['images_per_second'], ',.0f')} images/s, "
        f"{record['flops']['mean'] / 1e12:.3g} TFLOP/s: "
        f"{record['share_of_peak']['mean']:.1%} of the "
        f"{record['peak']['flops'] / 1e12:.3g} of a matrix product"
    )
    lines.append(f"data: {record['data']['name']}, {record['data']['note']}")
    if record["missing_seeds"]:
        seeds = ", ".join(map(str, record["missing_seeds"]))
        lines.append(f"seeds {seeds} are left; run the same command to resume")
    else:
        lines.append("all seeds are done")
    return "\n".join(lines)


def _spread(values: dict[str, Any], form: str) -> str:
    result = f"{values['mean']:{form}}"
    if values["std"] is not None:
        result += f" ± {values['std']:{form}}"
    return f"{result} (n = {values['n']})"


if __name__ == "__main__":
    _cli.run()
