"""Runs as a report sees them: read, checked, and grouped by config.

Read `read_all` first: it takes run directories, in which training may still run, and
published files of results. `group_runs` then puts runs that differ only in their seed
together, for a mean and a spread.
"""

import csv
import dataclasses
import functools
import json
import os
import pathlib
import re
import shlex
import statistics
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from cifar_jax import UserError, _packaged
from cifar_jax._files import check, read_object
from cifar_jax.config import RESUMABLE_KEYS, complete, flatten
from cifar_jax.evaluation import evaluate
from cifar_jax.models import count
from cifar_jax.training import pretrained
from cifar_jax.training.results import Dataset, Result
from cifar_jax.training.workdir import RunDirectory

DAGGER = " †"


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
    errors: Mapping[str, np.ndarray] | None = None
    samples: Mapping[str, np.ndarray] | None = None


@dataclasses.dataclass(eq=False)
class Run:
    """One run: finished, still training, imported, or only a published result.

    Attributes:
      path: Run directory, or the file that the result was published in.
      name: Name that no other run of the report has.
      config: Content of config.json, under today's keys.
      dataset: Content of dataset.json; None for a published result.
      rows: Whole lines of metrics.jsonl.
      result: Content of result.json; None before the end of the run.
      evaluation: What `cifar_jax.evaluate` wrote, or None.
      updated: Time of the last metrics, in seconds since 1970, or None.
      imported: Whether the weights were trained elsewhere.

      is_record: Whether this is a published result, without its run directory.
      has_directory: Whether this is a run directory, and neither that nor weights.
      label_names: Classes, as they can be shown; none for a published result.
      num_nonzero: Parameters that are not zero, if some were pruned; or None.
      settings: Config by dotted key.
      compared: Settings that change what is computed, without the seed.
      ended: Whether the weights are final.
      may_test: Whether the test images may be looked at: not by the runs of a study.
      selected_on_test: Whether the best epoch was selected on the test images.
      mark: What test accuracies are marked with if it was.
      best_epoch: Epoch of the weights in best/, or None.
      validation: Validation accuracy of that epoch, or None.
      test: Test accuracy, or None before the end of the run.
      test_tta: That with test-time augmentation, or None.
      num_epochs: Epochs that have ended.
      seconds: Duration of the run, or None before its end.
      place: Devices that the run used, or None before its end.
      latency: Milliseconds for one image on each device, or None.
      latency_place: Devices that the latency was measured on, or None.
      reason_to_wait: Why the run cannot be evaluated yet; empty if it can.
    """

    path: pathlib.Path
    name: str
    config: Mapping[str, Any]
    dataset: Dataset | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    result: Result | None = None
    evaluation: Evaluation | None = None
    updated: float | None = None
    imported: bool = False

    def __post_init__(self):
        self.settings = flatten(self.config)
        self.compared = {
            key: value
            for key, value in self.settings.items()
            if key != "seed" and not key.startswith(RESUMABLE_KEYS)
        }
        self.is_record = self.dataset is None
        self.has_directory = (self.path / "dataset.json").exists()
        names = self.dataset["label_names"] if self.dataset else ()
        self.label_names = [printable(str(name)) for name in names]
        # The last validation whose weights are kept.
        split = self.settings["evaluate.select_on"]
        kept = {path.name for path in self.path.glob("best/*")}
        bests = (r for r in self.rows if r["split"] == split and str(r["step"]) in kept)
        best = max(bests, key=lambda row: row["step"], default={})
        result = self.result
        self.ended = result is not None or self.imported
        self.may_test = self.ended and self.settings["evaluate.test"]
        self.selected_on_test = split == "test"
        self.mark = DAGGER if self.selected_on_test else ""
        self.best_epoch = 0 if self.imported else best.get("epoch")
        self.validation = None if self.selected_on_test else best.get("accuracy")
        self.num_epochs = max((row["epoch"] for row in self.rows), default=0)
        self.test = self.test_tta = self.num_nonzero = self.seconds = self.place = None
        if result:
            self.best_epoch, self.num_epochs = result["best_epoch"], result["epochs"]
            scores: list[Any] = [result.get(n) for n in ("val", "test", "test_tta")]
            accuracies = [each["accuracy"] if each else None for each in scores]
            self.validation, self.test, self.test_tta = accuracies
            self.num_nonzero = result["num_nonzero"] if result.get("sparsity") else None
            self.seconds = result["seconds"]["total"]
            self.place = f"{result['num_devices']} x {result['device']}"
        self.latency = self.latency_place = None
        cost = self.evaluation.record.get("efficiency") if self.evaluation else None
        if cost and cost.get("latency_ms") is not None:
            self.latency = cost["latency_ms"]
            self.latency_place = f"{cost['num_devices']} x {cost['device']}"
        self.reason_to_wait = ""
        if not self.may_test and not self.settings["data.validation"]:
            reason = "and none are tested" if self.ended else "and has not ended"
            self.reason_to_wait = f"it holds out no validation images, {reason}"
        elif self.best_epoch is None:
            self.reason_to_wait = "its first epoch has not ended"

    @functools.cached_property  # tracing a deep network takes a second
    def size(self) -> tuple[int | None, int | None]:
        """Trainable parameters, and FLOPs for one image; None if they are unknown."""
        if self.result:
            return self.result["num_parameters"], self.result["flops_per_image"]
        try:
            network = pretrained.abstract_model(self.config, cast(Any, self.dataset))
        except UserError:
            return None, None
        total = count.total(count.layer_table(network.model, network.image_shape))
        return total.parameters, 2 * total.macs  # a multiply-add is two operations

    def values(self, split: str, metric: str) -> dict[float, float]:
        """Returns a metric by epoch."""
        rows = (row for row in self.rows if row["split"] == split)
        return {row["epoch"]: row[metric] for row in rows if metric in row}

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
        return self.reason_to_wait

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
    unique = {path.resolve(): path for path in map(_packaged.find_network, paths)}
    ends = [p.parent if p.name == "result.json" else p for p in unique]
    parts = [end.parts for end in ends]
    # How many parts all paths end in, such as seed-0: they tell no run from another.
    several = len(set(parts)) > 1
    shared = several and len(os.path.commonprefix([p[::-1] for p in parts]))
    runs = []
    for own, path in zip(parts, unique.values(), strict=True):
        # The shortest end of the path that tells it from the others.
        lengths = range(shared + 1, len(own))
        only = (n for n in lengths if [p[-n:] for p in parts].count(own[-n:]) == 1)
        end = own[-next(only, shared + 1) :]
        name = printable("/".join(end[: len(end) - shared]))
        if path.suffix != ".json":
            runs.append(_read_network(path, name.removesuffix(".safetensors")))
        elif published := from_file(path, name):
            runs += published
        else:
            raise UserError(
                f"{path} does not hold the accuracy of a run; give a run directory, or "
                "a file of results"
            )
    return runs


