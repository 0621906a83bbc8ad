"""A report of runs as one HTML file, which needs no other file.

page.html lays out what this module prepares, and holds the report's sentences; page.css
and page.js go into the same file.
"""

import base64
import dataclasses
import datetime
import hashlib
import io
import json
import pathlib
import warnings
from collections.abc import Sequence

import jinja2
import matplotlib
import numpy as np
from PIL import Image

from cifar_jax._files import OutputFolder
from cifar_jax.models import count
from cifar_jax.reporting import charts, tables
from cifar_jax.reporting.charts import Chart
from cifar_jax.reporting.runs import Run, group_runs
from cifar_jax.training.progress import clock_time
from cifar_jax.training.results import versions, wilson_interval

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Report:
    """A report: its page, and the charts in it."""

    html: str
    charts: Sequence[Chart]

    def write(self, folder: pathlib.Path) -> list[str]:
        """Writes report.html, and each chart as plots/NAME.png; returns their names."""
        page, plots = OutputFolder(folder), OutputFolder(folder / "plots")
        page.text("report.html", self.html)
        with matplotlib.rc_context(charts.STYLE):
            for chart in self.charts:
                plots.figure(f"{chart.name}.png", chart.figure)
        return [*page.files, *(f"plots/{name}" for name in plots.files)]


def make(runs: Sequence[Run], now: datetime.datetime) -> Report:
    """Makes the report of runs, and shows `now` as its time.

    Every text is escaped, and the page forbids itself to load anything and to run any
    script but its own.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,  # names of classes and folders are not ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_FOLDER / "page.js").read_text()
    digest = hashlib.sha256(script.encode()).digest()
    groups, datasets, networks, drawn = group_runs(runs), {}, {}, []
    for group in groups:
        run = group.runs[0]
        datasets.setdefault(run.settings["data.name"], []).append(group)
        if not run.is_record:
            network = json.dumps([run.config["model"], run.dataset])
            networks.setdefault(network, []).append(group)
    context = dict(
        version=versions(["cifar-jax"])["cifar-jax"],
        now=now,
        runs=runs,
        groups=groups,
        datasets=datasets,
        networks=list(networks.values()),
        charts=charts,
        drawn=drawn,  # the template adds the charts that it shows
        tables=tables,
        budget_line=count.budget_line,
        clock_time=clock_time,
        wilson_interval=wilson_interval,
        local_time=datetime.datetime.fromtimestamp,
        picture=picture_address,
        style=(_FOLDER / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
    )
    with matplotlib.rc_context(charts.STYLE), warnings.catch_warnings():
        # Names may have letters that the font lacks: boxes are drawn for them.
        warnings.filterwarnings("ignore", message="Glyph")
        html = environment.get_template("page.html").render(context)
    return Report(html, drawn)


def picture_address(picture: bytes | np.ndarray) -> str:
    """Returns an address that holds a PNG file, or an image uint8 [H, W, 1 or 3]."""
    if isinstance(picture, np.ndarray):
        buffer = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(buffer, format="png", optimize=True)
        picture = buffer.getvalue()
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def summary(runs: Sequence[Run]) -> list[str]:
    """Returns a line with the accuracies of each config, for the terminal."""
    lines = []
    for group in group_runs(runs):
        seeds = tables.plural(group.num_ended, "seed")
        parts = [f"{group.name}: {seeds} of {len(group.by_seed)} ended"]
        for name in ("validation", "test"):
            if accuracies := group.sample(name):
                parts.append(f"{name} accuracy {accuracies.text('.4f')}")
        if group.selected_on_test:
            parts.append("selected on the test images, so too high to compare with")
        lines.append(", ".join(parts))
    return lines
