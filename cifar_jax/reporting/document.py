"""A report as plain data. `html` and `markdown` write it."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from matplotlib.figure import Figure

from cifar_jax.reporting.chart import Chart


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: What is in it.
      number: What its column is sorted by; such cells stand to the right.
      series: Number of the colour that its row has in charts.
      shade: Share in [0, 1] that its background is filled with.
      links: Texts and addresses; they take the place of `text`.
    """

    text: str
    number: float | None = None
    series: int | None = None
    shade: float | None = None
    links: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A file of the report: plots/NAME.png."""

    name: str
    figure: Figure

    @property
    def path(self) -> str:
        """Where it lies, from the report."""
        return f"plots/{self.name}.png"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header.

    Attributes:
      caption: What it shows.
      columns: Their headers.
      rows: As long as `columns` each.
      total: One more row, or none.
      matrix: Whether it is a matrix: narrow columns, whose headers stand upright.
      drawing: The same as a picture, or None.
    """

    kind: ClassVar = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] = ()
    matrix: bool = False
    drawing: Drawing | None = None

    def compact(self, *optional: str) -> "Table":
        """Returns the table without those of these columns that hold no number."""
        kept = [
            name not in optional or numeric
            for name, numeric in zip(self.columns, self.numeric, strict=True)
        ]
        rows = [list(itertools.compress(row, kept)) for row in self.rows]
        columns = list(itertools.compress(self.columns, kept))
        return dataclasses.replace(self, columns=columns, rows=rows)

    @property
    def numeric(self) -> list[bool]:
        """Tells for each column whether it holds numbers."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        return [any(cell.number is not None for cell in column) for column in columns]


@dataclasses.dataclass(frozen=True)
class Fact:
    """A figure that stands by itself: its name, its value, and a line about it."""

    name: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """The figures that matter most."""

    kind: ClassVar = "facts"
    items: Sequence[Fact]


@dataclasses.dataclass(frozen=True)
class Note:
    """A sentence or two; `warns` where it changes what figures mean.

    Attributes:
      text: The sentences.
      command: That does something about it, or nothing.
      warns: Whether it must not be overlooked.
    """

    kind: ClassVar = "note"
    text: str
    command: str = ""
    warns: bool = False


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts side by side, by name, and what they have in common."""

    kind: ClassVar = "charts"
    charts: dict[str, Chart]
    caption: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, and what it shows."""

    kind: ClassVar = "picture"
    drawing: Drawing
    caption: str


@dataclasses.dataclass(frozen=True)
class Tile:
    """A small image, uint8 [H, W, 1 or 3], its caption, and a description."""

    image: np.ndarray
    caption: tuple[str, str]
    text: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Small images, and the same as one picture."""

    kind: ClassVar = "gallery"
    drawing: Drawing
    tiles: Sequence[Tile]
    caption: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
      title: Its heading.
      blocks: What is in it, sections among it.
      folded: Whether it is closed until it is asked for.
    """

    kind: ClassVar = "section"
    title: str
    blocks: Sequence
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
      title: Its heading.
      origin: Where and when it was made.
      sections: Its parts.
    """

    title: str
    origin: str
    sections: Sequence[Section]

    def blocks(self):
        """Yields every block, in order."""
        yield from _walk(self.sections)


def _walk(blocks):
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from _walk(block.blocks)