def from_file(path: pathlib.Path, name: str = "") -> list[Run]:
    """Reads a published file: one result, or a record with a run for each seed.

    Returns:
      The runs; none if the file holds something else.
    """
    content: Any = read_object(path)
    is_record = content.get("kind") == "record"
    if not is_record and "best_epoch" not in content:
        return []
    config = complete(check(content.get("config"), dict, path), path)
    if not is_record:
        return [Run(path, name, config, result=check(content, Result, path))]
    runs = []
    for row in content["seeds"]:
        seed, clocks = row["seed"], row["clocks"]
        result: Any = {"versions": {}, **content, **row}
        for split in ("val", "test", "val_tta", "test_tta"):
            accuracy = row.get(split)
            result[split] = None if accuracy is None else {"accuracy": accuracy}
        result["seconds"] = {
            "total": clocks["run"],
            "compile": clocks["compile"],
            "train": clocks["train"],
            "evaluate": clocks["train_and_evaluate"] - clocks["train"],
        }
        own_name = f"{name} seed {seed}".strip()
        runs.append(Run(path, own_name, config | {"seed": seed}, result=result))
    return runs


def _read_network(path: pathlib.Path, name: str) -> Run:
    """Reads a run directory, or exported or packaged weights."""
    card, metrics = pretrained.read_card(path), path / "metrics.jsonl"
    dataset, rows = card["dataset"], RunDirectory(path).rows()
    # Weights alone, or what import_torch leaves.
    has_weights = pretrained.weights_file(path) or (path / "best" / "0").is_dir()
    return Run(
        path=path,
        name=name,
        config=card["config"],
        dataset=dataset,
        rows=rows,
        result=card["result"],
        evaluation=_read_evaluation(path / "evaluation"),
        updated=metrics.stat().st_mtime if metrics.exists() else None,
        imported=bool(has_weights and not rows and card["result"] is None),
    )


def _read_evaluation(folder: pathlib.Path) -> Evaluation | None:
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    record = check(read_object(path), evaluate.Evaluation, path)
    split = record.get("split") if record["weights"] == "best" else None
    matrix, picture, pictures = None, None, {}
    try:
        # Files of an earlier evaluation may still lie there: read only those it names.
        for path in (folder / name for name in record["files"]):
            if path.name == "confusion.csv":
                with path.open(encoding="utf-8", newline="") as file:
                    _, *lines = csv.reader(file)
                matrix = np.array([[int(n) for n in line[1:]] for line in lines])
            elif path.name == "confusion.png":
                picture = path.read_bytes()
            elif path.suffix == ".npz":
                with np.load(path) as file:
                    pictures[path.stem] = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); evaluate again"
        ) from error
    return Evaluation(record, split, matrix, picture, **pictures)


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
      seeds: How many have ended, and of how many if these are not all.
      selected_on_test: Whether best epochs were selected on the test images.
      mark: What test accuracies are marked with if they were.
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
        ended, total = self.num_ended, len(self.by_seed)
        self.seeds = f"{ended}" if ended == total else f"{ended} of {total}"
        self.selected_on_test = self.runs[0].selected_on_test
        self.mark = self.runs[0].mark
        latencies = sample(run.latency for run in self.runs)
        self.latency = statistics.median(latencies.values) if latencies else None

    def sample(self, name: str) -> Sample | None:
        """Returns an attribute of the runs that have ended; None where none has it."""
        return sample(getattr(run, name) for run in self.by_seed.values() if run.result)

    def best_known(self) -> tuple[Sample, str] | None:
        """Returns the test accuracy, or as long as there is none, validation's.

        Returns:
          The accuracies, and their split ("test" or "validation"); or None.
        """
        test = self.sample("test")
        if test and not self.selected_on_test:
            return test, "test"
        live = (run.validation for run in self.by_seed.values())
        validation = self.sample("validation") or sample(live)
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
