"""Tables of runs, as plain data: the page writes them."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from cifar_jax import UserError
from cifar_jax.config import flatten
from cifar_jax.evaluation.scores import ClassScores
from cifar_jax.models import count
from cifar_jax.models.design import Design
from cifar_jax.reporting.runs import DEFAULTS, Group, Run, Sample, printable
from cifar_jax.training import pretrained
from cifar_jax.training.progress import clock_time

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
    """

    text: str = NOTHING
    number: float | None = None
    series: int | None = None
    shade: float | None = None


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


def number(value: float | None, form: str = ",", mark: str = "") -> Cell:
    """Returns a cell of a number in a `form` of Python's `format`, and a mark."""
    return Cell() if value is None else Cell(f"{value:{form}}{mark}", value)


def mean(values: Sample | None, form: str = ".4f", mark: str = "") -> Cell:
    """Returns a cell of a mean and its spread, likewise."""
    return Cell(f"{values.text(form)}{mark}", values.mean) if values else Cell()


def duration(seconds: Sample | None) -> Cell:
    """Returns a cell of a mean duration."""
    return Cell(clock_time(seconds.mean), seconds.mean) if seconds else Cell()


def plural(count: int, noun: str) -> str:
    """Returns a count and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# Several runs


def configs(groups: Sequence[Group]) -> Table:
    """Returns a row for each config: accuracy over seeds, size and speed."""
    rows = []
    for group in groups:
        mark = DAGGER if group.selected_on_test else ""
        parameters, flops = size(group.runs[0])
        seeds, ended = len(group.by_seed), group.num_ended
        rows.append(
            [
                Cell(group.name, series=group.number),
                Cell(str(ended) if ended == seeds else f"{ended} of {seeds}", ended),
                mean(group.sample(lambda run: run.accuracy("val"))),
                mean(group.sample(lambda run: run.accuracy("test")), mark=mark),
                mean(group.sample(lambda run: run.accuracy("test_tta")), mark=mark),
                number(parameters),
                mean(group.sample(lambda run: run.num_nonzero), ",.0f"),
                number(flops / 1e9 if flops else None, ".3g"),
                number(group.latency, ".3g"),
                duration(group.sample(lambda run: run.seconds)),
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
    pairs = [(group.number, run) for group in groups for run in group.runs]
    for series, run in pairs:
        planned, result = run.settings["train.epochs"], run.result
        epochs = "imported" if run.imported else f"{run.num_epochs} of {planned}"
        mark = DAGGER if run.selected_on_test else ""
        row = [
            Cell(run.name, series=series),
            number(run.settings["seed"]),
            Cell(epochs, run.num_epochs),
            number(run.best_epoch),
            Cell(selection(run)),
            number(run.validation, ".4f"),
            number(run.accuracy("test"), ".4f", mark),
            number(run.accuracy("test_tta"), ".4f", mark),
            number(result["images_per_second"] if result else None, ",.0f"),
            Cell(run.place or NOTHING),
        ]
        rows.append(row)
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
    """Returns the settings that differ between configs.

    It is not a difference if a run's version of the package lacked the setting.
    """
    settings, rows = [group.runs[0].compared for group in groups], []
    for key in dict.fromkeys(key for values in settings for key in values):
        present = [values[key] for values in settings if key in values]
        if any(value != present[0] for value in present):
            cells = [Cell(literal(v[key])) if key in v else Cell() for v in settings]
            rows.append([Cell(key), *cells])
    caption = f"{plural(len(rows), 'setting')} that differ between configs"
    names = [group.name for group in groups]
    if len(groups) > max(4, len(rows)):  # so many are rows, not columns
        keys, *columns = zip(*rows, strict=True)
        table = [[Cell(n), *column] for n, column in zip(names, columns, strict=True)]
        return Table(caption, ["config", *(key.text for key in keys)], table)
    return Table(caption, ["setting", *names], rows)


# One run


def epochs(run: Run) -> Table:
    """Returns a row for each epoch."""
    split = "test" if run.selected_on_test else "val"
    name = "test" if run.selected_on_test else "validation"
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
    """Returns the config of a run, or only what is `changed` from the default one."""
    rows = []
    for key, value in flatten(run.config).items():
        usual = key in DEFAULTS and value == DEFAULTS[key]
        if key != "seed" and not (changed and usual):
            rows.append([Cell(key), Cell(literal(value))])
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
        items = list(map(literal, value))
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return str(value)


class Part(NamedTuple):
    """A part of a network as it is drawn, in the order of the computation."""

    name: str
    detail: str
    output: str  # shape of the map, such as 32x32x64
    shortcut: str = ""  # what leads around a block; empty: nothing does
    times: int = 1  # how many such parts follow each other


def drawing(
    design: Design, shape: tuple[int, int, int], num_classes: int
) -> list[Part]:
    """Returns the parts of a network to draw: equal blocks of a stage are one."""
    sizes = [f"{height}x{width}" for height, width in design.map_sizes(shape)]
    kernel, width = design.stem_kernel, design.stem_width
    stem = f"{kernel}x{kernel} convolution, stride {design.stem_stride}"
    stem = f"{design.stem}: {stem}" if design.stem != "conv" else stem
    stem += f", max-pool {design.stem_pool}" if design.stem_pool else ""
    parts = [Part("image", "", "x".join(map(str, shape)))]
    parts.append(Part("stem", stem, f"{sizes[0]}x{width}"))
    excite = ", squeeze-and-excitation" if design.se_ratio else ""
    for stage, blocks in enumerate(design.stage_sizes):
        name, after = f"stage {stage + 1}", design.widths[stage]
        size, output = design.kernel_sizes[stage], f"{sizes[stage + 1]}x{after}"
        if design.downsample == "pool":
            window = design.strides[stage]
            text = f"{size}x{size} convolution, max-pool {window}"
            parts.append(Part(f"{name}, pool", text, output))
            width = after
        for index in range(blocks):
            stride, shortcut = design.block_stride(stage, index), "identity"
            if stride != 1 or width != after:
                kernel = design.shortcut_kernel_sizes[stage]
                shortcut = f"{kernel}x{kernel} projection"
                shortcut = "padding" if design.shortcut == "padding" else shortcut
            text = f"two {size}x{size} convolutions, stride {stride}{excite}"
            if parts[-1][1:4] == (text, output, shortcut):
                parts[-1] = parts[-1]._replace(times=parts[-1].times + 1)
            else:
                block = f"{name}, block {index + 1}"
                parts.append(Part(block, text, output, shortcut))
            width = after
    pool = "all of the map" if design.pool is None else f"{design.pool}x{design.pool}"
    parts.append(Part("classifier", f"mean over {pool}, linear", f"{num_classes}"))
    return parts


class Network(NamedTuple):
    """A network: its size in a sentence, its drawing, and its stages and layers.

    `error` says why this version of the package cannot rebuild it, if so.
    """

    summary: str = ""
    drawing: Sequence[Part] = ()
    parts: Table | None = None
    layers: Table | None = None
    error: str = ""


def network(run: Run) -> Network:
    """Returns the network of a run."""
    try:
        rows = _layer_rows(_network_key(run))
    except UserError as error:
        return Network(error=str(error))
    sums, tables = count.total(rows), []
    for caption, kind, parts in (
        ("Parts of the network", "part", count.by_stage(rows)),
        (f"All {len(rows)} layers", "layer", rows),
    ):
        lines = []
        for part in (*parts, sums):
            shares = part.parameters / sums.parameters, part.macs / sums.macs
            line = [Cell(part.name), Cell("x".join(map(str, part.output_shape)))]
            line += [number(part.parameters), number(shares[0], ".1%")]
            line += [number(part.macs), number(shares[1], ".1%")]
            lines.append(line)
        lines[-1][1] = Cell("")  # a total has no output
        columns = [kind, "output", "parameters", "share", "multiply-adds", "share"]
        tables.append(Table(caption, columns, lines[:-1], total=lines[-1]))
    budget = count.budget_line(sums.parameters, run.settings["budget.limit"])
    shape = "x".join(map(str, run.image_shape))
    text = (
        f"{budget}. For an image of {shape}: {sums.macs:,} multiply-adds of "
        "convolutions and linear layers, twice as many FLOPs."
    )
    model = pretrained.abstract_model(run.config, cast(Any, run.dataset)).model
    drawn = drawing(model.design, cast(Any, run.image_shape), model.num_classes)
    return Network(text, drawn, *tables)


def networks(groups: Sequence[Group]) -> list[list[Group]]:
    """Returns the groups that share a network, for each network."""
    members: dict[str, list[Group]] = {}
    for group in groups:
        if not group.runs[0].is_record:
            members.setdefault(_network_key(group.runs[0]), []).append(group)
    return list(members.values())


def _network_key(run: Run) -> str:
    return json.dumps([{"model": run.config["model"]}, run.dataset])


@functools.cache  # tracing a deep network takes a second
def _layer_rows(key: str) -> list[count.Layer]:
    network = pretrained.abstract_model(*json.loads(key))
    return count.layer_table(network.model, network.image_shape)


def size(run: Run) -> tuple[int | None, int | None]:
    """Returns the trainable parameters, and the FLOPs for one image, if known."""
    if run.result:
        return run.result["num_parameters"], run.result["flops_per_image"]
    try:
        total = count.total(_layer_rows(_network_key(run)))
    except UserError:
        return None, None
    return total.parameters, 2 * total.macs  # a multiply-add is two operations


def costs(groups: Sequence[Group]) -> dict[str, list[float | None]]:
    """Returns what networks cost; latency in seconds."""
    sizes = [size(group.runs[0]) for group in groups]
    latencies = [group.latency for group in groups]
    return {
        "parameters": [parameters for parameters, _ in sizes],
        "FLOPs": [flops for _, flops in sizes],
        "latency": [None if ms is None else ms / 1000 for ms in latencies],
    }


# Errors


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the confusion matrix int64 [K, K] of K classes, true ones in rows."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = np.sqrt(shares).tolist()  # the square root makes small shares visible
    rows = []
    for name, counts, row_shades in zip(names, matrix.tolist(), shades, strict=True):
        pairs = zip(counts, row_shades, strict=True)
        rows.append([Cell(name), *(Cell(f"{n:,}", n, shade=s) for n, s in pairs)])
    caption = "Confusion matrix: true classes in rows, predicted classes in columns"
    return Table(caption, ["true class", *names], rows, kind="matrix")


def confusions(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the pairs of classes in a matrix that are confused most often."""
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
        accuracy, interval = number(row["accuracy"], ".4f"), Cell()
        if row["accuracy_interval"]:
            low, high = row["accuracy_interval"]
            interval = Cell(f"{low:.4f} to {high:.4f}", low)
        accuracy = dataclasses.replace(accuracy, shade=row["accuracy"])
        cells = [Cell(printable(str(row["name"]))), accuracy, interval]
        rows.append(
            [*cells, number(row["num_examples"]), number(row["times_predicted"])]
        )
    columns = ["class", "accuracy", "95% interval", "images", "times predicted"]
    return Table("Classes", columns, rows)
