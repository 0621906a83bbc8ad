"""Tables of runs, as plain data: the page and the published tables write them."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.config import config_to_dict, flatten
from cifar_jax.models import count
from cifar_jax.reporting.runs import (
    ClassScores,
    Group,
    Run,
    Sample,
    differences,
    printable,
)
from cifar_jax.training import pretrained
from cifar_jax.training.progress import clock_time
from cifar_jax.training.results import Dataset

NOTHING = "–"
DAGGER = " †"
SELECTED_ON_TEST = (
    "† The best epoch was selected on the test images: that test accuracy is too high "
    "to compare with."
)
_MOST_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: Its content.
      number: Value that its column is sorted by; such cells are aligned to the right.
      series: Index of the colour that the row has in charts.
      shade: Share in [0, 1] of the background that is filled.
      links: Pairs of text and address, in place of `text`.
    """

    text: str = NOTHING
    number: float | None = None
    series: int | None = None
    shade: float | None = None
    links: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is the row's header.

    Attributes:
      caption: What it shows.
      columns: Headers.
      rows: Cells, one for each column.
      total: One more row, or none.
      kind: "matrix" for narrow columns with upright headers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] = ()
    kind: str = "sortable"

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return [any(cell.number is not None for cell in column) for column in columns]

    def compact(self) -> "Table":
        """Returns the table without columns in which nothing is known."""
        columns = zip(*self.rows, strict=True)
        kept = [any(cell != Cell() for cell in column) for column in columns]
        return dataclasses.replace(
            self,
            columns=list(itertools.compress(self.columns, kept)),
            rows=[list(itertools.compress(row, kept)) for row in self.rows],
        )


def number(value: float | None, form: str = ",") -> Cell:
    """Returns a cell of a number.

    Args:
      value: The number, or None.
      form: How it is written, as `format` has it.
    """
    return Cell() if value is None else Cell(format(value, form), value)


def sample(values: Sample | None, form: str = ".4f", mark: str = "") -> Cell:
    """Returns a cell of a mean and its spread.

    Args:
      values: The sample, or None.
      form: How a number is written, as `format` has it.
      mark: Text after it.
    """
    return Cell(f"{values.text(form)}{mark}", values.mean) if values else Cell()


def duration(seconds: Sample | None) -> Cell:
    """Returns a cell of a mean duration."""
    return Cell(clock_time(seconds.mean), seconds.mean) if seconds else Cell()


