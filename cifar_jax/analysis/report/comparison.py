"""The comparison: groups with mean and spread, runs, and what differs."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from cifar_jax.analysis.report.chart import Chart
from cifar_jax.analysis.report.document import Cell, Charts, Note, Section, Table
from cifar_jax.analysis.report.groups import Group, differences
from cifar_jax.analysis.report.networks import Networks
from cifar_jax.analysis.report.runs import Run
from cifar_jax.analysis.report.text import (
    CHOSEN_ON_TEST,
    DAGGER,
    NOTHING,
    accuracy,
    gflops,
    nothing,
    number,
    plural,
    sample,
)
from cifar_jax.training.progress import clock_time


def section(groups: Sequence[Group], networks: Networks) -> Section:
    """Returns the comparison of several runs."""
    tables = [group_table(groups, networks), run_table(groups)]
    if len(groups) > 1:
        tables.append(_differences(groups))
    return Section(
        "Comparison", [tables[0], *_notes(groups), *_charts(groups, networks), *tables[1:]]
    )


def group_table(groups: Sequence[Group], networks: Networks) -> Table:
    """Returns a row for each config: accuracy over seeds, size and speed."""
    return Table(
        "Configs: mean ± standard deviation over the seeds that have ended",
        [
            "config",
            "seeds",
            "validation accuracy",
            "test accuracy",
            "parameters",
            "GFLOPs an image",
            "latency, ms",
            "training time",
        ],
        [_group_row(group, networks) for group in groups],
    )


def _group_row(group: Group, networks: Networks) -> list[Cell]:
    run = group.runs[0]
    mark = DAGGER if group.chose_on_test else ""
    flops, ended = networks.flops(run), group.finished
    seeds = {run.seed for run in group.runs}
    count = f"{len(ended)}" if len(ended) == len(seeds) else f"{len(ended)}/{len(seeds)}"
    return [
        Cell(group.name, series=group.number),
        Cell(count, number=len(ended)),
        sample(group.sample(lambda run: run.validation)),
        sample(group.sample(lambda run: run.test), mark=mark),
        number(networks.parameters(run)),
        Cell(gflops(flops), number=flops) if flops else nothing(),
        number(latency(group), ".3g"),
        _time(group.sample(lambda run: run.result["seconds"]["total"])),
    ]


def _time(seconds) -> Cell:
    if seconds is None:
        return nothing()
    return Cell(clock_time(seconds.mean), number=seconds.mean)


def latency(group: Group) -> float | None:
    """Returns the median of what was measured, in milliseconds, or None."""
    known = [run.evaluation.latency for run in group.runs if run.evaluation]
    known = [value for value in known if value is not None]
    return statistics.median(known) if known else None


def run_table(groups: Sequence[Group]) -> Table:
    """Returns a row for each run."""
    return Table(
        "Runs",
        [
            "run",
            "seed",
            "epochs",
            "best epoch",
            "chosen by",
            "validation accuracy",
            "test accuracy",
            "images/s",
            "devices",
        ],
        [_run_row(group, run) for group in groups for run in group.runs],
    )


def _run_row(group: Group, run: Run) -> list[Cell]:
    result = run.result
    planned = run.config["train"]["epochs"]
    epochs = f"{run.epochs_done} of {planned}"
    devices = f"{result['num_devices']} x {result['device']}" if result else NOTHING
    test = nothing()
    if run.test is not None:
        mark = DAGGER if run.chose_on_test else ""
        test = Cell(f"{accuracy(run.test)}{mark}", number=run.test)
    return [
        Cell(run.name, series=group.number),
        Cell(str(run.seed), number=run.seed),
        Cell(epochs, number=run.epochs_done),
        number(run.best_epoch),
        Cell(how_chosen(run)),
        number(run.validation, ".4f"),
        test,
        number(result and result["images_per_second"], ",.0f"),
        Cell(devices),
    ]


def how_chosen(run: Run) -> str:
    """Returns how the epoch was chosen whose weights are kept."""
    by = run.setting("evaluate.best_by")
    if run.chose_on_test:
        return f"{by} on the test images"
    if not run.config["data"]["validation"] or by == "last":
        return "the last one"
    return f"validation {by}"


def _notes(groups: Sequence[Group]) -> list[Note]:
    notes = []
    if any(group.chose_on_test for group in groups):
        notes.append(Note(CHOSEN_ON_TEST, warns=True))
    for group in groups:
        for name, other in group.repeats.items():
            text = (
                f"{name} has the config and the seed of {other.name}. Two runs of one "
                "seed are not two samples: the means leave it out."
            )
            notes.append(Note(text, warns=True))
    live = [run.name for group in groups for run in group.runs if not run.result]
    if live:
        verb = "has" if len(live) == 1 else "have"
        notes.append(
            Note(
                f"{', '.join(live)} {verb} not ended: means are without, and a test "
                "accuracy comes with the end of a run."
            )
        )
    places = {
        f"{cost['num_devices']} x {cost['device']}"
        for group in groups
        for run in group.runs
        if run.evaluation and "latency_ms" in (cost := run.evaluation.efficiency)
    }
    if len(places) > 1:
        text = f"Latencies were measured on different devices: {'; '.join(places)}."
        notes.append(Note(text, warns=True))
    return notes


def _charts(groups: Sequence[Group], networks: Networks) -> list[Charts | Note]:
    """Returns accuracy against what a network costs."""
    axes: dict[str, tuple[str, str, Callable[[Group], float | None]]] = {
        "accuracy_by_parameters": (
            "parameters",
            "",
            lambda group: networks.parameters(group.runs[0]),
        ),
        "accuracy_by_flops": (
            "FLOPs an image",
            "",
            lambda group: networks.flops(group.runs[0]),
        ),
        "accuracy_by_latency": (
            "latency, seconds",
            "s",
            lambda group: (ms := latency(group)) and ms / 1000,
        ),
    }
    if len(groups) < 2:
        text = "Accuracy against parameters, FLOPs and latency needs two configs."
        return [Note(text)]
    charts = {
        name: chart
        for name, (label, unit, value) in axes.items()
        if (chart := _scatter(groups, label, unit, value))
    }
    found: list[Charts | Note] = []
    if charts:
        caption = (
            "Filled: test accuracy. Hollow: best validation accuracy, of configs "
            "without an honest test accuracy yet. Bars: standard deviation over seeds."
        )
        found.append(Charts(charts, caption))
    without = [group for group in groups if latency(group) is None]
    if without:
        run = without[0].runs[0]
        text = (
            f"Latency is not measured for {', '.join(group.name for group in without)}. "
            "For each run that has ended:"
        )
        found.append(Note(text, networks.command(run, "--latency")))
    return found


def _scatter(groups, label: str, unit: str, value) -> Chart | None:
    short = label.split(",")[0]
    chart = Chart(
        f"Accuracy against {short}",
        label,
        "accuracy",
        "Its values are in the table of configs.",
    )
    for group in groups:
        x, (y, kind) = value(group), _best_known(group)
        if not x or not y:
            continue
        shown = f"{y.mean:.4f}" + (f" ± {y.std:.4f}" if y.std is not None else "")
        chart.point(
            group.name,
            x,
            y.mean,
            group.number,
            spread=y.std,
            hollow=kind != "test",
            label=(f"{x:.4g}{unit} {short}", f"{kind} {shown}"),
        )
        chart.name(group.name, group.number, marker="o", linestyle="none")
    if not chart.marks:
        return None
    chart.over_quantity(unit)
    chart.finish()
    return chart


def _best_known(group: Group):
    """Returns a sample of accuracies that are honest, and of which images."""
    test = group.sample(lambda run: run.test)
    if test and not group.chose_on_test:
        return test, "test"
    from cifar_jax.analysis.report.groups import sample as over_seeds

    return over_seeds([run.validation for run in group.runs]), "validation"


def _differences(groups: Sequence[Group]) -> Table:
    found = differences(groups)
    return Table(
        f"What differs: {plural(len(found), 'setting')}",
        ["setting", *(group.name for group in groups)],
        [
            [Cell(key), *(Cell(shown(value)) for value in values)]
            for key, values in found.items()
        ],
    )


def shown(value: Any) -> str:
    """Returns a config's value, as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value)
