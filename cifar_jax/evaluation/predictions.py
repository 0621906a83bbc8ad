"""Labels for images of any source, written to CSV as they are computed."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from cifar_jax import UserError
from cifar_jax._files import replacing, spreadsheet_cell
from cifar_jax.data.dataset import Dataset
from cifar_jax.evaluation import scores
from cifar_jax.evaluation.inference import Predictor


@dataclasses.dataclass
class Summary:
    """What a file of predictions holds.

    Attributes:
      counts: int64 [K], number of images by the label they were given.
      num_images: Number of images.
      errors: By place, the error of each image that could not be read.
    """

    counts: np.ndarray
    num_images: int = 0
    errors: dict[int, str] = dataclasses.field(default_factory=dict)

    def text(self, label_names: Sequence[str]) -> str:
        """Returns how many images got each label, and how many an error."""
        width, num_labelled = max(map(len, label_names)), self.counts.sum()
        lines = [
            f"{k:>4}  {name:<{width}}  {n:>9,}  {n / num_labelled:6.1%}"
            for k, (name, n) in enumerate(zip(label_names, self.counts, strict=True))
        ]
        if self.errors:
            first, *_ = self.errors.values()
            lines.append(
                f"{len(self.errors):,} of {self.num_images:,} images could not be read "
                f"and got an error, not a label; the first: {first}"
            )
        return "\n".join(lines)


def write(
    predictor: Predictor,
    dataset: Dataset,
    path: pathlib.Path,
    *,
    top_k: int = 0,
    probabilities: bool = False,
    spreadsheet: bool = False,
) -> Summary:
    """Labels all images of a data set and writes one row for each, in order.

    The columns are `ID`, the source's or else 0 to N - 1; `Labels`, class numbers; what
    is asked for; and `Error`, if some images cannot be read; their labels are empty.

    Args:
      predictor: Network.
      dataset: Images of its shape.
      path: CSV file to write.
      top_k: Most classes in `Top1`, `Top1Probability` and so on.
      probabilities: Whether to write all probabilities, in `P_` and the class name.
      spreadsheet: Whether IDs that a spreadsheet took for formulas are quoted by '.

    Raises:
      UserError: If no image can be read; nothing is written then.
    """
    names = predictor.network.label_names
    summary = Summary(np.zeros(len(names), np.int64))
    ids = range(len(dataset)) if dataset.ids is None else dataset.ids
    with replacing(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            for batch, outputs in predictor.batches(dataset, "labelling"):
                logits, first = outputs[:, -1], summary.num_images  # with TTA, if any
                columns = _columns(logits, names, top_k, probabilities)
                if not first:
                    writer.writerow(["ID", *columns])
                rows = list(zip(*columns.values(), strict=True))
                for k, error in batch.errors.items():
                    rows[k] = ("",) * len(columns)
                    summary.errors[first + k] = error
                for id, row in zip(ids[first : first + len(rows)], rows, strict=True):
                    writer.writerow([spreadsheet_cell(id) if spreadsheet else id, *row])
                labels = np.delete(logits, list(batch.errors), axis=0).argmax(axis=-1)
                summary.counts += np.bincount(labels, minlength=len(names))
                summary.num_images += len(logits)
        if summary.errors:
            _add_errors(temporary, summary)
    return summary


def _columns(
    logits: np.ndarray, label_names: Sequence[str], top_k: int, probabilities: bool
) -> dict[str, list]:
    """Returns what is written of images beside their IDs, for logits [B, K]."""
    columns = {"Labels": logits.argmax(axis=-1).tolist()}
    shares = np.exp(scores.log_probabilities(logits))
    for k, best in enumerate(np.argsort(-logits, kind="stable").T[:top_k], 1):
        likely = shares[np.arange(len(best)), best]
        columns[f"Top{k}"] = best.tolist()
        columns[f"Top{k}Probability"] = np.char.mod("%.6f", likely).tolist()
    for name, share in zip(label_names, shares.T, strict=True):
        if probabilities:
            columns[f"P_{name}"] = np.char.mod("%.6f", share).tolist()
    return columns


def _add_errors(path: pathlib.Path, summary: Summary) -> None:
    """Adds a column of errors to a CSV file; refuses one in which all are errors."""
    count, errors = summary.num_images, summary.errors
    if len(errors) == count:
        first, *_ = errors.values()
        raise UserError(
            f"none of the {count:,} images can be read, the first one: {first}"
        )
    with (
        replacing(path) as temporary,
        path.open(newline="", encoding="utf-8") as old,
        temporary.open("w", newline="", encoding="utf-8") as new,
    ):
        rows, writer = csv.reader(old), csv.writer(new, lineterminator="\n")
        writer.writerow([*next(rows), "Error"])
        writer.writerows([*row, errors.get(k, "")] for k, row in enumerate(rows))
