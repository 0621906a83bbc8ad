"""Runs as a report sees them: finished, still training, or only a record."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_jax import UserError
from cifar_jax.analysis.report.evaluated import Evaluation
from cifar_jax.analysis.report.evaluated import read as read_evaluation
from cifar_jax.training.policy import RANKS
from cifar_jax.training.tracking import RunDirectory

# What runs did whose config has no such key yet.
_EARLIER = {"evaluate.best_by": "accuracy", "evaluate.select_on": "val"}
_NUMBER = (int, float)
_CONFIG = {
    "seed": int,
    "data.name": str,
    "data.validation": _NUMBER,
    "model": dict,
    "budget": dict,
    "optim": dict,
    "train.epochs": int,
    "train.label_smoothing": _NUMBER,
    "evaluate": dict,
}
_RESULT = {
    "config": dict,
    "dataset": str,
    "num_parameters": int,
    "flops_per_image": int,
    "test.accuracy": _NUMBER,
    "test.loss": _NUMBER,
    "test.num_examples": int,
    "best_epoch": int,
    "epochs": int,
    "seconds.total": _NUMBER,
    "seconds.compile": _NUMBER,
    "seconds.train": _NUMBER,
    "seconds.evaluate": _NUMBER,
    "images_per_second": _NUMBER,
    "device": str,
    "num_devices": int,
}
_VALIDATION = {"accuracy": _NUMBER, "loss": _NUMBER, "num_examples": int}
_DATASET = {"image_shape": list, "label_names": list}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      path: Its directory, or the file that its result was published in.
      name: That no other run of the report has.
      config: As plain data.
      dataset: What dataset.json holds; None for a record.
      rows: Of metrics.jsonl, those that are whole.
      result: What result.json holds, or None before its end.
      evaluation: What `cifar_jax.evaluate` found, or None.
      updated: When it last wrote metrics, in seconds since 1970, or None.
    """

    path: pathlib.Path
    name: str
    config: Mapping[str, Any]
    dataset: Mapping[str, Any] | None
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    evaluation: Evaluation | None
    updated: float | None

    def setting(self, key: str) -> Any:
        """Returns a value of the config, such as that of evaluate.best_by."""
        found = _look_up(self.config, key)
        return _EARLIER.get(key) if found is None else found

    @property
    def seed(self) -> int:
        """Of the weights, the order of the images and the augmentation."""
        return self.config["seed"]

    @property
    def is_record(self) -> bool:
        """Tells whether this is a result only, without its run directory."""
        return self.dataset is None

    @property
    def chose_on_test(self) -> bool:
        """Tells whether the epoch was chosen on test images."""
        return self.setting("evaluate.select_on") == "test"

    @property
    def choice_split(self) -> str:
        """The split that epochs are compared on."""
        return "test" if self.chose_on_test else "val"

    def values(self, split: str, name: str) -> dict[int, float]:
        """Returns a metric by epoch."""
        return {
            row["epoch"]: row[name]
            for row in self.rows
            if row["split"] == split and isinstance(row.get(name), _NUMBER)
        }

    @property
    def epochs_done(self) -> int:
        """Epochs that are closed."""
        if self.result:
            return self.result["epochs"]
        return max((row["epoch"] for row in self.rows), default=0)

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The row of the best epoch so far, as the run itself ranks them, or None."""
        rows = [row for row in self.rows if row["split"] == self.choice_split]
        rank = RANKS.get(self.setting("evaluate.best_by"))
        if not rank or not all({"accuracy", "loss"} <= set(row) for row in rows):
            return None
        return max(rows, key=rank, default=None)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights are in best/."""
        if self.result:
            return self.result["best_epoch"]
        return self.best and self.best["epoch"]

    @property
    def validation(self) -> float | None:
        """Validation accuracy of the best epoch (so far), if it has validated."""
        if self.result:
            return self.result["val"] and self.result["val"]["accuracy"]
        return self.best["accuracy"] if self.best and not self.chose_on_test else None

    @property
    def test(self) -> float | None:
        """Test accuracy of a run that has ended."""
        return self.result and self.result["test"]["accuracy"]


def read_all(paths: Sequence[os.PathLike]) -> list[Run]:
    """Reads runs; one that is given twice is read once.

    Raises:
      UserError: If one is neither a run directory nor a result.
    """
    unique = {pathlib.Path(path).resolve(): pathlib.Path(path) for path in paths}
    runs = [read(path) for path in unique.values()]
    names = _names([run.path for run in runs])
    return [
        dataclasses.replace(run, name=name)
        for run, name in zip(runs, names, strict=True)
    ]


def read(path: pathlib.Path) -> Run:
    """Reads a run directory, which may still be trained in, or a result.json.

    Raises:
      UserError: If it is neither, or damaged.
    """
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; give a run directory, or a result.json of one"
        )
    result = _checked(read_object(path), _RESULT, path)
    return Run(
        path=path,
        name=path.name,
        config=_checked(result["config"], _CONFIG, path),
        dataset=None,
        rows=(),
        result=_check_validation(result, path),
        evaluation=None,
        updated=None,
    )


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: If the file holds anything else.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a copy"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; restore it from a copy")
    return found


def is_result(content: Mapping[str, Any]) -> bool:
    """Tells whether a JSON object looks like a result.json."""
    return "config" in content and "test" in content


def _read_directory(path: pathlib.Path) -> Run:
    directory, metrics = RunDirectory(path), path / "metrics.jsonl"
    config = _checked(directory.config(), _CONFIG, path / "config.json")
    dataset = _checked(directory.dataset(), _DATASET, path / "dataset.json")
    result = directory.result()
    if result is not None:
        result = _checked(result, _RESULT, path / "result.json")
        result = _check_validation(result, path / "result.json")
    try:
        rows = [row for row in directory.rows() if _is_row(row)]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{metrics} is damaged ({error}); restore it from a copy"
        ) from error
    return Run(
        path=path,
        name=path.resolve().name,
        config=config,
        dataset=dataset,
        rows=rows,
        result=result,
        evaluation=read_evaluation(path / "evaluation"),
        updated=metrics.stat().st_mtime if metrics.exists() else None,
    )


def _is_row(row: Any) -> bool:
    kinds = {"step": int, "epoch": int, "split": str}
    return isinstance(row, dict) and all(
        isinstance(row.get(key), kind) for key, kind in kinds.items()
    )


def _checked(tree: Any, kinds: Mapping[str, Any], path: pathlib.Path) -> Any:
    """Refuses JSON that lacks what a report shows."""
    for key, kind in kinds.items():
        if not isinstance(_look_up(tree, key), kind):
            raise UserError(
                f"{path} is none that a run has written: it lacks {key}, or has another "
                "type there; restore it from a copy"
            )
    return tree


def _check_validation(result: Any, path: pathlib.Path) -> Any:
    if result.get("val") is not None:
        _checked(result["val"], _VALIDATION, path)
    return {"val": None, **result}


def _look_up(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    parts = [part[:-1] if part[-1] == "result.json" else part for part in parts]
    names = []
    for part in parts:
        name = _printable(_shortest(part, parts))
        times = sum(name == other.split(" (")[0] for other in names)
        names.append(f"{name} ({times + 1})" if times else name)
    return names


def _shortest(own: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    ends = [own[-length:] for length in range(1, len(own) + 1)]
    unique = (
        end for end in ends if sum(other[-len(end) :] == end for other in others) == 1
    )
    return "/".join(next(unique, ends[0]))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)
