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

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.evaluation import scores
from cifar_jax.models import count
from cifar_jax.reporting import charts, tables
from cifar_jax.reporting.charts import Chart
from cifar_jax.reporting.runs import Evaluation, Group, Run, group
from cifar_jax.training.progress import clock_time
from cifar_jax.training.results import versions

_FOLDER = pathlib.Path(__file__).parent
_MOST_CLASSES = 20  # whose confusion matrix can be read as a table


class Fact(NamedTuple):
    """A figure that stands by itself: its name, its value, and a line about it."""

    name: str
    value: str
    detail: str = ""


class DataSet(NamedTuple):
    """The runs of one data set: only those can be compared.

    Attributes:
      name: Name of the data set.
      groups: Groups of its runs.
      runs: All its runs.
      tradeoffs: Charts of accuracy against cost.
      curves: Charts by epoch.
      smoothing: Label smoothing of the runs that have any.
    """

    name: str
    groups: Sequence[Group]
    runs: Sequence[Run]
    tradeoffs: Sequence[Chart]
    curves: Sequence[Chart]
    smoothing: Sequence[float]


class Errors(NamedTuple):
    """What an evaluated run gets wrong.

    Attributes:
      run: The run.
      evaluation: Its evaluation.
      calibration: Chart of accuracy against confidence, or none.
      matrix: Address of the confusion matrix as a picture, for very many classes.
    """

    run: Run
    evaluation: Evaluation
    calibration: Sequence[Chart]
    matrix: str


class Network(NamedTuple):
    """The network of some groups.

    Attributes:
      names: Names of the groups.
      budget: Its size beside the budget.
      shape: Shape of an image.
      macs: Multiply-adds for an image.
      parts: Table of its stages, or None.
      layers: Table of its layers, or None.
      error: Why this version cannot rebuild it.
    """

    names: Sequence[str]
    budget: str = ""
    shape: str = ""
    macs: int = 0
    parts: tables.Table | None = None
    layers: tables.Table | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
      html: The page.
      charts: The charts in it.
    """

    html: str
    charts: Sequence[Chart]

    def write(self, folder: pathlib.Path) -> list[str]:
        """Writes report.html, and each chart as plots/NAME.png; returns their names."""
        files = [f"plots/{chart.name}.png" for chart in self.charts]
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for chart, name in zip(self.charts, files, strict=True):
            with replacing(folder / name) as temporary:
                chart.save(temporary)
        with replacing(folder / "report.html") as temporary:
            temporary.write_text(self.html, encoding="utf-8", errors="replace")
        return ["report.html", *files]


def make(runs: Sequence[Run], now: datetime.datetime) -> Report:
    """Makes the report of runs.

    Args:
      runs: Runs, as `runs.read_all` returns them.
      now: Time that the page shows.
    """
    groups = group(runs)
    datasets = _datasets(groups)
    errors = _errors(runs)
    title = runs[0].name
    if len(runs) > 1:
        configs = tables.plural(len(groups), "config")
        title = f"{tables.plural(len(runs), 'run')} of {configs}"
    (version,) = versions(["cifar-jax"]).values()
    html = _render(
        title=title,
        origin=f"Made on {now:%Y-%m-%d at %H:%M} by cifar_jax {version}",
        runs=runs,
        groups=groups,
        datasets=datasets,
        errors=errors,
        networks=_networks(groups),
    )
    drawn = [chart for dataset in datasets for chart in dataset.tradeoffs]
    drawn += [chart for dataset in datasets for chart in dataset.curves]
    drawn += [chart for each in errors for chart in each.calibration]
    return Report(html, drawn)


def _render(**content: object) -> str:
    """Returns the page.

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
    return environment.get_template("page.html").render(
        **content,
        facts=facts,
        live_since=lambda run: datetime.datetime.fromtimestamp(run.updated),
        tables=tables,
        tile=_tile,
        palette=charts.PALETTE,
        colour_name=charts.colour_name,
        marker=charts.marker,
        style=(_FOLDER / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(digest).decode(),
    )


def picture_address(png: bytes) -> str:
    """Returns the address of a picture that holds the picture."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _tile(image: np.ndarray) -> str:
    """Returns the address of an image, uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, format="png", optimize=True)
    return picture_address(buffer.getvalue())


