"""A report of runs: put together, and written."""

import datetime
import pathlib
from collections.abc import Sequence

from cifar_jax.evaluation.output import Output
from cifar_jax.reporting import (
    chart,
    comparison,
    curves,
    html,
    markdown,
    mistakes,
    networks,
    overview,
)
from cifar_jax.reporting.document import Document
from cifar_jax.reporting.groups import group
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import plural, sample
from cifar_jax.training.results import versions


def default_folder(runs: Sequence[Run]) -> pathlib.Path:
    """Returns where a report goes: with one run, into its directory."""
    if len(runs) == 1 and not runs[0].is_record:
        return runs[0].path
    return pathlib.Path("runs/report")


def make(runs: Sequence[Run], now: datetime.datetime) -> Document:
    """Returns the report of runs.

    Args:
      runs: As `runs.read_all` returns them.
      now: The time it is made.
    """
    groups, made = group(runs), networks.Networks()
    if len(runs) == 1:
        title, first = runs[0].name, overview.section(runs[0], made)
    else:
        title = f"{plural(len(runs), 'run')} of {plural(len(groups), 'config')}"
        first = comparison.section(groups, made)
    sections = [
        first,
        curves.section(groups),
        mistakes.section(groups),
        networks.section(groups, made),
        overview.settings_section(groups),
    ]
    (version,) = versions(["cifar-jax"]).values()
    origin = f"Made on {now:%Y-%m-%d at %H:%M} by cifar_jax {version}"
    return Document(title, origin, sections)


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


def lines(runs: Sequence[Run]) -> list[str]:
    """Returns the accuracies of each config, for a person."""
    found = []
    for each in group(runs):
        ended = len(each.finished)
        parts = [f"{each.name}: {plural(ended, 'seed')} of {len(each.seeds)} ended"]
        for kind, value in (
            ("validation", lambda run: run.validation),
            ("test", lambda run: run.test),
        ):
            if each.sample(value):
                parts.append(f"{kind} accuracy {sample(each.sample(value)).text}")
        if each.chose_on_test:
            parts.append("chosen on the test images: no honest accuracy")
        found.append(", ".join(parts))
    return found
