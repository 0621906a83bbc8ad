"""Figures of a study: accuracy against each factor, and the Pareto fronts."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from cifar_jax.studies import table
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row

BLUE, RED, GRAY = "#2b6cb0", "#c0392b", "#8a8f98"
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
    for name in table.factor_names(done):
        rows = [row for row in done if name in row.candidate.factors]
        yield f"accuracy_{table.short(name)}", _against_factor(study, name, rows)
    for name in _COSTS:
        if all(row.values(name) for row in done):
            yield f"pareto_{name}", _pareto(name, done)


def _against_factor(study: Study, name: str, rows: Sequence[Row]) -> Figure:
    """Draws the designs by a factor's value; in a grid, a line for each other value."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    values = list(dict.fromkeys(table.text(r.candidate.factors[name]) for r in rows))
    numbers = [row.candidate.factors[name] for row in rows]
    numeric = all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
    )
    positions = {} if numeric else {value: k for k, value in enumerate(values)}

    def place(row: Row) -> float:
        value = row.candidate.factors[name]
        return value if numeric else positions[table.text(value)]

    others = [n for n in table.factor_names(rows) if n != name]
    lines: dict[str, list[Row]] = {}
    for row in rows:
        key = (
            ""
            if study.samples or len(others) != 1
            else table.text(row.candidate.factors.get(others[0], ""))
        )
        lines.setdefault(key, []).append(row)
    for key, members in lines.items():
        members = sorted(members, key=place)
        axes.errorbar(
            [place(row) for row in members],
            [row.mean("accuracy") for row in members],
            yerr=[row.std("accuracy") or 0 for row in members],
            label=f"{table.short(others[0])} = {key}" if key else None,
            marker="o",
            capsize=3,
            linestyle="" if study.samples or len(others) > 1 else "-",
        )
    if numeric and min(numbers) > 0 and max(numbers) >= 30 * min(numbers):
        axes.set_xscale("log")
    elif not numeric:
        axes.set_xticks(range(len(values)), values, rotation=20, ha="right")
    axes.set(xlabel=table.short(name), ylabel="validation accuracy")
    if any(lines):
        axes.legend(frameon=False)
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
    axes.plot(costs[front], accuracy[front], "o-", color=RED, label="Pareto front")
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