def _datasets(groups: Sequence[Group]) -> list[DataSet]:
    by_name: dict[str, list[Group]] = {}
    for each in groups:
        by_name.setdefault(each.runs[0].settings["data.name"], []).append(each)
    datasets = []
    for index, (name, members) in enumerate(by_name.items(), start=1):
        suffix = f"_{index}" if len(by_name) > 1 else ""
        costs = {
            "parameters": [tables.num_parameters(each.runs[0]) for each in members],
            "FLOPs": [tables.flops(each.runs[0]) for each in members],
            "latency": [ms / 1000 if (ms := g.latency) else None for g in members],
        }
        runs = [run for each in members for run in each.runs]
        smoothing = {run.settings["train.label_smoothing"] for run in runs}
        datasets.append(
            DataSet(
                name=name,
                groups=members,
                runs=runs,
                tradeoffs=charts.tradeoffs(members, costs, suffix),
                curves=charts.curves(members, suffix),
                smoothing=sorted(value for value in smoothing if value),
            )
        )
    return datasets


def _errors(runs: Sequence[Run]) -> list[Errors]:
    errors = []
    for index, run in enumerate(runs, start=1):
        if run.evaluation is None:
            continue
        record, picture = run.evaluation.record, ""
        calibration = record.get("calibration")
        suffix = f"_{index}" if len(runs) > 1 else ""
        bins = calibration["bins"] if calibration else []
        path = run.path / "evaluation" / "confusion.png"
        if len(run.label_names) > _MOST_CLASSES and path.name in record["files"]:
            picture = picture_address(path.read_bytes())
        chart = charts.reliability(bins, suffix)
        errors.append(Errors(run, run.evaluation, chart, picture))
    return errors


def _networks(groups: Sequence[Group]) -> list[Network]:
    members: dict[str, list[Group]] = {}
    for each in groups:
        # Published results have neither an image shape nor classes.
        if each.runs[0].dataset is not None:
            members.setdefault(tables.network_key(each.runs[0]), []).append(each)
    networks = []
    for sharing in members.values():
        run, names = sharing[0].runs[0], [each.name for each in sharing]
        try:
            rows = tables.layer_rows(run)
        except UserError as error:
            networks.append(Network(names, error=str(error)))
            continue
        sums = count.total(rows)
        networks.append(
            Network(
                names,
                count.budget_line(sums.parameters, run.settings["budget.limit"]),
                "x".join(map(str, run.dataset["image_shape"])),
                sums.macs,
                tables.layers("Parts of the network", "part", count.by_stage(rows)),
                tables.layers(f"All {len(rows)} layers", "layer", rows),
            )
        )
    return networks


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
    if run.latency is not None:
        cost = run.evaluation.record["efficiency"]
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
    parameters, flops = tables.num_parameters(run), tables.flops(run)
    if parameters is None or flops is None:
        return []
    # The budget line starts with the number, which is the value here.
    budget = count.budget_line(parameters, run.settings["budget.limit"])
    detail = budget.split(" parameters", 1)[1].lstrip(":; ")
    nonzero = tables.num_nonzero(run)
    if nonzero is not None:
        detail += f"; {nonzero:,} are nonzero"
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
    for each in group(runs):
        ended = sum(run.result is not None for run in each.by_seed.values())
        seeds = tables.plural(ended, "seed")
        parts = [f"{each.name}: {seeds} of {len(each.by_seed)} ended"]
        for split, name in (("validation", "val"), ("test", "test")):
            accuracies = each.sample(lambda run, name=name: run.accuracy(name))
            if accuracies:
                parts.append(f"{split} accuracy {accuracies.text('.4f')}")
        if each.selected_on_test:
            parts.append("selected on the test images, so too high to compare with")
        lines.append(", ".join(parts))
    return lines
