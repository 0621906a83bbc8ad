"""What `cifar_jax.evaluate` left in a run directory."""

import csv
import dataclasses
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.reporting import checked

_LABELS = ("labels", "predictions")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation; what it did not look at is None.

    Attributes:
      record: What evaluation.json holds.
      matrix: int64 [K, K], from true classes (rows) to labels given (columns).
      errors: Arrays of errors.npz, as `sections.draw_errors` lists them.
    """

    record: Mapping[str, Any]
    matrix: np.ndarray | None
    errors: Mapping[str, np.ndarray] | None

    @property
    def efficiency(self) -> Mapping[str, Any]:
        """What the network costs."""
        return self.record["efficiency"]

    def fits(self, num_classes: int) -> bool:
        """Tells whether there is a confusion matrix, and of these classes."""
        labels = [self.errors[key] for key in _LABELS] if self.errors else []
        within = all(((0 <= k) & (k < num_classes)).all() for k in labels)
        scored = self.matrix is not None and self.record.get("scores")
        return bool(scored) and len(self.matrix) == num_classes and within

    @property
    def split(self) -> str | None:
        """Of the run's own images, "val" or "test", if its best weights were scored."""
        return self.record.get("split") if self.record["weights"] == "best" else None


def read(folder: pathlib.Path) -> Evaluation | None:
    """Reads the folder of an evaluation; None if there is none.

    Raises:
      UserError: If a file of it is damaged.
    """
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    record = checked.checked(checked.read_object(path), checked.EVALUATION, path)
    if record.get("scores"):
        checked.checked(record, checked.SCORES, path)
    if "latency_ms" in record["efficiency"]:
        checked.checked(record["efficiency"], checked.SPEED, path)
    files = record["files"]  # those of an earlier evaluation may still lie there
    try:
        path = folder / "confusion.csv"
        matrix = _read_matrix(path) if path.name in files else None
        path = folder / "errors.npz"
        errors = _read_arrays(path) if path.name in files else None
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); evaluate the run "
            "again"
        ) from error
    return Evaluation(record, matrix, errors)


def _read_matrix(path: pathlib.Path) -> np.ndarray:
    with path.open(newline="") as file:
        _, *rows = csv.reader(file)
    matrix = np.array([[int(value) for value in row[1:]] for row in rows])
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError("no square matrix")
    return matrix


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    keys = ("places", "images", "confidence", *_LABELS)
    if len({len(arrays[key]) for key in keys}) != 1:
        raise ValueError("lengths differ")
    return arrays
