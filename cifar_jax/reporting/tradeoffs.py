"""Accuracy against what a network costs."""

from collections.abc import Callable, Sequence

from cifar_jax.reporting import commands
from cifar_jax.reporting.chart import Chart
from cifar_jax.reporting.document import Charts, Note
from cifar_jax.reporting.groups import Group
from cifar_jax.reporting.groups import sample as over_seeds
from cifar_jax.reporting.networks import Networks
from cifar_jax.reporting.palette import shape
from cifar_jax.reporting.run import Run


def charts(groups: Sequence[Group], networks: Networks) -> list[Charts | Note]:
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
            "latency",
            "s",
            lambda group: (ms := group.latency) and ms / 1000,
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
    without = [
        runs[0]
        for each in groups
        if not each.latency and (runs := [run for run in each.runs if _measurable(run)])
    ]
    if without:
        names = ", ".join(run.name for run in without)
        text = f"Latency is not measured; for each of {names}:"
        found.append(Note(text, commands.evaluate(without[0])))
    return found


def _measurable(run: Run) -> bool:
    return run.ended and not run.is_record


def _scatter(groups, label: str, unit: str, value) -> Chart | None:
    chart = Chart(
        f"Accuracy against {label}",
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
            label=(f"{x:.4g}{unit} {label}", f"{kind} {shown}"),
        )
        chart.name(
            group.name, group.number, marker=shape(group.number), linestyle="none"
        )
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
    return over_seeds([run.validation for run in group.samples]), "validation"
