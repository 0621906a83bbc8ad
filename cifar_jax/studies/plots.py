"""Figures of a study: accuracy against each factor, and the Pareto fronts."""

import statistics
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row

RED, GRAY = "#c0392b", "#8a8f98"
# What accuracy is drawn against, where it is known: axis label and scale.
_COSTS = {
    "parameters": ("parameters", 1),
    "macs": ("FLOPs of an image", 2),
    "latency": ("latency of one image (ms)", 1),
}


def draw(study: Study, rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Yields the figures of a study, by name."""
    done = [row for row in rows if row.values("accuracy")]
    if not done:
        return
    if study.kind == "list":
        yield "accuracy", _by_design(done)
    for name in table.factor_names(study, done):
        alone = study.kind == "one_at_a_time"
        varied = table.variation(done, name) if alone else done
        yield f"accuracy_{table.short(name)}", _against_factor(study, name, varied)
    for name in _COSTS:
        if all(row.values(name) for row in done):
            yield f"pareto_{name}", _pareto(name, done)


def _axes(height: float = 4.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.5, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _accuracy(rows: Sequence[Row]) -> tuple[np.ndarray, list[float]]:
    """Returns means and standard deviations over seeds."""
    values = [row.values("accuracy") for row in rows]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    return np.array([statistics.fmean(v) for v in values]), stds


def _against_factor(study: Study, name: str, rows: Sequence[Row]) -> Figure:
    """Draws the designs by a factor's value; in a plane, a line for each other one."""
    figure, axes = _axes()
    others = [other for other in table.factor_names(study, rows) if other != name]
    is_plane = len(others) == 1 and study.kind == "grid"
    is_numeric = all(type(row.factor(name)) in (int, float) for row in rows)
    labels = list(dict.fromkeys(table.text(row.factor(name)) for row in rows))

    places: dict[str, float] = {}
    for row in rows:
        value = row.factor(name)
        place = value if is_numeric else labels.index(table.text(value))
        places[row.candidate.name] = place
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: places[row.candidate.name]):
        label = ""
        if is_plane:
            value = table.text(row.factor(others[0]))
            label = f"{table.short(others[0])} = {value}"
        lines.setdefault(label, []).append(row)
    is_joined = is_numeric and (is_plane or not (others or study.is_sampled))
    for label, members in lines.items():
        style = dict(fmt="o-" if is_joined else "o", capsize=3, label=label)
        means, stds = _accuracy(members)
        x = [places[row.candidate.name] for row in members]
        axes.errorbar(x, means, yerr=stds, **style)
    if not is_numeric:
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    elif 0 < 30 * min(places.values()) <= max(places.values()):
        axes.set_xscale("log")
    axes.set(xlabel=table.short(name), ylabel="validation accuracy")
    if is_plane:
        axes.legend(frameon=False)
    return figure


def _by_design(rows: Sequence[Row]) -> Figure:
    """Draws the designs of a list, from the top down."""
    figure, axes = _axes(1.2 + 0.4 * len(rows))
    places, (means, stds) = range(len(rows)), _accuracy(rows)
    axes.errorbar(means, places, xerr=stds, fmt="o", capsize=3)
    axes.set_yticks(places, [row.candidate.name for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="validation accuracy")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _pareto(name: str, rows: Sequence[Row]) -> Figure:
    """Draws accuracy against a cost; a line joins those that no other beats in both."""
    label, scale = _COSTS[name]
    figure, axes = _axes()
    costs = scale * np.array([row.mean(name) for row in rows])
    accuracy, stds = _accuracy(rows)
    style = dict(fmt="o", color=GRAY, capsize=2)
    axes.errorbar(costs, accuracy, yerr=stds, **style)
    front: list[int] = []
    for k in np.lexsort((-accuracy, costs)):  # cheapest first
        if not front or accuracy[k] > accuracy[front[-1]]:
            front.append(k)
            style = dict(xytext=(5, -10), textcoords="offset points", fontsize=8)
            axes.annotate(rows[k].candidate.name, (costs[k], accuracy[k]), **style)
    style = dict(drawstyle="steps-post", color=RED, label="Pareto front")
    axes.plot(costs[front], accuracy[front], "o-", **style)
    if 0 < 10 * costs.min() <= costs.max():
        axes.set_xscale("log")
    axes.set(xlabel=label, ylabel="validation accuracy")
    axes.legend(frameon=False, loc="lower right")
    return figure
