"""Records: a recipe run with several seeds on one device, in one file.

The file grows by a seed at a time, so that a command that was stopped goes on with the
seeds that are left. Accuracies are shares, clocks seconds:

- `train`: the steps alone, without compiling;
- `train_and_evaluate`: with validation and the test set, the programs for these too;
- `cold_process`: all of a process, from its start to its result, that finds nothing
  compiled: imports, data from the disk, compiling, training, evaluation, saving. The
  first seed is run so.
"""

import json
import math
import pathlib
import shutil
import statistics
import time
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from scipy import stats

from cifar_jax import UserError
from cifar_jax.config import config_diff, config_to_dict
from cifar_jax.evaluation import gpu
from cifar_jax.evaluation.output import write_json
from cifar_jax.evaluation.workers import Worker

# Before the limit a run is told to stop, so that all is saved within it; and with less
# than this left none is started.
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
_SCORES = ("val", "val_tta", "test", "test_tta")
_BUILT_IN = {"digits": "scikit-learn's own"}
_UNKNOWN = "not compared with the original files; the SHA-256 lets anybody do so"


def make(
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    recipe: str,
    command: str,
    output: pathlib.Path,
    workdir: pathlib.Path,
    minutes: float = 0.0,
    note: str | None = None,
) -> dict[str, Any]:
    """Makes a record, or goes on with it.

    Args:
      config: The recipe.
      seeds: To run, in this order; those that the file holds are kept.
      recipe: Its name.
      command: That makes the record.
      output: The file, written after each seed.
      workdir: For the run directories and the compiled programs.
      minutes: After which all is saved and this ends; 0: never.
      note: How the data differ from the original files; None: what is known of them.

    Returns:
      What the file holds; `missing_seeds` is empty when it is whole.

    Raises:
      UserError: If a run fails, or the file holds another recipe or device.
    """
    record = _read(output, config, recipe)
    record |= {"command": command, "planned_seeds": list(seeds)}
    deadline = time.monotonic() + 60 * minutes if minutes else math.inf
    with gpu.Watch() as watch, _Session(config, workdir) as session:
        for seed in _missing(record):
            if _is_too_late(record, deadline - time.monotonic()):
                break
            row = session.run(seed, record, deadline)
            if row is None:
                break
            record["seeds"].append(row)
            if record["data"] is None:
                record["data"] = session.describe_data()
            record["gpu"] = watch.summary() or record["gpu"]
            _save(record, output, note)
    if record["seeds"]:
        _save(record, output, note)
    record["missing_seeds"] = _missing(record)
    return record


def _save(record: dict[str, Any], output: pathlib.Path, note: str | None) -> None:
    _summarize(record)
    if note is not None:
        record["data"]["note"] = note
    write_json(output, record)


class _Session:
    """The process that the runs have, and those after it."""

    def __init__(self, config: ConfigDict, workdir: pathlib.Path):
        self._config = config
        self._workdir = workdir
        self._cache = workdir / "compiled"
        self._worker = None
        self._start = 0.0

    def __enter__(self) -> "_Session":
        return self

    def __exit__(self, *error) -> None:
        if self._worker:
            self._worker.stop()

    def run(self, seed: int, record: dict[str, Any], deadline: float) -> dict | None:
        """Returns a seed's row, and fills in what the record says of the device."""
        folder = self._workdir / f"seed{seed}"
        cold = record["clocks"]["cold_process"] is None and not folder.exists()
        resumes = folder.exists()
        if cold or not self._worker:
            self._begin(cold)
        if record["device"]:
            _check_device(record, self._worker.call("facts"))
        left = deadline - time.monotonic() - RESERVE_SECONDS
        limit = max(left, 1.0) if math.isfinite(left) else 0.0
        result = self._worker.call("run", seed, folder, limit)
        if result is None:
            return None
        if cold:
            seconds = time.perf_counter() - self._start
            record["clocks"]["cold_process"] = {"seconds": seconds, "seed": seed}
        for key in ("num_parameters", "flops_per_image", "dataset"):
            record[key] = result[key]
        record |= self._worker.call("facts")
        row = _row(result, self._worker.call("peaks"), record["num_devices"])
        return {"seed": seed, **row, "cold": cold, "resumed": resumes}

    def describe_data(self) -> dict[str, Any]:
        """Returns the data's name, digests, and how they differ from the original."""
        data = self._worker.call("data")
        note = COPIES.get(data["sha256"]["train"]) or _BUILT_IN.get(data["name"])
        return {**data, "note": note or _UNKNOWN}

    def _begin(self, cold: bool) -> None:
        if self._worker:
            self._worker.stop()
        if cold:
            shutil.rmtree(self._cache, ignore_errors=True)
        self._start = time.perf_counter()
        environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self._cache.absolute()),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "true",  # it has the device to itself
        }
        self._worker = Worker("records", self._config, environment=environment)


