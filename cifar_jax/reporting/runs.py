"""Runs as a report sees them: read, checked, and grouped by config.

Read `read_all` first: it takes run directories, in which training may still run, and
published files of results. `group_runs` then puts runs that differ only in their seed
together, for a mean and a spread.
"""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shlex
import statistics
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from cifar_jax import UserError, _packaged
from cifar_jax import config as default
from cifar_jax._files import check, read_object
from cifar_jax.config import RESUMABLE_KEYS, config_to_dict, flatten
from cifar_jax.evaluation import evaluate
from cifar_jax.training import pretrained
from cifar_jax.training.results import Dataset, Result
from cifar_jax.training.workdir import RunDirectory

# What files hold

# The settings without which a config is not one of ours, by dotted key.
_SETTINGS = TypedDict(
    "_SETTINGS",
    {
        "seed": int,
        "data.name": str,
        "data.validation": float,
        "model.widths": list,
        "train.epochs": int,
        "train.label_smoothing": float,
    },
)

DEFAULTS = flatten(config_to_dict(default.get_config()))


class Row(TypedDict):
    """A line of metrics.jsonl; any other key holds a number."""

    step: int
    epoch: int
    split: str


# The content of a file that scripts/records.py wrote, by dotted key: one recipe with
# many seeds.
Record = TypedDict(
    "Record",
    {
        "recipe": str,
        "seeds": list[dict],
        "num_parameters": int,
        "flops_per_image": int,
        "device": str,
        "num_devices": int,
        "clocks.train.mean": float,
        "clocks.train_and_evaluate.mean": float,
        "clocks.cold_process.seconds": NotRequired[float],
        "images_per_second.mean": float,
        "flops.mean": float,
        "share_of_peak.mean": float,
        "data.name": str,
        "data.note": str,
    },
)

# One of its seeds, by dotted key.
Seed = TypedDict(
    "Seed",
    {
        "seed": int,
        "val": NotRequired[float],
        "test": NotRequired[float],
        "val_tta": NotRequired[float],
        "test_tta": NotRequired[float],
        "best_epoch": int,
        "epochs": int,
        "images_per_second": float,
        "clocks.train": float,
        "clocks.train_and_evaluate": float,
        "clocks.compile": float,
        "clocks.run": float,
    },
)


