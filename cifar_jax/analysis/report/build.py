"""A report of runs: read, put together, and written."""

import datetime
import os
import pathlib
from collections.abc import Sequence

import cifar_jax
from cifar_jax.analysis.output import Output
from cifar_jax.analysis.report import (
    chart,
    comparison,
    curves,
    html,
    markdown,
    mistakes,
    networks,
    overview,
)
from cifar_jax.analysis.report.document import Document
from cifar_jax.analysis.report.groups import group
from cifar_jax.analysis.report.runs import read_all
from cifar_jax.analysis.report.text import plural


def make(paths: Sequence[os.PathLike], now: datetime.datetime) -> Document:
    """Reads runs and returns their report.

    Args:
      paths: Run directories, and files of results.
      now: The time it is made.

    Raises:
      UserError: If one of them is no run.
    """
    groups = group(read_all(paths))
    runs = [run for each in groups for run in each.runs]
    made = networks.Networks()
    single = len(runs) == 1
    if single:
        sections = [overview.section(runs[0], made)]
    else:
        sections = [comparison.section(groups, made)]
    sections += [
        curves.section(groups),
        mistakes.section(groups),
        networks.section(groups, made),
        overview.settings_section(groups),
    ]
    title = f"{plural(len(runs), 'run')} of {plural(len(groups), 'config')}"
    origin = f"Made on {now:%Y-%m-%d at %H:%M} by cifar_jax {cifar_jax.__version__}"
    return Document(runs[0].name if single else title, origin, sections)


def write(document: Document, folder: pathlib.Path) -> list[str]:
    """Writes report.html, report.md, and plots/.

    Returns:
      The names of the files.
    """
    plots, pages = Output(folder / "plots"), Output(folder)
    for block in document.blocks():
        for name, drawn in getattr(block, "charts", {}).items():
            with chart.style():
                plots.figure(f"{name}.png", drawn.figure)
        if drawing := getattr(block, "drawing", None):
            plots.figure(f"{drawing.name}.png", drawing.figure)
    pages.text("report.html", html.render(document))
    pages.text("report.md", markdown.render(document))
    return [*pages.files, *(f"plots/{name}" for name in plots.files)]
