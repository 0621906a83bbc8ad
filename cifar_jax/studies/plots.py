"""Figures of a study: accuracy against each factor, and the Pareto fronts."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row

RED, GRAY = "#c0392b", "#8a8f98"
# What accuracy is drawn against, where it is known: axis and scale.
_COSTS = {
    "parameters": ("parameters", 1),
    "macs": ("FLOPs of an image", 2),
    "latency": ("latency of one image (ms)", 1),
}


def draw(study: Study, found: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Yields the figures of a study, by name."""
    done = [row for row in found if row.values("accuracy")]
    if not done:
        return
    if study.kind == "list":
        yield "accuracy", _by_design(done)
    for name in table.factor_names(done) if study.kind != "list" else ():
        alone = study.kind == "one_at_a_time"
        rows = table.variation(done, name) if alone else done
        yield f"accuracy_{table.short(name)}", _against_factor(study, name, rows)
    for name in _COSTS:
        if all(row.values(name) for row in done):
            yield f"pareto_{name}", _pareto(name, done)


def _against_factor(study: Study, name: str, rows: Sequence[Row]) -> Figure:
    """Draws the designs by a factor's value; in a plane, a line for each other one."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    numbers = [table.factor(row, name) for row in rows]
    labels = list(dict.fromkeys(map(table.text, numbers)))
    numeric = all(type(number) in (int, float) for number in numbers)
    places = numbers if numeric else [labels.index(table.text(n)) for n in numbers]
    others = [other for other in table.factor_names(rows) if other != name]
    plane = len(others) == 1 and study.kind == "grid"
    joined = plane or (not others and not study.samples)
    lines: dict[str, list[tuple[float, Row]]] = {}
    for place, row in zip(places, rows, strict=True):
        key = table.text(table.factor(row, others[0])) if plane else ""
        lines.setdefault(key, []).append((place, row))
    for key, members in lines.items():
        members.sort(key=lambda member: member[0])
        axes.errorbar(
            [place for place, _ in members],
            [row.mean("accuracy") for _, row in members],
            yerr=[row.std("accuracy") or 0 for _, row in members],
            label=f"{table.short(others[0])} = {key}" if plane else None,
            marker="o",
            capsize=3,
            linestyle="-" if joined and numeric else "",
        )
    if numeric and min(numbers) > 0 and max(numbers) >= 30 * min(numbers):
        axes.set_xscale("log")
    elif not numeric:
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axes.set(xlabel=table.short(name), ylabel="validation accuracy")
    if plane:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _by_design(rows: Sequence[Row]) -> Figure:
    """Draws the designs of a list, from the top down."""
    figure = Figure(figsize=(6.5, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [row.candidate.name for row in rows]
    axes.errorbar(
        [row.mean("accuracy") for row in rows],
        range(len(rows)),
        xerr=[row.std("accuracy") or 0 for row in rows],
        fmt="o",
        capsize=3,
    )
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlabel="validation accuracy")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _pareto(name: str, rows: Sequence[Row]) -> Figure:
    """Draws accuracy against a cost; a line joins those that no other beats in both."""
    label, scale = _COSTS[name]
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    costs = np.array([scale * row.mean(name) for row in rows])
    accuracy = np.array([row.mean("accuracy") for row in rows])
    spread = [row.std("accuracy") or 0 for row in rows]
    axes.errorbar(costs, accuracy, yerr=spread, fmt="o", color=GRAY, capsize=2)
    best, front = -np.inf, []
    for k in np.lexsort((-accuracy, costs)):
        if accuracy[k] > best:
            best = accuracy[k]
            front.append(k)
    axes.step(
        *(costs[front], accuracy[front], "o-"),
        where="post",
        color=RED,
        label="Pareto front",
    )
    for k in front:
        axes.annotate(
            rows[k].candidate.name,
            (costs[k], accuracy[k]),
            xytext=(5, -10),
            textcoords="offset points",
            fontsize=8,
        )
    if costs.min() > 0 and costs.max() >= 10 * costs.min():
        axes.set_xscale("log")
    axes.set(xlabel=label, ylabel="validation accuracy")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
