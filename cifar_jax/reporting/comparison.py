"""The comparison: groups with mean and spread, runs, and what differs."""

import json
from collections.abc import Sequence
from typing import Any

from cifar_jax.reporting import tradeoffs
from cifar_jax.reporting.document import Cell, Note, Section, Table
from cifar_jax.reporting.groups import MISSING, Group, differences
from cifar_jax.reporting.groups import sample as over_seeds
from cifar_jax.reporting.networks import Networks
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import (
    CHOSEN_ON_TEST,
    DAGGER,
    NONZERO,
    NOTHING,
    TTA,
    duration,
    gflops,
    nothing,
    number,
    plural,
    sample,
)


def section(groups: Sequence[Group], networks: Networks) -> Section:
    """Returns the comparison of several runs."""
    tables = [group_table(groups, networks), run_table(groups)]
    if len(groups) > 1:
        tables.append(_differences(groups))
    return Section(
        "Comparison",
        [tables[0], *_notes(groups), *tradeoffs.charts(groups, networks), *tables[1:]],
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
            TTA,
            "parameters",
            NONZERO,
            "GFLOPs an image",
            "latency, ms",
            "training time",
        ],
        [_group_row(group, networks) for group in groups],
    ).compact(TTA, NONZERO)


def _group_row(group: Group, networks: Networks) -> list[Cell]:
    run = group.runs[0]
    mark = DAGGER if group.chose_on_test else ""
    flops, ended = networks.flops(run), group.finished
    seeds, count = len(group.seeds), len(ended)
    return [
        Cell(group.name, series=group.number),
        Cell(f"{count}" if count == seeds else f"{count} of {seeds}", number=count),
        sample(group.sample(lambda run: run.validation)),
        sample(group.sample(lambda run: run.test), mark=mark),
        sample(group.sample(lambda run: run.test_tta), mark=mark),
        number(networks.parameters(run)),
        sample(group.sample(lambda run: run.num_nonzero), ",.0f"),
        Cell(gflops(flops), number=flops) if flops else nothing(),
        number(group.latency, ".3g"),
        duration(group.sample(lambda run: run.result["seconds"]["total"])),
    ]


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
            TTA,
            "images/s",
            "devices",
        ],
        [_run_row(group, run) for group in groups for run in group.runs],
    ).compact(TTA)


def _run_row(group: Group, run: Run) -> list[Cell]:
    result = run.result
    planned = run.config["train"]["epochs"]
    epochs = "imported" if run.imported else f"{run.epochs_done} of {planned}"
    devices = f"{result['num_devices']} x {result['device']}" if result else NOTHING
    mark = DAGGER if run.chose_on_test else ""
    return [
        Cell(run.name, series=group.number),
        Cell(str(run.seed), number=run.seed),
        Cell(epochs, number=run.epochs_done),
        number(run.best_epoch),
        Cell(how_chosen(run)),
        number(run.validation, ".4f"),
        sample(over_seeds([run.test]), mark=mark),
        sample(over_seeds([run.test_tta]), mark=mark),
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
    live = [run.name for group in groups for run in group.runs if not run.ended]
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
        if run.latency and (cost := run.evaluation.efficiency)
    }
    if len(places) > 1:
        text = f"Latencies were measured on different devices: {'; '.join(places)}."
        notes.append(Note(text, warns=True))
    return notes


def _differences(groups: Sequence[Group]) -> Table:
    found = differences(groups)
    return Table(
        f"{plural(len(found), 'setting')} that differ between configs",
        ["setting", *(group.name for group in groups)],
        [
            [Cell(key), *(Cell(shown(value)) for value in values)]
            for key, values in found.items()
        ],
    )


def shown(value: Any) -> str:
    """Returns a config's value, as JSON has it."""
    if value is MISSING:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value)
