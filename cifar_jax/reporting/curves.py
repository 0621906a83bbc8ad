"""The curves of training, and the table of epochs."""

from collections.abc import Sequence

from cifar_jax.reporting.chart import Chart
from cifar_jax.reporting.document import Cell, Charts, Note, Section, Table
from cifar_jax.reporting.groups import Group
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import number

_DASHED = {"linestyle": (0, (3, 2)), "linewidth": 1.1}
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def section(groups: Sequence[Group]) -> Section:
    """Returns loss, accuracy and learning rate by epoch."""
    runs = [run for group in groups for run in group.runs]
    if not any(run.rows for run in runs):
        return Section("Curves", [Note(_no_rows(runs))])
    charts = {
        name: _chart(groups, name, title)
        for name, title in (
            ("loss", "Loss"),
            ("accuracy", "Accuracy"),
            ("learning_rate", "Learning rate"),
        )
    }
    blocks = [Charts(charts, _caption(groups))]
    if len(runs) == 1:
        blocks.append(Section("Epoch by epoch", [epoch_table(runs[0])], folded=True))
    return Section("Curves", blocks)


def _no_rows(runs: Sequence[Run]) -> str:
    if all(run.is_record for run in runs):
        return "A record holds no metrics by epoch."
    if all(run.imported for run in runs):
        return "The weights were imported: they were not trained here."
    return "No epoch has ended yet."


def _chart(groups: Sequence[Group], metric: str, title: str) -> Chart:
    text = "By epoch, for " + ", ".join(group.name for group in groups) + "."
    chart = Chart(title, "epoch", title.lower(), text)
    single = sum(len(group.runs) for group in groups) == 1
    kinds = {}
    for group in groups:
        for run in group.runs:
            # Of one run, colours tell the splits apart; of several, the configs.
            for split, name in _SPLITS.items():
                points = run.values(split, metric)
                if not points:
                    continue
                dashed = split == "train" and metric != "learning_rate"
                colour = int(dashed) if single else group.number
                line = name if metric != "learning_rate" else "learning rate"
                label = line if single else f"{run.name}, {line}"
                chart.line(label, points, colour, dashed=dashed)
                if metric != "learning_rate":
                    kinds[name] = (colour, _DASHED if dashed else {})
    if not single:
        for group in groups:
            chart.name(group.name, group.number)
    for name, (colour, look) in kinds.items():
        chart.name(name, colour if single else None, **look)
    planned = (run.config["train"]["epochs"] for group in groups for run in group.runs)
    chart.over_epochs(max(planned))
    chart.finish()
    return chart


def _caption(groups: Sequence[Group]) -> str:
    configs = [group.runs[0].config for group in groups]
    found = (
        "Training figures are means over an epoch, of augmented images, while the "
        "weights change; validation figures are of plain images after it."
    )
    smoothing = sorted({config["train"]["label_smoothing"] for config in configs})
    if any(smoothing):
        values = ", ".join(f"{value:g}" for value in smoothing if value)
        found += f" The training loss is with label smoothing ({values})."
    if any(group.chose_on_test for group in groups):
        found += " Where epochs were chosen on the test images, those take the place "
        found += "of validation."
    return f"{found} The learning rate is that of an epoch's last step."


def epoch_table(run: Run) -> Table:
    """Returns a row for each epoch."""
    split = run.choice_split
    name = _SPLITS[split]
    columns = {
        "training loss": ("train", "loss", ".4f"),
        "training accuracy": ("train", "accuracy", ".4f"),
        f"{name} loss": (split, "loss", ".4f"),
        f"{name} accuracy": (split, "accuracy", ".4f"),
        "learning rate": ("train", "learning_rate", ".3g"),
        "images/s": ("train", "images_per_second", ",.0f"),
    }
    values = [run.values(*place) for *place, _ in columns.values()]
    forms = [form for *_, form in columns.values()]
    steps = {row["epoch"]: row["step"] for row in run.rows}
    rows = []
    for epoch, step in steps.items():
        mark = " *" if epoch == run.best_epoch else ""
        line = [Cell(f"{epoch}{mark}", number=epoch), number(step)]
        found = (
            number(each.get(epoch), form)
            for each, form in zip(values, forms, strict=True)
        )
        rows.append([*line, *found])
    caption = "Epochs; the one whose weights are kept has a star"
    return Table(caption, ["epoch", "step", *columns], rows)