def plural(count: int, noun: str) -> str:
    """Returns a count and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def gflops(flops: float | None) -> Cell:
    """Returns a cell of billions of operations."""
    return Cell(f"{flops / 1e9:.3g}", flops) if flops else Cell()


# ---------------------------------------------------------------------------
# Several runs


def configs(groups: Sequence[Group]) -> Table:
    """Returns a row for each config: accuracy over seeds, size and speed."""
    rows = []
    for group in groups:
        mark = DAGGER if group.selected_on_test else ""
        seeds = len({run.settings["seed"] for run in group.runs})
        ended = sum(run.result is not None for run in group.by_seed.values())
        rows.append(
            [
                Cell(group.name, series=group.number),
                Cell(str(ended) if ended == seeds else f"{ended} of {seeds}", ended),
                sample(group.sample(lambda run: run.accuracy("val"))),
                sample(group.sample(lambda run: run.accuracy("test")), mark=mark),
                sample(group.sample(lambda run: run.accuracy("test_tta")), mark=mark),
                number(num_parameters(group.runs[0])),
                sample(group.sample(num_nonzero), ",.0f"),
                gflops(flops(group.runs[0])),
                number(group.latency, ".3g"),
                duration(group.sample(lambda run: run.result["seconds"]["total"])),
            ]
        )
    columns = ["config", "seeds", "validation accuracy", "test accuracy"]
    columns += ["test with augmentation", "parameters", "nonzero", "GFLOPs per image"]
    columns += ["latency, ms", "training time"]
    caption = "Configs: means over the seeds that have ended"
    if any("±" in cell.text for row in rows for cell in row):
        caption += ", ± standard deviation"
    return Table(caption, columns, rows).compact()


def runs(groups: Sequence[Group]) -> Table:
    """Returns a row for each run."""
    rows = []
    for group in groups:
        for run in group.runs:
            planned = run.settings["train.epochs"]
            epochs = "imported" if run.imported else f"{run.num_epochs} of {planned}"
            mark = DAGGER if run.selected_on_test and run.result else ""
            tests = [run.accuracy(name) for name in ("test", "test_tta")]
            rows.append(
                [
                    Cell(run.name, series=group.number),
                    number(run.settings["seed"]),
                    Cell(epochs, run.num_epochs),
                    number(run.best_epoch),
                    Cell(selection(run)),
                    number(run.validation, ".4f"),
                    *(
                        Cell() if test is None else Cell(f"{test:.4f}{mark}", test)
                        for test in tests
                    ),
                    number(run.result["images_per_second"], ",.0f")
                    if run.result
                    else Cell(),
                    Cell(run.place or NOTHING),
                ]
            )
    columns = ["run", "seed", "epochs", "best epoch", "selected by"]
    columns += ["validation accuracy", "test accuracy", "test with augmentation"]
    return Table("Runs", [*columns, "images/s", "devices"], rows).compact()


def selection(run: Run) -> str:
    """Returns how the epoch was selected whose weights are kept."""
    by = run.settings["evaluate.best_by"]
    if run.selected_on_test:
        return f"{by} on the test images"
    if not run.settings["data.validation"] or by == "last":
        return "last epoch"
    return f"validation {by}"


def differing_settings(groups: Sequence[Group]) -> Table:
    """Returns the settings that differ between configs."""
    rows = [
        [Cell(key), *(Cell(literal(value)) for value in values)]
        for key, values in differences(groups).items()
    ]
    caption = f"{plural(len(rows), 'setting')} that differ between configs"
    return Table(caption, ["setting", *(group.name for group in groups)], rows)


# ---------------------------------------------------------------------------
# One run


def epochs(run: Run) -> Table:
    """Returns a row for each epoch."""
    split = "test" if run.selected_on_test else "val"
    name = "test" if split == "test" else "validation"
    columns = {
        "training loss": ("train", "loss", ".4f"),
        "training accuracy": ("train", "accuracy", ".4f"),
        f"{name} loss": (split, "loss", ".4f"),
        f"{name} accuracy": (split, "accuracy", ".4f"),
        "learning rate": ("train", "learning_rate", ".3g"),
        "images/s": ("train", "images_per_second", ",.0f"),
    }
    values = [(run.values(*place), form) for *place, form in columns.values()]
    rows = []
    for epoch, step in {row["epoch"]: row["step"] for row in run.rows}.items():
        mark = " *" if epoch == run.best_epoch else ""
        numbers = [number(metric.get(epoch), form) for metric, form in values]
        rows.append([Cell(f"{epoch}{mark}", epoch), number(step), *numbers])
    caption = "Epochs; * marks the best one, whose weights are kept"
    return Table(caption, ["epoch", "step", *columns], rows).compact()


def settings(run: Run, *, changed: bool = False) -> Table:
    """Returns the config of a run without its seed.

    Args:
      run: The run.
      changed: Whether to show only what differs from the default config.
    """
    usual = flatten(config_to_dict(default.get_config()))
    values = flatten(run.config)
    rows = [
        [Cell(key), Cell(literal(value))]
        for key, value in values.items()
        if key != "seed" and not (changed and key in usual and value == usual[key])
    ]
    caption = f"{plural(len(rows), 'setting')} of {run.name}"
    if changed:
        caption += " that differ from the default config"
    return Table(caption, ["setting", "value"], rows)


def literal(value: Any) -> str:
    """Returns a value as a config file has it; a transform as a call."""
    if isinstance(value, dict) and "name" in value:
        options = [f"{k}={literal(v)}" for k, v in value.items() if k != "name"]
        return f"{value['name']}({', '.join(options)})"
    if isinstance(value, list):
        items = [literal(each) for each in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return str(value)


def layers(caption: str, kind: str, rows: Sequence[count.Layer]) -> Table:
    """Returns a row for each layer, or for each stage, of a network."""
    sums = count.total(rows)
    lines = []
    for row in (*rows, sums):
        shape = "x".join(map(str, row.output_shape)) if row is not sums else ""
        line = [Cell(row.name), Cell(shape)]
        for value, total in ((row.parameters, sums.parameters), (row.macs, sums.macs)):
            line += [number(value), number(value / total, ".1%")]
        lines.append(line)
    columns = [kind, "output", "parameters", "share", "multiply-adds", "share"]
    return Table(caption, columns, lines[:-1], total=lines[-1])


def network_key(run: Run) -> str:
    """Returns what runs of one network have in common."""
    shape, names = run.dataset["image_shape"], run.dataset["label_names"]
    return json.dumps([run.config["model"], shape, len(names)])


def layer_rows(run: Run) -> Sequence[count.Layer]:
    """Returns the layers of a run's network.

    Raises:
      UserError: If this version of the package cannot rebuild the network.
    """
    return _layer_rows(network_key(run))


@functools.cache  # tracing a deep network takes a second
def _layer_rows(key: str) -> Sequence[count.Layer]:
    model, shape, num_classes = json.loads(key)
    dataset: Dataset = {
        "name": "",
        "image_shape": shape,
        "label_names": [""] * num_classes,
        "mean": [],
        "std": [],
    }
    network = pretrained.abstract_model({"model": model}, dataset)
    return count.layer_table(network.model, network.image_shape)


def num_parameters(run: Run) -> int | None:
    """Returns the trainable parameters, if they are known."""
    if run.result:
        return run.result["num_parameters"]
    try:
        return count.total(layer_rows(run)).parameters
    except UserError:
        return None


def flops(run: Run) -> int | None:
    """Returns the FLOPs for one image, two for a multiply-add, if they are known."""
    if run.result:
        return run.result["flops_per_image"]
    try:
        return 2 * count.total(layer_rows(run)).macs
    except UserError:
        return None


def num_nonzero(run: Run) -> int | None:
    """Returns the parameters that are not zero, if some were pruned."""
    pruned = run.result and run.result.get("sparsity")
    return run.result.get("num_nonzero") if pruned else None


# ---------------------------------------------------------------------------
# Errors


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the confusion matrix.

    Args:
      matrix: int64 [K, K], images by true class (row) and predicted class (column).
      names: K classes.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = [
        [
            Cell(name),
            *(
                # The square root makes small shares visible.
                Cell(f"{count:,}", int(count), shade=float(share) ** 0.5)
                for count, share in zip(counts, of_class, strict=True)
            ),
        ]
        for name, counts, of_class in zip(names, matrix, shares, strict=True)
    ]
    caption = "Confusion matrix: true classes in rows, predicted classes in columns"
    return Table(caption, ["true class", *names], rows, kind="matrix")


def confusions(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the pairs of classes that are confused most often.

    Args:
      matrix: int64 [K, K], images by true class (row) and predicted class (column).
      names: K classes.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    rows = []
    for truth, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True):
        images = int(wrong[truth, predicted])
        if images:
            share = number(images / int(matrix[truth].sum()), ".1%")
            pair = [Cell(names[truth]), Cell(names[predicted])]
            rows.append([*pair, number(images), share])
    columns = ["true class", "predicted class", "images", "share of the class"]
    return Table("Most frequent confusions", columns, rows)


def classes(scores: Sequence[ClassScores]) -> Table:
    """Returns the accuracy of each class."""
    rows = []
    for row in scores:
        interval, accuracy = row["accuracy_interval"], number(row["accuracy"], ".4f")
        rows.append(
            [
                Cell(printable(str(row["name"]))),
                dataclasses.replace(accuracy, shade=row["accuracy"]),
                Cell("{:.4f} to {:.4f}".format(*interval), interval[0])
                if interval
                else Cell(),
                number(row["num_examples"]),
                number(row["times_predicted"]),
            ]
        )
    columns = ["class", "accuracy", "95% interval", "images", "times predicted"]
    return Table("Classes", columns, rows)