# One run


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `cifar_jax.evaluate` left in a run directory.

    Attributes:
      record: Content of evaluation.json.
      split: The run's own split that its best weights were scored on, val or test; or
        None.
      matrix: int64 [K, K], images by true class (row) and predicted class (column), or
        None.
      picture: confusion.png, or None.
      errors: Arrays of errors.npz (`images`, `places`, `labels`, `predictions`,
        `confidence`), or None.
      samples: Those of samples.npz, random images, or None.
    """

    record: evaluate.Evaluation
    split: str | None
    matrix: np.ndarray | None
    picture: bytes | None
    errors: Mapping[str, np.ndarray] | None
    samples: Mapping[str, np.ndarray] | None = None


@dataclasses.dataclass(eq=False)
class Run:
    """One run: finished, still training, imported, or only a published result.

    Attributes:
      path: Run directory, or the file that the result was published in.
      name: Name that no other run of the report has.
      config: Content of config.json.
      dataset: Content of dataset.json; None for a published result.
      rows: Whole lines of metrics.jsonl.
      result: Content of result.json; None before the end of the run.
      evaluation: What `cifar_jax.evaluate` wrote, or None.
      updated: Time of the last metrics, in seconds since 1970, or None.
      imported: Whether the weights were trained elsewhere.

      is_record: Whether this is a published result, without its run directory.
      has_directory: Whether this is a run directory, and neither that nor weights.
      label_names: Classes, as they can be shown; none for a published result.
      image_shape: Height, width and channels; empty for a published result.
      num_nonzero: Parameters that are not zero, if some were pruned; or None.
      settings: Config by dotted key; a key newer than the run has its default.
      compared: Settings that change what is computed, without the seed.
      ended: Whether the weights are final.
      may_test: Whether the test images may be looked at: not by the runs of a study.
      selected_on_test: Whether the best epoch was selected on the test images.
      best_epoch: Epoch of the weights in best/, or None.
      validation: Validation accuracy of that epoch, or None.
      num_epochs: Epochs that have ended.
      seconds: Duration of the run, or None before its end.
      place: Devices that the run used, or None before its end.
      latency: Milliseconds for one image on each device, or None.
      latency_place: Devices that the latency was measured on, or None.
    """

    path: pathlib.Path
    name: str
    config: Mapping[str, Any]
    dataset: Dataset | None = None
    rows: Sequence[Row] = ()
    result: Result | None = None
    evaluation: Evaluation | None = None
    updated: float | None = None
    imported: bool = False

    def __post_init__(self):
        self.settings = {**DEFAULTS, **flatten(self.config)}
        self.compared = {
            key: value
            for key, value in self.settings.items()
            if key != "seed" and not key.startswith(RESUMABLE_KEYS)
        }
        self.is_record = self.dataset is None
        self.has_directory = (self.path / "dataset.json").exists()
        dataset = self.dataset or {"label_names": [], "image_shape": []}
        self.label_names = [printable(str(name)) for name in dataset["label_names"]]
        self.image_shape = dataset["image_shape"]
        # The last validation whose weights are kept.
        split = self.settings["evaluate.select_on"]
        kept = {path.name for path in self.path.glob("best/*")}
        validations: list[Any] = [row for row in self.rows if row["split"] == split]
        bests = [row for row in validations if str(row["step"]) in kept]
        result, best = self.result, bests[-1] if bests else {}
        self.ended = result is not None or self.imported
        self.may_test = self.ended and self.settings["evaluate.test"]
        self.selected_on_test = split == "test"
        self.best_epoch: int | None = 0 if self.imported else best.get("epoch")
        self.validation: float | None = best.get("accuracy")
        self.num_epochs = max((row["epoch"] for row in self.rows), default=0)
        pruned = result if result and result.get("sparsity") else None
        self.num_nonzero = pruned["num_nonzero"] if pruned else None
        self.seconds = self.place = self.latency = self.latency_place = None
        if result:
            self.best_epoch, self.num_epochs = result["best_epoch"], result["epochs"]
            self.validation = self.accuracy("val")
            self.seconds = result["seconds"]["total"]
            self.place = f"{result['num_devices']} x {result['device']}"
        elif self.selected_on_test:
            self.validation = None
        if self.evaluation:
            cost = self.evaluation.record.get("efficiency")
            self.latency = cost.get("latency_ms") if cost else None
            if cost and self.latency is not None:
                self.latency_place = f"{cost['num_devices']} x {cost['device']}"

    def values(self, split: str, metric: str) -> dict[float, float]:
        """Returns a metric by epoch."""
        rows: Iterable[Any] = (row for row in self.rows if row["split"] == split)
        return {row["epoch"]: row[metric] for row in rows if metric in row}

    def accuracy(self, name: str) -> float | None:
        """Returns the accuracy of val, test, val_tta or test_tta in the result."""
        scores: Any = self.result.get(name) if self.result else None
        return scores["accuracy"] if scores else None

    def reason_to_wait(self) -> str:
        """Returns why the run cannot be evaluated yet; empty if it can."""
        if not self.may_test and not self.settings["data.validation"]:
            return "it holds out no validation images, and has not ended"
        return "its first epoch has not ended" if self.best_epoch is None else ""

    def reason_not_to_evaluate(self) -> str:
        """Returns why its best weights shall not be evaluated now; empty if they can.

        Evaluations of other weights or of other images are left alone.
        """
        if self.is_record:
            return "a published result has no weights"
        if not self.has_directory:
            return "exported weights are evaluated into an --output of their own"
        if self.evaluation and not self.evaluation.split:
            return "it has an evaluation of other weights or images"
        if self.evaluation and self.evaluation.record["epoch"] == self.best_epoch:
            if self.evaluation.split == ("test" if self.may_test else "val"):
                return "its evaluation is up to date"
        return self.reason_to_wait()

    def evaluate_command(self) -> str:
        """Returns the command that evaluates the best weights.

        It scores validation images until the test images may be looked at, and leaves
        latency out while the run trains, because the machine is busy.
        """
        words = ["python", "-m", "cifar_jax.evaluate", "--workdir", str(self.path)]
        words += [] if self.may_test else ["--validation"]
        words += ["--latency"] if self.ended else []
        return shlex.join(words)


def printable(text: str) -> str:
    """Returns text without the letters that neither a page nor a picture can show."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


# Reading


