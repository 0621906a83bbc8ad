"""Figures of an evaluation: each function returns a matplotlib Figure to save or show.

Nothing here touches pyplot's global state, so no display is needed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cifar_jax.evaluation.scores import Calibration

BLUE, RED = "#2b6cb0", "#c0392b"
_MOST_NAMED = 30  # classes whose names fit along an axis
_MOST_COUNTED = 15  # classes whose counts can be read in the cells


def confusion(matrix: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Draws the shares of each class's images by the label they were given.

    Args:
      matrix: int [K, K], from true classes (rows) to labels given (columns).
      label_names: K names.
    """
    size, named = len(matrix), len(matrix) <= _MOST_NAMED
    side = min(3 + 0.45 * size, 12)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mesh = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="label given", ylabel="true class")
    if named:
        axes.set_xticks(range(size), label_names, rotation=45, ha="right")
        axes.set_yticks(range(size), label_names)
    if size <= _MOST_COUNTED:
        for (row, column), share in np.ndenumerate(shares):
            axes.text(
                column,
                row,
                f"{matrix[row, column]:,}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share > 0.5 else "black",
            )
    figure.colorbar(mesh, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def reliability(
    before: Calibration, after: Calibration | None = None, temperature: float = 1.0
) -> Figure:
    """Draws accuracy against confidence, over how often each confidence occurs.

    Args:
      before: Calibration of the network as it is.
      after: Calibration with its logits divided by the temperature, or None.
      temperature: Temperature fitted on validation images.
    """
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    top, bottom = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect", zorder=3)
    edges, width = before.edges, 1 / len(before.counts)
    centres = edges[:-1] + width / 2
    filled = before.counts > 0
    top.bar(
        centres[filled],
        before.accuracy[filled],
        width * 0.92,
        color=BLUE,
        alpha=0.75,
        label=f"as it is: ECE {before.error:.3f}",
    )
    if after is not None:
        filled = after.counts > 0
        top.plot(
            after.confidence[filled],
            after.accuracy[filled],
            color=RED,
            marker="o",
            markersize=4,
            label=f"at temperature {temperature:.2f}: ECE {after.error:.3f}",
        )
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.legend(loc="upper left", frameon=False)
    bottom.bar(
        centres,
        before.counts / before.counts.sum(),
        width * 0.92,
        color=BLUE,
        alpha=0.75,
    )
    bottom.set(xlabel="confidence", ylabel="share of images")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def corruption_errors(error: Mapping[str, Sequence[float]]) -> Figure:
    """Draws a table of error rates: a row for each corruption, a column a severity.

    Args:
      error: By corruption, the share of wrong labels at severities 1, 2 and so on.
    """
    names = sorted(error, key=lambda name: np.mean(error[name]))
    table = np.array([error[name] for name in names])
    height = 1.4 + 0.38 * len(names)
    figure = Figure(figsize=(6.5, height), layout="constrained")
    axes = figure.subplots()
    mesh = axes.imshow(table, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set_xticks(range(table.shape[1]), map(str, range(1, table.shape[1] + 1)))
    axes.set(xlabel="severity", title=f"mean error {table.mean():.3f}")
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if value > 0.6 else "black"
        axes.text(
            column,
            row,
            f"{value:.3f}",
            ha="center",
            va="center",
            fontsize=9,
            color=colour,
        )
    figure.colorbar(mesh, ax=axes, label="error")
    return figure
