"""Figures of an evaluation: each function returns a matplotlib Figure to save or show.

Nothing here touches pyplot's global state, so no display is needed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cifar_jax.evaluation.scores import Bin, calibration_error

_MOST_CLASSES = 20  # whose names and counts can be read


def confusion(matrix: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Draws the shares of each class's images by the label they were given.

    Args:
      matrix: int [K, K], from true classes (rows) to labels given (columns).
      label_names: K names.
    """
    size = len(matrix)
    side = min(3 + 0.45 * size, 12)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes = figure.subplots()
    mesh = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(mesh, ax=axes, label="share of the true class")
    axes.set(xlabel="label given", ylabel="true class")
    if size <= _MOST_CLASSES:
        axes.set_xticks(range(size), label_names, rotation=45, ha="right")
        axes.set_yticks(range(size), label_names)
        for (row, column), count in np.ndenumerate(matrix):
            look = {"ha": "center", "va": "center", "fontsize": 8}
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:,}", color=colour, **look)
    return figure


def reliability(calibrations: Mapping[str, Sequence[Bin]]) -> Figure:
    """Draws accuracy against confidence, over how often each confidence occurs.

    Args:
      calibrations: Calibrations by what the legend calls them.
    """
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    top, bottom = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], color="black", linestyle="--", label="perfect")
    for name, bins in calibrations.items():
        filled = [b for b in bins if b["count"]]
        top.plot(
            [b["confidence"] for b in filled],
            [b["accuracy"] for b in filled],
            marker="o",
            label=f"{name}: ECE {calibration_error(bins):.3f}",
        )
        counts = np.array([b["count"] for b in bins])
        edges = [0, *(b["high"] for b in bins)]
        bottom.stairs(counts / counts.sum(), edges, fill=True, alpha=0.5)
    top.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    top.legend(loc="upper left", frameon=False)
    bottom.set(xlabel="confidence", ylabel="share of images")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