def read_all(paths: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads run directories, in which training may still run, and published results.

    A path that is given twice is read once.
    """
    given = [pathlib.Path(path) for path in paths]
    named = {str(path) for path in given} & set(_packaged.network_names())
    given = [_packaged.find_network(p) if str(p) in named else p for p in given]
    unique = {path.resolve(): path for path in given}
    runs = []
    ends = [p.parent if p.name == "result.json" else p for p in unique]
    parts = [end.parts for end in ends]
    names = []
    for own, path in zip(parts, unique.values(), strict=True):
        # The shortest end of the path that tells it from the others.
        ends = (own[-length:] for length in range(1, len(own) + 1))
        only = (end for end in ends if sum(p[-len(end) :] == end for p in parts) == 1)
        name = printable("/".join(next(only, own[-1:])))
        times = sum(name == other.split(" (")[0] for other in names)
        name = f"{name} ({times + 1})" if times else name
        names.append(name)
        if path.suffix == ".safetensors" or (path / "model.safetensors").exists():
            runs.append(_read_weights(path, name))
            continue
        if path.is_dir():
            runs.append(_read_directory(path, name))
            continue
        published = from_file(path, name) if path.is_file() else []
        if not published:
            problem = "does not exist"
            if path.is_file():
                problem = "does not hold the accuracy of a run"
            remedy = "give a run directory, or a file of results"
            raise UserError(f"{path} {problem}; {remedy}")
        runs += published
    return runs


def from_file(path: pathlib.Path, name: str = "") -> list[Run]:
    """Reads a published file: one result, or a record with a run for each seed.

    Returns:
      The runs; none if the file holds something else.
    """
    content = read_object(path)
    is_record = content.get("kind") == "record"
    if not is_record and "best_epoch" not in content:
        return []
    record: Any = check(flatten(content), Record, path) if is_record else None
    config = check(content.get("config"), dict, path)
    check(flatten(config), _SETTINGS, path)
    if record is None:
        return [Run(path, name, config, result=check(content, Result, path))]
    runs = []
    for row in record["seeds"]:
        seed: Seed = check(flatten(row), Seed, path)
        result: Any = {"versions": {}, **content, **row}
        for split in ("val", "test", "val_tta", "test_tta"):
            accuracy = seed.get(split)
            result[split] = None if accuracy is None else {"accuracy": accuracy}
        result["seconds"] = {
            "total": seed["clocks.run"],
            "compile": seed["clocks.compile"],
            "train": seed["clocks.train"],
            "evaluate": seed["clocks.train_and_evaluate"] - seed["clocks.train"],
        }
        own_name = f"{name} seed {seed['seed']}".strip()
        runs.append(Run(path, own_name, config | {"seed": seed["seed"]}, result=result))
    return runs


def _read_directory(path: pathlib.Path, name: str) -> Run:
    directory, metrics = RunDirectory(path), path / "metrics.jsonl"
    dataset = directory.dataset()
    rows = [check(row, Row, metrics) for row in directory.rows()]
    return Run(
        path=path,
        name=name,
        config=directory.config(),
        dataset=dataset,
        rows=rows,
        result=directory.result(),
        evaluation=_read_evaluation(path / "evaluation", len(dataset["label_names"])),
        updated=metrics.stat().st_mtime if metrics.exists() else None,
        imported=not rows and (path / "best" / "0").is_dir(),  # by import_torch
    )


def _read_weights(path: pathlib.Path, name: str) -> Run:
    """Reads exported or packaged weights, with the result of their run."""
    card = pretrained.read_card(path)
    config, result = card["config"], card["result"]
    check(flatten(config), _SETTINGS, path)
    if result is not None:
        result = check({**result, "config": config}, Result, path)
    name = name.removesuffix(".safetensors")
    imported = result is None
    return Run(path, name, config, card["dataset"], result=result, imported=imported)


def _read_evaluation(folder: pathlib.Path, num_classes: int) -> Evaluation | None:
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    record = check(read_object(path), evaluate.Evaluation, path)
    matrix, pictures = None, {}
    try:
        # Files of an earlier evaluation may still lie there: read only those it names.
        path = folder / "confusion.csv"
        if path.name in record["files"]:
            with path.open(newline="") as file:
                _, *lines = csv.reader(file)
            matrix = np.array([[int(count) for count in line[1:]] for line in lines])
            if matrix.shape != (num_classes, num_classes):
                raise ValueError(f"not a matrix of {num_classes} classes")
        for name in ("errors", "samples"):
            path = folder / f"{name}.npz"
            if path.name in record["files"]:
                pictures[name] = _read_pictures(path, num_classes)
        path = folder / "confusion.png"
        picture = path.read_bytes() if path.name in record["files"] else None
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); evaluate the run "
            "again"
        ) from error
    split = record.get("split") if record["weights"] == "best" else None
    return Evaluation(record, split, matrix, picture, **{"errors": None, **pictures})


def _read_pictures(path: pathlib.Path, num_classes: int) -> Mapping[str, np.ndarray]:
    """Returns the arrays of errors.npz or samples.npz, checked."""
    keys = ("images", "places", "labels", "predictions", "confidence")
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in keys}
    if len({len(array) for array in arrays.values()}) != 1:
        raise ValueError("lengths differ")
    for key in ("labels", "predictions"):
        if not ((arrays[key] >= 0) & (arrays[key] < num_classes)).all():
            raise ValueError(f"{key} are not classes")
    return arrays


# Groups


class Sample(NamedTuple):
    """A value over several seeds.

    Attributes:
      mean: The mean.
      std: Standard deviation of the sample (divided by n - 1); None for n below 3.
      values: The value of each seed.
    """

    mean: float
    std: float | None
    values: Sequence[float]

    def text(self, form: str) -> str:
        """Returns mean ± deviation in a `form` of `format`; of two, both values."""
        if self.std is not None:
            return f"{self.mean:{form}} ± {self.std:{form}}"
        values = ", ".join(f"{value:{form}}" for value in self.values)
        return values if len(self.values) == 1 else f"{self.mean:{form}} ({values})"


def sample(values: Iterable[float | None]) -> Sample | None:
    """Returns the mean and spread of the values that are known; None without any."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 2 else None
    return Sample(statistics.fmean(numbers), std, numbers)


@dataclasses.dataclass(eq=False)
class Group:
    """Runs of one config that differ only in their seed.

    Attributes:
      name: Name that no other group of the report has.
      number: Index of the group's colour.
      runs: All runs.

      by_seed: The run that counts for each seed: the first, preferably one that ended.
      num_ended: Seeds whose run has ended.
      selected_on_test: Whether best epochs were selected on the test images.
      latency: Median of the latencies that were measured, in milliseconds, or None.
    """

    name: str
    number: int
    runs: Sequence[Run]

    def __post_init__(self):
        self.by_seed: dict[int, Run] = {}
        for run in sorted(self.runs, key=lambda run: run.result is None):
            self.by_seed.setdefault(run.settings["seed"], run)
        self.num_ended = sum(run.result is not None for run in self.by_seed.values())
        self.selected_on_test = self.runs[0].selected_on_test
        latencies = sample(run.latency for run in self.runs)
        self.latency = statistics.median(latencies.values) if latencies else None

    def sample(self, value: Callable[[Run], float | None]) -> Sample | None:
        """Returns a value over the seeds that have ended; None where none has it."""
        return sample(value(run) for run in self.by_seed.values() if run.result)

    def best_known(self) -> tuple[Sample, str] | None:
        """Returns the test accuracy, or as long as there is none, validation's.

        Returns:
          The accuracies, and their split ("test" or "validation"); or None.
        """
        test = self.sample(lambda run: run.accuracy("test"))
        if test and not self.selected_on_test:
            return test, "test"
        validation = sample(run.validation for run in self.by_seed.values())
        return (validation, "validation") if validation else None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Returns the groups, in the order of their first runs."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(run.compared, sort_keys=True)
        members.setdefault(key, []).append(run)
    names, groups = [], []
    for runs in members.values():
        name = os.path.commonprefix([run.name for run in runs])
        if len(runs) > 1:  # how all begin, up to the number or letter of their seeds
            if any(run.name[len(name) :][:1].isdigit() for run in runs):
                name = name.rstrip("0123456789")
            name = re.sub(r"([\W_]+s|[\W_]*seed)?[\W_]*$", "", name)
        names.append(name)
    for number, (name, runs) in enumerate(zip(names, members.values(), strict=True)):
        if not name or names.count(name) > 1:
            listed = [run.name for run in runs]
            name = ", ".join(listed if len(listed) <= 3 else listed[:2])
            name += f" and {len(listed) - 2} more" if len(listed) > 3 else ""
        groups.append(Group(name, number, runs))
    return groups
