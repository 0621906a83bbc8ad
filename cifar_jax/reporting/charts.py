"""Charts of runs: drawn by matplotlib, shown as SVG in the colours of the page.

A chart remembers where its values lie, so that the page can show those under the
pointer. Charts that have nothing to say, such as one with a single point, are left out.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from cifar_jax.evaluation.scores import Bin, ClassScores
from cifar_jax.reporting.runs import Group, printable

# Colours in light and in dark. Charts are drawn with the light ones; the page turns
# those into CSS variables. Contrast with the paper is at least 4.5 to 1.
PALETTE = {
    "paper": ("#ffffff", "#12161c"),
    "ink": ("#1c2430", "#e6eaf0"),
    "muted": ("#5b6675", "#9aa6b5"),
    "rule": ("#d8dee6", "#333c48"),
    "series-0": ("#1f5fc4", "#6eb0ff"),
    "series-1": ("#c2500c", "#f59a56"),
    "series-2": ("#0f766e", "#4fd1c0"),
    "series-3": ("#8e35c9", "#c79bff"),
    "series-4": ("#be185d", "#f77fb5"),
    "series-5": ("#4d7c0f", "#a2d45e"),
    "series-6": ("#8a5a0b", "#dcaa5e"),
    "series-7": ("#4a5a70", "#a9b6c6"),
}
_LIGHT = {name: light for name, (light, _) in PALETTE.items()}
_NUM_SERIES = sum(name.startswith("series") for name in PALETTE)

_DPI = 72  # of SVG: a length in the figure is the same number there
_SIZE = (4.8, 3.3)  # inches
_LONGEST_NAME = 24
_MOST_CLASSES = 20  # whose names fit below a chart
# In a legend: a name for each colour, and three for the splits and the best epoch.
_MOST_NAMES = _NUM_SERIES + 3
_ROW = 0.21  # height of a legend's row, inches
_LETTER_WIDTH = 4.7  # typical, in points
_LOG_FROM = 5  # ratio of the largest value to the smallest
STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # names are not formulas
    "text.color": _LIGHT["ink"],
    "axes.edgecolor": _LIGHT["muted"],
    "axes.labelcolor": _LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LIGHT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": _LIGHT["muted"],
    "ytick.color": _LIGHT["muted"],
    "legend.columnspacing": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text
}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
# What networks cost, with its unit.
_COSTS: dict[str, tuple[str, Callable[[Group], float | None]]] = {
    "parameters": ("", lambda group: group.runs[0].size[0]),
    "FLOPs": ("", lambda group: group.runs[0].size[1]),
    "latency": ("s", lambda group: group.latency and group.latency / 1000),
}
_TRAINING: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 1.1}
_BEST: dict[str, Any] = {"marker": "o", "ms": 8, "mfc": "none", "linestyle": "none"}


def colour_name(number: int | None) -> str:
    """Returns the name of a series' colour; after the last comes the first."""
    return "muted" if number is None else f"series-{number % _NUM_SERIES}"


