"""Labels for images of any source, written to CSV as they are found."""

import csv
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.data.dataset import Batch, Dataset
from cifar_jax.evaluation import scores
from cifar_jax.evaluation.inference import Predictor

HEADER = ("ID", "Labels")
ERROR = "Error"


@dataclasses.dataclass
class Summary:
    """What a file of predictions holds.

    Attributes:
      counts: int64 [K], images by the label they were given.
      num_images: In all.
      num_failed: Images that could not be read.
      first_error: Of the first such image, or None.
      seconds: From the first image read to the last row written; compiling excluded.
    """

    counts: np.ndarray
    num_images: int = 0
    num_failed: int = 0
    first_error: str | None = None
    seconds: float = 0.0


def write(
    predictor: Predictor,
    table: Dataset,
    path: pathlib.Path,
    *,
    top_k: int = 0,
    probabilities: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Labels all images of a table and writes one row for each, in order.

    The columns are `ID`, the source's or else 0 to N - 1; `Labels`, class numbers;
    with `top_k`, `Top1` to `TopK`, the most likely classes, and `Top1Probability` and
    so on; with `probabilities`, one column for each class, `P_` and its name; and
    `Error`, if there are images that cannot be read. The labels of those are empty.
    Only a batch is in memory at a time, and the file appears when it is whole.

    Args:
      predictor: The network.
      table: Images of its shape.
      path: CSV file to write.
      top_k: How many of the most likely classes to write; 0: only the label.
      probabilities: Whether to write the probabilities of all classes.
      advance: Called with the number of images of each batch that is done.

    Raises:
      UserError: If there are no images, or fewer classes than asked for.
    """
    names = predictor.network.label_names
    if not len(table):
        raise UserError(f"{table.name} is empty; choose another split or source")
    if not 0 <= top_k <= len(names):
        raise UserError(
            f"--topk is {top_k}, and the network knows {len(names)} classes; use 0 to "
            f"{len(names)}"
        )
    columns = _Columns(names, top_k, probabilities)
    summary = Summary(np.zeros(len(names), np.int64))
    predictor.compile(predictor.batch_size(table))
    start = time.perf_counter()
    with replacing(path) as temporary, _Writer(temporary, columns.header) as writer:
        for rows, logits in predictor.batches(table):
            first = summary.num_images
            stop = first + len(logits)
            ids = range(first, stop) if table.ids is None else table.ids[first:stop]
            writer.write(ids, columns.values(logits[:, -1]), rows.errors)
            _count(summary, rows, logits[:, -1])
            advance(len(logits))
    summary.seconds = time.perf_counter() - start
    return summary


def _count(summary: Summary, rows: Batch, logits: np.ndarray) -> None:
    good = np.ones(len(logits), bool)
    good[list(rows.errors)] = False
    labels = logits[good].argmax(axis=-1)
    summary.counts += np.bincount(labels, minlength=len(summary.counts))
    summary.num_images += len(logits)
    summary.num_failed += len(rows.errors)
    if summary.first_error is None and rows.errors:
        summary.first_error = rows.errors[min(rows.errors)]


class _Columns:
    """What is written of each image beside its ID."""

    def __init__(self, label_names: Sequence[str], top_k: int, probabilities: bool):
        self._top_k, self._probabilities = top_k, probabilities
        self.header = [*HEADER]
        for k in range(1, top_k + 1):
            self.header += [f"Top{k}", f"Top{k}Probability"]
        if probabilities:
            self.header += [f"P_{name}" for name in label_names]

    def values(self, logits: np.ndarray) -> list[list]:
        """Returns a list for each image.

        Args:
          logits: float [B, K].
        """
        columns = [logits.argmax(axis=-1).tolist()]
        if self._top_k or self._probabilities:
            shares = np.exp(scores.log_probabilities(logits))
            best = np.argsort(-logits, axis=-1, kind="stable")
            for k in range(self._top_k):
                likely = np.take_along_axis(shares, best[:, k : k + 1], axis=-1)
                columns += [best[:, k].tolist(), _digits(likely[:, 0])]
            if self._probabilities:
                columns += [_digits(column) for column in shares.T]
        return [list(row) for row in zip(*columns, strict=True)]


def _digits(shares: np.ndarray) -> list[str]:
    return [f"{share:.6f}" for share in shares]


class _Writer:
    """A CSV file that gets a column of errors once there is one."""

    def __init__(self, path: pathlib.Path, header: list[str]):
        self._path, self._header = path, header
        self._has_errors = False

    def __enter__(self):
        self._open("w")
        self._csv.writerow(self._header)
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, ids: Sequence, values: list[list], errors: dict[int, str]) -> None:
        """Adds the rows of a batch."""
        if errors and not self._has_errors:
            self._add_column()
        blank = [""] * (len(self._header) - len(HEADER) + 1)
        for k, (id, row) in enumerate(zip(ids, values, strict=True)):
            end = [errors.get(k, "")] if self._has_errors else []
            self._csv.writerow([id, *(blank if k in errors else row), *end])

    def _open(self, mode: str) -> None:
        self._file = self._path.open(mode, newline="", encoding="utf-8")
        self._csv = csv.writer(self._file, lineterminator="\n")

    def _add_column(self) -> None:
        """Writes the rows so far again, with an empty error each."""
        self._file.close()
        self._has_errors = True
        with replacing(self._path) as temporary:
            with self._path.open(newline="", encoding="utf-8") as old:
                with temporary.open("w", newline="", encoding="utf-8") as new:
                    rows = csv.reader(old)
                    writer = csv.writer(new, lineterminator="\n")
                    writer.writerow([*next(rows), ERROR])
                    writer.writerows([*row, ""] for row in rows)
        self._open("a")


def check_path(path: pathlib.Path, overwrite: bool) -> None:
    """Refuses an output that exists or cannot be written, before any work is done.

    Raises:
      UserError: names the remedy.
    """
    if path.is_dir():
        raise UserError(f"--output {path} is a folder; give a file, such as preds.csv")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; give --overwrite, or another --output")
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--output {path} cannot be written: {path.parent} is no folder that may "
            "be written to; make it, or choose another"
        )