def _read(output: pathlib.Path, config: ConfigDict, recipe: str) -> dict[str, Any]:
    """Returns the record in a file, or an empty one."""
    plain = config_to_dict(config)
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
        changed = config_diff(record["config"], plain)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{output} is no record ({error!r}); choose another --output"
        ) from error
    changed = [text for key, text in changed.items() if key != "seed"]
    if changed:
        raise UserError(
            f"{output} was made with another config ({'; '.join(changed)}); use the "
            "old values, or choose another --output and --workdir"
        )
    return record


def _check_device(record: dict[str, Any], facts: dict[str, Any]) -> None:
    for key in ("device", "num_devices"):
        if record[key] != facts[key]:
            raise UserError(
                f"the record was begun with {key} {record[key]}, and here it is "
                f"{facts[key]}; choose another --output and --workdir"
            )


def _missing(record: dict[str, Any]) -> list[int]:
    done = {row["seed"] for row in record["seeds"]}
    return [seed for seed in record["planned_seeds"] if seed not in done]


def _is_too_late(record: dict[str, Any], left: float) -> bool:
    longest = max((row["clocks"]["run"] for row in record["seeds"]), default=0.0)
    needed = 1.1 * longest if longest < SHORT_SECONDS else 0.0
    return left < max(needed, 0.0) + RESERVE_SECONDS


def _row(result: dict[str, Any], peak: dict[str, float], num_devices: int) -> dict:
    """Returns what a record keeps of a run's result."""
    seconds, rate = result["seconds"], result["images_per_second"]
    flops = 3 * result["flops_per_image"] * rate  # backward counts as two forward ones
    return {
        **{
            key: result[key]["accuracy"] if result.get(key) else None for key in _SCORES
        },
        **{key: result[key] for key in ("best_epoch", "epochs", "steps")},
        "images_per_second": rate,
        "flops": flops,
        "peak": peak,
        "share_of_peak": flops / (peak["flops"] * num_devices),
        "clocks": {
            "train": seconds["train"],
            "train_and_evaluate": seconds["train"] + seconds["evaluate"],
            "compile": seconds["compile"],
            "run": seconds["total"],
        },
    }


def _summarize(record: dict[str, Any]) -> None:
    """Computes again what follows from the seeds."""
    rows = record["seeds"]
    record["missing_seeds"] = _missing(record)
    for key in _SCORES:
        record[key] = summary([row[key] for row in rows])
    # A cold process also loads libraries while its clocks run.
    warm = [row for row in rows if not row["cold"]] or rows
    for key in ("images_per_second", "flops", "share_of_peak"):
        record[key] = summary([row[key] for row in warm])
    for key in ("train", "train_and_evaluate"):
        record["clocks"][key] = summary([row["clocks"][key] for row in warm])
    record["peak"] = {
        key: statistics.median(row["peak"][key] for row in rows)
        for key in rows[0]["peak"]
    }


def summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Returns `mean`, `std`, `n` and the 95% `interval` of the mean (Student's t).

    The standard deviation is that of the sample; it and the interval are None for one
    value. None if there is no value.
    """
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
