"""A report of runs as one HTML file, which needs no other file.

page.html lays out what this module prepares, and holds the report's sentences; page.css
and page.js go into the same file.
"""

import base64
import dataclasses
import datetime
import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from cifar_jax._files import OutputFolder
from cifar_jax.evaluation import scores
from cifar_jax.models import count
from cifar_jax.reporting import charts, tables
from cifar_jax.reporting.charts import Chart
from cifar_jax.reporting.runs import Run, group_runs
from cifar_jax.training.progress import clock_time
from cifar_jax.training.results import versions

_FOLDER = pathlib.Path(__file__).parent


class Fact(NamedTuple):
    """A figure that stands by itself: its name, its value, and a line about it."""

    name: str
    value: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """A report: its page, and the charts in it."""

    html: str
    charts: Sequence[Chart]

    def write(self, folder: pathlib.Path) -> list[str]:
        """Writes report.html, and each chart as plots/NAME.png; returns their names."""
        page, plots = OutputFolder(folder), OutputFolder(folder / "plots")
        page.text("report.html", self.html)
        for chart in self.charts:
            with plots.file(f"{chart.name}.png") as path:
                chart.save(path)
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
    groups, datasets, drawn = group_runs(runs), {}, []
    for group in groups:
        datasets.setdefault(group.runs[0].settings["data.name"], []).append(group)
    title = runs[0].name
    if len(runs) > 1:
        configs = tables.plural(len(groups), "config")
        title = f"{tables.plural(len(runs), 'run')} of {configs}"
    html = environment.get_template("page.html").render(
        title=title,
        version=versions(["cifar-jax"])["cifar-jax"],
        now=now,
        runs=runs,
        groups=groups,
        datasets=datasets,
        charts=charts,
        drawn=drawn,  # the template adds the charts that it shows
        tables=tables,
        facts=facts,
        local_time=datetime.datetime.fromtimestamp,
        picture=picture_address,
        tile=_tile,
        style=(_FOLDER / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
    )
    return Report(html, drawn)


def picture_address(png: bytes) -> str:
    """Returns an address that holds a picture."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _tile(image: np.ndarray) -> str:
    """Returns an address that holds an image, uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, format="png", optimize=True)
    return picture_address(buffer.getvalue())


# ---------------------------------------------------------------------------
# The figures at the top of the page of one run


def facts(run: Run) -> list[Fact]:
    """Returns the figures that matter most about a run."""
    figures = [_test(run)]
    augmented = run.accuracy("test_tta")
    if augmented is not None:
        detail = f"test-time augmentation: {run.settings['evaluate.tta']}"
        figures.append(Fact("Test accuracy, augmented", f"{augmented:.4f}", detail))
    if run.validation is not None:
        detail = f"epoch {run.best_epoch} of {run.num_epochs}, selected by "
        detail += tables.selection(run)
        val = run.result.get("val") if run.result else None
        if val and "num_examples" in val:
            detail += f"; {val['num_examples']:,} images"
        so_far = "" if run.result else " so far"
        figures.append(
            Fact(f"Validation accuracy{so_far}", f"{run.validation:.4f}", detail)
        )
    figures += [*_size(run), *_speed(run)]
    cost = run.evaluation.record.get("efficiency") if run.evaluation else None
    if cost and run.latency is not None:
        detail = (
            f"a batch of {cost['latency_batch_size']}; "
            f"{cost['images_per_second']:,.0f} images/s in batches of "
            f"{cost['best_batch_size']:,}; {cost['num_devices']} x {cost['device']}"
        )
        figures.append(Fact("Latency", f"{run.latency:.3g} ms", detail))
    return figures


def _test(run: Run) -> Fact:
    name = "Test accuracy"
    if run.imported:
        if run.evaluation is None or run.evaluation.split != "test":
            return Fact(name, "not yet", "the weights were imported")
        scored = run.evaluation.record["scores"]
        low, high = scored["accuracy_interval"]
        detail = f"of imported weights; 95% interval {low:.4f} to {high:.4f}"
        return Fact(name, f"{scored['accuracy']:.4f}", detail)
    if not run.result:
        return Fact(name, "not yet", "scored once, when the run ends")
    test = run.result.get("test")
    if test is None:
        return Fact(name, "not scored", "evaluate.test is False")
    on_test, total = run.selected_on_test, test.get("num_examples")
    detail = "the best epoch was selected on them" if on_test else "scored once"
    if total:
        low, high = scores.wilson_interval(round(test["accuracy"] * total), total)
        detail = f"95% interval {low:.4f} to {high:.4f}; {total:,} images, {detail}"
    mark = tables.DAGGER if on_test else ""
    return Fact(name, f"{test['accuracy']:.4f}{mark}", detail)


def _size(run: Run) -> list[Fact]:
    parameters, flops = tables.size(run)
    if parameters is None or flops is None:
        return []
    # The budget line starts with the number, which is the value here.
    budget = count.budget_line(parameters, run.settings["budget.limit"])
    detail = budget.split(" parameters", 1)[1].lstrip(":; ")
    if run.num_nonzero is not None:
        detail += f"; {run.num_nonzero:,} are nonzero"
    return [
        Fact("Parameters", f"{parameters:,}", detail),
        Fact("GFLOPs per image", f"{flops / 1e9:.3g}", f"{flops // 2:,} multiply-adds"),
    ]


def _speed(run: Run) -> list[Fact]:
    if run.imported:
        return []
    if not run.result:
        rates = list(run.values("train", "images_per_second").values())
        speed = f"{rates[-1]:,.0f} images/s" if rates else ""
        planned = run.settings["train.epochs"]
        return [Fact("Epochs", f"{run.num_epochs} of {planned}", speed)]
    seconds = run.result["seconds"]
    clocks = {key: seconds[key] for key in ("compile", "train", "evaluate")}
    detail = ", ".join(f"{key} {clock_time(value)}" for key, value in clocks.items())
    rate = f"{run.result['images_per_second']:,.0f} images/s"
    return [
        Fact("Time", clock_time(seconds["total"]), detail),
        Fact("Training speed", rate, run.place or ""),
    ]


def summary(runs: Sequence[Run]) -> list[str]:
    """Returns a line with the accuracies of each config, for the terminal."""
    lines = []
    for group in group_runs(runs):
        seeds = tables.plural(group.num_ended, "seed")
        parts = [f"{group.name}: {seeds} of {len(group.by_seed)} ended"]
        for split, name in (("validation", "val"), ("test", "test")):
            accuracies = group.sample(lambda run, name=name: run.accuracy(name))
            if accuracies:
                parts.append(f"{split} accuracy {accuracies.text('.4f')}")
        if group.selected_on_test:
            parts.append("selected on the test images, so too high to compare with")
        lines.append(", ".join(parts))
    return lines
