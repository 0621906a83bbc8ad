"""Charts: lines or points over one axis, which remember where their values lie."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from cifar_jax.reporting.palette import LIGHT, series, shape

DPI = 72  # of SVG: a length in the figure is the same number there
SIZE = (4.8, 3.3)  # inches
_LONGEST_NAME = 24
_MOST_NAMES = 8  # in a legend: more would leave no room for the chart
_LETTER = 4.7  # typical width, in points
_LOG_FROM = 5  # ratio of the largest value to the smallest
_STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # names are not formulas
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same chart has the same bytes
}


@dataclasses.dataclass(frozen=True)
class Marks:
    """Points of one line, for the one who asks for their values.

    Attributes:
      name: Of the line.
      colour: Of the palette.
      x: float [N], in the axes' units.
      y: float [N], likewise.
      labels: N texts that name each point and its value.
    """

    name: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    labels: Sequence[tuple[str, str]]


class Chart:
    """One pair of axes.

    Args:
      title: What is shown.
      x: Label of the x-axis.
      y: Label of the y-axis.
      text: What a person learns from the picture who cannot see it.
    """

    def __init__(self, title: str, x: str, y: str, text: str):
        self.title, self.text = title, text
        self.marks: list[Marks] = []
        self._legend: list[tuple[str, Line2D]] = []
        with style():
            self.figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
            self.axes = self.figure.subplots()
            self.axes.set(xlabel=x, ylabel=y)

    def line(
        self, name: str, points: dict[int, float], number: int, *, dashed: bool = False
    ) -> None:
        """Draws values over epochs.

        Args:
          name: Of the line.
          points: Values, by epoch.
          number: Of the series, for its colour.
          dashed: Whether it is secondary.
        """
        colour = series(number)
        epochs, values = np.array(list(points)), np.array(list(points.values()))
        look = dict(linestyle=(0, (3, 2)), linewidth=1.1) if dashed else {}
        marker = "o" if len(points) == 1 else None
        with style():
            self.axes.plot(
                epochs, values, color=LIGHT[colour], marker=marker, markersize=4, **look
            )
        labels = [
            (f"epoch {epoch}", f"{value:#.4g}") for epoch, value in points.items()
        ]
        self.marks.append(Marks(name, colour, epochs, values, labels))

    def point(
        self,
        name: str,
        x: float,
        y: float,
        number: int,
        *,
        spread: float | None,
        hollow: bool,
        label: tuple[str, str],
    ) -> None:
        """Draws one point.

        Args:
          name: Of the point.
          x: Where it lies.
          y: Likewise.
          number: Of the series, for its colour.
          spread: Half the height of its error bar, or None.
          hollow: Whether its value is of another kind than that of filled points.
          label: Names the point, and its value.
        """
        colour = LIGHT[series(number)]
        with style():
            self.axes.errorbar(
                [x],
                [y],
                None if spread is None else [spread],
                fmt=shape(number),
                color=colour,
                markerfacecolor="none" if hollow else colour,
                markersize=6,
                capsize=3,
            )
        place = np.array([x]), np.array([y])
        self.marks.append(Marks(name, series(number), *place, [label]))

    def name(self, name: str, number: int | None = None, **look) -> None:
        """Adds a line to the legend.

        Args:
          name: What it says.
          number: Of the series; None: it tells of a kind of line, whatever its colour.
          **look: Of the line beside it.
        """
        colour = LIGHT["muted" if number is None else series(number)]
        self._legend.append((_short(name), Line2D([], [], color=colour, **look)))

    def over_epochs(self, num_epochs: int) -> None:
        """Lays out the x-axis for a whole run, however far it is."""
        self.axes.set_xlim(0, num_epochs * 1.02)
        self.axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    def over_quantity(self, unit: str = "") -> None:
        """Lays out the x-axis for values that may differ by orders of magnitude."""
        values = np.concatenate([marks.x for marks in self.marks])
        if values.min() > 0 and values.max() / values.min() >= _LOG_FROM:
            self.axes.set_xscale("log")
            self.axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            self.axes.xaxis.set_minor_formatter("")
        else:
            self.axes.xaxis.set_major_locator(MaxNLocator(5))
            self.axes.margins(x=0.15)
        self.axes.xaxis.set_major_formatter(EngFormatter(unit=unit, sep=""))

    def finish(self) -> None:
        """Draws the legend, unless it is too long, and settles where all lies."""
        with style():
            if 0 < len(self._legend) <= _MOST_NAMES:
                names, lines = zip(*self._legend, strict=True)
                column = 40 + _LETTER * max(map(len, names))
                self.figure.legend(
                    lines,
                    names,
                    loc="outside upper left",
                    ncols=max(1, int(DPI * SIZE[0] / column)),
                    handlelength=1.8,
                    columnspacing=1.4,
                    labelcolor=LIGHT["ink"],
                )
            self.figure.draw_without_rendering()
        # Else SVG and PNG would each be laid out anew, a point or two apart.
        self.figure.set_layout_engine("none")


def _short(name: str) -> str:
    """Returns a name without its middle, if it is long: ends tell names apart."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = _LONGEST_NAME // 2
    return f"{name[: half - 1]}…{name[-half:]}"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of charts. Draw and save them in here."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names may have letters that the font of PNG lacks: it draws boxes for them.
        warnings.filterwarnings("ignore", message="Glyph")
        yield
