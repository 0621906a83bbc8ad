"""Figures of a study: accuracy against each factor, and the Pareto fronts."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row

# What accuracy is drawn against, where it is known: axis label and scale.
_COSTS = {
    "parameters": ("parameters", 1),
    "macs": ("FLOPs of an image", 2),
    "latency": ("latency of one image (ms)", 1),
}


def draw(study: Study, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Yields the figures of a study, by name."""
    done, kind = [row for row in rows if row.values("accuracy")], study.options.kind
    drawn: dict[str, tuple] = {}
    for name, title in (study.factors or {"": ""}).items():  # a list has no factors
        varied = table.variation(done, name) if kind == "one_at_a_time" else done
        figure_name = f"accuracy_{title}" if title else "accuracy"
        drawn[figure_name] = _by_factor, varied, name, study
    for name in _COSTS:
        known = [row for row in done if row.values(name)]
        drawn[f"pareto_{name}"] = _pareto, known if known == done else [], name
    for name, (paint, shown, *arguments) in drawn.items():
        if shown:
            figure = Figure(figsize=(6.5, 4.5), layout="constrained")
            axes = figure.subplots()
            axes.spines[["top", "right"]].set_visible(False)
            axes.set(ylabel="validation accuracy")
            paint(axes, shown, *arguments)
            yield name, figure


def _means(rows: Sequence[Row]) -> tuple[np.ndarray, list[float]]:
    """Returns the accuracies of designs over their seeds, and their deviations."""
    values = [row.values("accuracy") for row in rows]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    return np.array([statistics.fmean(v) for v in values]), stds


def _by_factor(axes: Axes, rows: Sequence[Row], name: str, study: Study) -> None:
    """Draws the designs by a factor's value, or by name in a list.

    In a plane, each value of the other factor has a line.
    """
    kind, others = study.options.kind, [n for n in study.factors if n != name]
    designs = [row.candidate for row in rows]
    values: list[Any] = [each.value(name) if name else each.name for each in designs]
    is_numeric = all(type(value) in (int, float) for value in values)
    labels = list(dict.fromkeys(map(table.text, values)))
    x = values if is_numeric else [labels.index(table.text(v)) for v in values]
    is_plane = kind == "grid" and len(others) == 1
    is_line = is_plane or kind == "one_at_a_time" or (kind == "grid" and not others)
    lines: dict[str, list[int]] = {}
    for n in sorted(range(len(rows)), key=x.__getitem__):
        other = table.text(rows[n].candidate.value(others[0])) if is_plane else ""
        lines.setdefault(other, []).append(n)
    fmt = "o-" if is_numeric and is_line else "o"
    for other, own in lines.items():
        means, stds = _means([rows[n] for n in own])
        axes.errorbar([x[n] for n in own], means, stds, fmt=fmt, capsize=3, label=other)
    if not is_numeric:
        axes.set_xticks(
            range(len(labels)),
            labels,
            rotation=min(60, 20 + 5 * len(labels)),
            ha="right",
        )
    elif 0 < 30 * min(x) <= max(x):
        axes.set_xscale("log")
    axes.set(xlabel=study.factors.get(name, ""))
    if is_plane:
        axes.legend(title=study.factors[others[0]], frameon=False)


def _pareto(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """Draws accuracy against a cost; a line joins those that no other beats in both."""
    label, scale = _COSTS[name]
    costs = scale * np.array([statistics.fmean(row.values(name)) for row in rows])
    means, stds = _means(rows)
    axes.errorbar(
        costs, means, yerr=stds, fmt="o", color="#8a8f98", capsize=2, zorder=1
    )
    front: list[int] = []
    for k in np.lexsort((-means, costs)):  # cheapest first
        if not front or means[k] > means[front[-1]]:
            front.append(k)
            look = dict(xytext=(5, -10), textcoords="offset points", fontsize=8)
            axes.annotate(rows[k].candidate.name, (costs[k], means[k]), **look)
    look = dict(drawstyle="steps-post", color="#c0392b", label="Pareto front")
    axes.plot(costs[front], means[front], "o-", **look)
    if 0 < 10 * costs.min() <= costs.max():
        axes.set_xscale("log")
    axes.set(xlabel=label)
    axes.legend(frameon=False, loc="lower right")