def marker(number: int) -> str:
    """Returns the matplotlib marker that tells series of one colour apart."""
    return "osD^"[number // _NUM_SERIES % 4]


class Chart:
    """One pair of axes, to be made and drawn in the style of the page, `STYLE`.

    Attributes:
      name: Name of its file and of its element in the page.
      title: What is shown.
      text: Alternative text.
      figure: matplotlib's figure.
      axes: Its axes.
      lines: For each line its `name`, its `colour`, and its `points`: x, y in the
        coordinates of `svg`, and two texts for the pointer. Whole after `finish`.
    """

    def __init__(self, name: str, title: str, x: str, y: str, text: str):
        self.name, self.title, self.text = name, title, text
        self.lines: list[dict[str, Any]] = []
        self._legend: dict[str, Line2D] = {}
        self.figure = Figure(figsize=_SIZE, dpi=_DPI)
        self.axes = self.figure.subplots()
        self.axes.set(xlabel=x, ylabel=y)

    def line(
        self,
        name: str,
        values: Mapping[Any, float],
        number: int | None,
        labels: Sequence[tuple[str, str]] = (),
        **look: Any,
    ) -> None:
        """Draws a line.

        Args:
          name: Name of the line.
          values: Values of y, by x.
          number: Index of the colour; None for a muted one.
          labels: Two texts for each point: its name and its value. None: the pointer
            passes over the line.
          **look: Properties of the line, as matplotlib names them.
        """
        colour, x, y = colour_name(number), list(values), list(values.values())
        # A value at the edge, such as an accuracy of 1, is drawn whole.
        look = {"marker": "o" if len(x) == 1 else None, "clip_on": False, **look}
        self.axes.plot(x, y, color=_LIGHT[colour], **look)
        if labels:
            points = list(zip(x, y, labels, strict=True))
            self.lines.append({"name": name, "colour": colour, "points": points})

    def name_line(self, name: str, number: int | None, **look: Any) -> None:
        """Adds a line to the legend, with the number and look that `line` takes."""
        colour = _LIGHT[colour_name(number)]
        label = name
        if len(name) > _LONGEST_NAME:  # the ends tell most names apart
            label = f"{name[: _LONGEST_NAME // 2 - 1]}…{name[-_LONGEST_NAME // 2 :]}"
        self._legend[name] = Line2D([], [], color=colour, label=label, **look)

    def finish(self) -> "Chart":
        """Draws the legend and settles where all lies. Draw nothing after this."""
        low, high = self.axes.get_ylim()
        if self.axes.get_ylabel() == "accuracy":
            self.axes.set_ylim(low, min(high, 1.0))
        if 1 < len(self._legend) <= _MOST_NAMES:
            labels = [str(line.get_label()) for line in self._legend.values()]
            column = 40 + _LETTER_WIDTH * max(map(len, labels))
            columns = max(1, int(_DPI * _SIZE[0] / column))
            # The chart keeps its size beside a legend of more than three rows.
            rows = max(3, -(-len(labels) // columns))
            self.figure.set_figheight(_SIZE[1] + _ROW * (rows - 3))
            lines = list(self._legend.values())
            self.figure.legend(lines, labels, loc="outside upper left", ncols=columns)
        # Once: SVG and PNG would each be laid out anew, a point or two apart.
        ConstrainedLayoutEngine().execute(self.figure)
        height = self.figure.bbox.height
        for line in self.lines:
            points = []
            for x, y, label in line["points"]:
                if np.isfinite([x, y]).all():
                    left, bottom = self.axes.transData.transform((x, y)).tolist()
                    points.append([round(left, 1), round(height - bottom, 1), *label])
            line["points"] = points
        return self

    def svg(self) -> str:
        """Returns an <svg> element whose colours are the page's CSS variables."""
        buffer = io.StringIO()
        # The salt makes ids unique within a page, and the same in each rendering.
        with matplotlib.rc_context({"svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", facecolor="none")
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        # Ids that matplotlib numbers repeat in every chart; nothing refers to them.
        svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
        for name, colour in _LIGHT.items():
            svg = re.sub(rf"\b(fill|stroke): {colour}\b", rf"\1: var(--{name})", svg)
        return svg


def curves(groups: Sequence[Group], suffix: str) -> list[Chart]:
    """Returns loss, accuracy and learning rate by epoch, of groups of one data set."""
    charts = []
    for metric in ("loss", "accuracy", "learning_rate"):
        chart = _curves(groups, metric, f"{metric}{suffix}")
        # A single epoch is not a curve: the tables tell it.
        if any(len(line["points"]) > 1 for line in chart.lines):
            charts.append(chart)
    return charts


def _curves(groups: Sequence[Group], metric: str, name: str) -> Chart:
    runs = [(group, run) for group in groups for run in group.runs]
    single, title = len(runs) == 1, metric.replace("_", " ")
    text = "By epoch, for " + ", ".join(group.name for group in groups) + "."
    chart = Chart(name, title.capitalize(), "epoch", title, text)
    # The legend's second part, below the names of groups.
    splits: dict[str, tuple[int | None, dict[str, Any]]] = {}
    for group, run in runs:
        for split, split_name in _SPLITS.items():
            values = run.values(split, metric)
            if not values:
                continue
            # With one run, colours tell the splits apart; with several, the configs.
            secondary = split == "train" and metric != "learning_rate"
            number = int(secondary) if single else group.number
            look = _TRAINING if secondary else {}
            line = title if metric == "learning_rate" else split_name
            best = run.best_epoch if split != "train" else None
            labels = [
                (f"epoch {epoch}", f"{value:#.4g}{', best' if epoch == best else ''}")
                for epoch, value in values.items()
            ]
            full_name = line if single else f"{run.name}, {line}"
            chart.line(full_name, values, number, labels, **look)
            if not single:
                chart.name_line(group.name, group.number)
            splits[line] = (number if single else None, look)
            if best in values:
                chart.line("best", {best: values[best]}, number, **_BEST)
                splits["best epoch"] = (None, _BEST)
    if metric != "learning_rate":
        for line, (number, look) in splits.items():
            chart.name_line(line, number, **look)
    # The axis spans the planned epochs, however far the runs are.
    planned = max(run.settings["train.epochs"] for _, run in runs)
    chart.axes.set_xlim(0, planned * 1.02)
    chart.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return chart.finish()


def tradeoffs(groups: Sequence[Group], suffix: str) -> list[Chart]:
    """Returns accuracy against what networks cost, of groups of one data set.

    A chart is left out unless two groups have an accuracy and different costs.
    """
    charts = []
    for cost, (unit, cost_of) in _COSTS.items():
        points = [
            (group, x, *best)
            for group in groups
            if (x := cost_of(group)) and (best := group.best_known())
        ]
        if len({x for _, x, *_ in points}) < 2:
            continue
        name = f"accuracy_by_{cost.lower()}{suffix}"
        title, text = f"Accuracy against {cost}", "The table of configs has its values."
        chart = Chart(name, title, cost, "accuracy", text)
        for group, x, sample, split in points:
            look: dict[str, Any] = dict(linestyle="none", markersize=6)
            look["marker"] = marker(group.number)
            if split != "test":
                look["markerfacecolor"] = "none"
            label = (f"{x:.4g}{unit} {cost}", f"{split} {sample.text('.4f')}")
            point = {x: sample.mean}
            chart.line(group.name, point, group.number, [label], **look)
            chart.name_line(group.name, group.number, **look)
            if sample.std is not None:
                colour = _LIGHT[colour_name(group.number)]
                bar = dict(color=colour, capsize=3)
                chart.axes.errorbar(x, sample.mean, sample.std, **bar)
        axis, positions = chart.axes.xaxis, [x for _, x, *_ in points]
        if max(positions) / min(positions) >= _LOG_FROM:
            chart.axes.set_xscale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            axis.set_minor_formatter("")
        else:
            axis.set_major_locator(MaxNLocator(5))
            chart.axes.margins(x=0.15)
        axis.set_major_formatter(EngFormatter(unit=unit, sep=""))
        charts.append(chart.finish())
    return charts


def classes(scores: Sequence[ClassScores], suffix: str) -> list[Chart]:
    """Returns the accuracy of each class, and how often each is true and predicted.

    The list is empty where there are more classes than a chart can name.
    """
    if not 2 <= len(scores) <= _MOST_CLASSES:
        return []
    text = "The table of classes has its values."
    title, name = "Accuracy of each class", f"class_accuracy{suffix}"
    accuracy = Chart(name, title, "", "accuracy", text)
    title, name = "True and predicted", f"class_counts{suffix}"
    counts = Chart(name, title, "", "images", text)
    rows: Sequence[Any] = scores
    names = [printable(str(row["name"])) for row in rows]
    for chart, what, key, number, shift, form in (
        (accuracy, "accuracy", "accuracy", 0, 0, ".4f"),
        (counts, "true", "num_examples", 0, -0.2, ","),
        (counts, "predicted", "times_predicted", 1, 0.2, ","),
    ):
        # A class without images has no accuracy.
        values = {k: row[key] for k, row in enumerate(rows) if row[key] is not None}
        places, width = [k + shift for k in values], 0.4 if shift else 0.7
        colour = _LIGHT[colour_name(number)]
        chart.axes.bar(places, list(values.values()), width, color=colour)
        labels = [(names[k], f"{value:{form}}") for k, value in values.items()]
        chart.line(what, values, number, labels, marker="none", linestyle="none")
        chart.name_line(what, number, linewidth=6)
    for k, row in enumerate(rows):
        if interval := row["accuracy_interval"]:
            line = {"color": _LIGHT["ink"], "linewidth": 1.1}
            accuracy.axes.vlines(k, *interval, **line)
    for chart in (accuracy, counts):
        chart.axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        chart.axes.grid(axis="x", visible=False)
    return [accuracy.finish(), counts.finish()]


def reliability(bins: Sequence[Bin], suffix: str) -> list[Chart]:
    """Returns accuracy against confidence: on the diagonal a network is calibrated.

    The list is empty if all images are in one bin of the confidence.
    """
    filled = [part for part in bins if part["count"]]
    if len(filled) < 2:
        return []
    text = "A point for each bin of the confidence. The dashed line is the diagonal."
    chart = Chart(f"reliability{suffix}", "Calibration", "confidence", "accuracy", text)
    values = {part["confidence"]: part["accuracy"] for part in filled}
    labels = [
        (f"confidence {x:.3f}", f"{y:.4f} of {part['count']:,} images")
        for (x, y), part in zip(values.items(), filled, strict=True)
    ]
    chart.line("accuracy", values, 0, labels, marker="o")
    chart.line("diagonal", {0: 0, 1: 1}, None, **_TRAINING)
    chart.axes.set(xlim=(0, 1), ylim=(0, 1))
    return [chart.finish()]
