"""Tables of runs, as plain data: the page writes them."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from cifar_jax import UserError
from cifar_jax.config import DEFAULTS
from cifar_jax.evaluation.scores import ClassScores
from cifar_jax.models import count
from cifar_jax.models.design import Design
from cifar_jax.reporting.runs import Group, Run, Sample, printable
from cifar_jax.training import pretrained
from cifar_jax.training.progress import clock_time

NOTHING = "–"
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


def make(
    caption: str, items: Collection[Any], columns: Mapping[str, Callable[[Any], Cell]]
) -> Table:
    """Returns a row for each item; a column in which nothing is known is left out."""
    cells = {title: [show(item) for item in items] for title, show in columns.items()}
    known = {t: shown for t, shown in cells.items() if any(c != Cell() for c in shown)}
    return Table(caption, list(known), list(zip(*known.values(), strict=True)))


def number(
    value: float | Sample | None,
    form: str = ",",
    mark: str = "",
    *,
    scale: float = 1,
    shade: float | None = None,
) -> Cell:
    """Returns a cell of a number, or of a mean and its spread.

    Args:
      value: Value; None if it is not known.
      form: Form of Python's `format`.
      mark: Text after it.
      scale: Factor of a plain number.
      shade: As `Cell` has it.
    """
    if value is None:
        return Cell()
    if isinstance(value, Sample):
        return Cell(value.text(form) + mark, value.mean)
    value *= scale
    return Cell(f"{value:{form}}{mark}", value, shade=shade)


def duration(seconds: Sample | None) -> Cell:
    """Returns a cell of a mean duration."""
    return Cell(clock_time(seconds.mean), seconds.mean) if seconds else Cell()


def plural(count: int, noun: str) -> str:
    """Returns a count and its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


# Several runs


def configs(groups: Sequence[Group]) -> Table:
    """Returns a row for each config: accuracy over seeds, size and speed."""
    caption = "Configs: means over the seeds that have ended"
    caption += ", ± standard deviation of three or more"
    columns = {
        "config": lambda g: Cell(g.name, series=g.number),
        "seeds": lambda g: Cell(g.seeds, g.num_ended),
        "validation accuracy": lambda g: number(g.sample("validation"), ".4f"),
        "test accuracy": lambda g: number(g.sample("test"), ".4f", g.mark),
        "test with augmentation": lambda g: number(g.sample("test_tta"), ".4f", g.mark),
        "parameters": lambda g: number(g.runs[0].size[0]),
        "nonzero": lambda g: number(g.sample("num_nonzero"), ",.0f"),
        "GFLOPs per image": lambda g: number(g.runs[0].size[1], ".3g", scale=1e-9),
        "latency, ms": lambda g: number(g.latency, ".3g"),
        "training time": lambda g: duration(g.sample("seconds")),
    }
    return make(caption, groups, columns)


def runs(groups: Sequence[Group]) -> Table:
    """Returns a row for each run."""
    series = {run: group.number for group in groups for run in group.runs}
    columns = {
        "run": lambda run: Cell(run.name, series=series[run]),
        "seed": lambda run: number(run.settings["seed"]),
        "epochs": lambda run: (
            Cell(f"{run.num_epochs} of {run.settings['train.epochs']}", run.num_epochs)
            if not run.imported
            else Cell("imported", 0)
        ),
        "best epoch": lambda run: number(run.best_epoch),
        "selected by": lambda run: Cell(selection(run)),
        "validation accuracy": lambda run: number(run.validation, ".4f"),
        "test accuracy": lambda run: number(run.test, ".4f", run.mark),
        "test with augmentation": lambda run: number(run.test_tta, ".4f", run.mark),
        "images/s": lambda run: number(
            run.result and run.result["images_per_second"], ",.0f"
        ),
        "devices": lambda run: Cell(run.place or NOTHING),
    }
    return make("Runs", list(series), columns)


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
    names = [group.name for group in groups]
    settings = [group.runs[0].compared for group in groups]
    keys = dict.fromkeys(itertools.chain(*settings))
    cells = {key: [Cell(literal(each.get(key))) for each in settings] for key in keys}
    cells = {key: row for key, row in cells.items() if len(set(row)) > 1}
    caption = f"{plural(len(cells), 'setting')} by which the configs differ"
    if len(groups) > max(4, len(cells)):  # so many are rows, not columns
        rows = [[Cell(n), *row] for n, *row in zip(names, *cells.values(), strict=True)]
        return Table(caption, ["config", *cells], rows)
    rows = [[Cell(key), *row] for key, row in cells.items()]
    return Table(caption, ["setting", *names], rows)


# One run


def epochs(run: Run) -> Table:
    """Returns a row for each epoch."""
    split = "test" if run.selected_on_test else "val"
    name = "test" if run.selected_on_test else "validation"
    steps = {row["epoch"]: row["step"] for row in run.rows}
    columns: dict[str, Callable[[Any], Cell]] = {
        "epoch": lambda n: Cell(f"{n} *" if n == run.best_epoch else f"{n}", n),
        "step": lambda n: number(steps[n]),
    }
    for title, (of, metric, form) in {
        "training loss": ("train", "loss", ".4f"),
        "training accuracy": ("train", "accuracy", ".4f"),
        f"{name} loss": (split, "loss", ".4f"),
        f"{name} accuracy": (split, "accuracy", ".4f"),
        "learning rate": ("train", "learning_rate", ".3g"),
        "images/s": ("train", "images_per_second", ",.0f"),
    }.items():
        values = run.values(of, metric)
        columns[title] = lambda n, values=values, form=form: number(values.get(n), form)
    return make("Epochs; * marks the best one, whose weights are kept", steps, columns)


def settings(run: Run, *, changed: bool = False) -> Table:
    """Returns the config of a run, or only what is `changed` from the default one."""
    shown = {
        key: value
        for key, value in run.settings.items()
        if key != "seed" and not (changed and value == DEFAULTS.get(key))
    }
    caption = f"{plural(len(shown), 'setting')} of {run.name}"
    caption += " other than the default" if changed else ""
    rows = [[Cell(key), Cell(literal(value))] for key, value in shown.items()]
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
    kernel = design.stem_kernel
    stem = f"{kernel}x{kernel} convolution, stride {design.stem_stride}"
    stem = f"{design.stem}: {stem}" if design.stem != "conv" else stem
    stem += f", max-pool {design.stem_pool}" if design.stem_pool else ""
    parts = [Part("image", "", "x".join(map(str, shape)))]
    parts.append(Part("stem", stem, f"{sizes[0]}x{design.stem_width}"))
    excite = ", squeeze-and-excitation" if design.se_ratio else ""
    for part in design.parts():
        kind = part.name.partition("_")[2].replace("block", "block ")
        name, size = f"stage {part.stage + 1}, {kind}", part.kernel
        output, shortcut = f"{sizes[part.stage + 1]}x{part.width}", "identity"
        if part.pools:
            text = f"{size}x{size} convolution, max-pool {part.stride}"
            parts.append(Part(name, text, output))
            continue
        if part.reshapes:
            kernel = part.shortcut_kernel
            shortcut = f"{kernel}x{kernel} projection"
            shortcut = "padding" if design.shortcut == "padding" else shortcut
        text = f"two {size}x{size} convolutions, stride {part.stride}{excite}"
        if parts[-1][1:4] == (text, output, shortcut):
            parts[-1] = parts[-1]._replace(times=parts[-1].times + 1)
        else:
            parts.append(Part(name, text, output, shortcut))
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
        network = pretrained.abstract_model(run.config, cast(Any, run.dataset))
    except UserError as error:
        return Network(error=str(error))
    rows = count.layer_table(network.model, network.image_shape)
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
    shape = "x".join(map(str, network.image_shape))
    text = (
        f"{budget}. For an image of {shape}: {sums.macs:,} multiply-adds of "
        "convolutions and linear layers, twice as many FLOPs."
    )
    design = network.model.design
    drawn = drawing(design, network.image_shape, network.num_classes)
    return Network(text, drawn, *tables)


# Errors


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the confusion matrix int64 [K, K] of K classes, true ones in rows."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shades = np.sqrt(shares).tolist()  # the square root makes small shares visible
    rows = [
        [Cell(name), *(number(n, shade=shade) for n, shade in zip(*row, strict=True))]
        for name, *row in zip(names, matrix.tolist(), shades, strict=True)
    ]
    caption = "Confusion matrix: true classes in rows, predicted classes in columns"
    return Table(caption, ["true class", *names], rows, kind="matrix")


def confusions(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """Returns the pairs of classes in a matrix that are confused most often."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    columns = {
        "true class": lambda pair: Cell(names[pair[0]]),
        "predicted class": lambda pair: Cell(names[pair[1]]),
        "images": lambda pair: number(int(wrong[pair])),
        "share of the class": lambda pair: number(
            wrong[pair] / matrix[pair[0]].sum(), ".1%"
        ),
    }
    found = [pair for pair in pairs if wrong[pair]]
    return make("Most frequent confusions", found, columns)


def classes(scores: Sequence[ClassScores]) -> Table:
    """Returns the accuracy of each class."""
    columns = {
        "class": lambda row: Cell(printable(str(row["name"]))),
        "accuracy": lambda row: number(row["accuracy"], ".4f", shade=row["accuracy"]),
        "95% interval": lambda row: (
            Cell("{:.4f} to {:.4f}".format(*bounds), bounds[0])
            if (bounds := row["accuracy_interval"])
            else Cell()
        ),
        "images": lambda row: number(row["num_examples"]),
        "times predicted": lambda row: number(row["times_predicted"]),
    }
    return make("Classes", scores, columns)
