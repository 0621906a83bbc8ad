"""What a study writes for people: results.csv, table.md and plots/."""

import contextlib
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_jax._files import OutputFolder, replacing
from cifar_jax.studies import plots, table
from cifar_jax.studies.study import Study

WINNER = "winner.json"
# Objectives that another run of the study would not measure the same.
_CLOCKS = {"latency": "ms", "seconds": "s"}

# Columns of results.csv that a run fills, if it is done.
_RUN = (
    *("accuracy", "loss", "accuracy_tta", "best_epoch", "seconds"),
    *("compile_seconds", "images_per_second", "latency", "device"),
)


def write(study: Study, found: Sequence[table.Row], folder: pathlib.Path) -> None:
    """Writes the tables and the pictures, each whole or not at all."""
    OutputFolder(folder).table("results.csv", *csv(found))
    text, chosen = markdown(study, found), winner(folder)
    with replacing(folder / "table.md") as path:
        path.write_text(text + (f"\n{_verdict(chosen)}\n" if chosen else ""))
    output = OutputFolder(folder / "plots")
    for name, figure in plots.draw(study, found):
        output.figure(f"{name}.png", figure)


def winner(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns winner.json: the chosen design with its test accuracies, or None."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / WINNER).read_text())
    return None


def is_scored(study: Study, found: Sequence[table.Row], folder: pathlib.Path) -> bool:
    """Tells whether winner.json is that of the best design, with all its runs.

    It is, too, if no run has ended well, so that there is nothing to score.
    """
    best, record = table.ranked(study, found)[0], winner(folder)
    known = (record["design"], record["seeds"]) if record else None
    return not best.seeds or known == (best.candidate.name, best.seeds)


def _verdict(record: Mapping[str, Any]) -> str:
    test = record["test"]
    spread = f" ± {statistics.stdev(test):.4f}" if len(test) > 1 else ""
    return (
        f"Chosen on validation: {record['design']}. Its test accuracy, the only one "
        f"that was looked at: {statistics.fmean(test):.4f}{spread} (n = {len(test)})."
    )


def markdown(study: Study, found: Sequence[table.Row]) -> str:
    """Returns the table in Markdown; the same runs give the same text."""
    order, names = table.ranked(study, found), table.factor_names(found)
    if study.kind == "one_at_a_time":
        parts = [
            f"Variation of {table.short(name)}:\n\n"
            + _grid(study, table.variation(found, name), [name], places=False)
            for name in names
        ]
    else:
        names = [] if study.kind == "list" else names
        parts = [_grid(study, order, names, places=True)]
    parts.append(
        "Accuracy and loss: of the best validation, mean ± standard deviation over "
        "seeds."
    )
    return "\n\n".join([*parts, *_asides(order)]) + "\n"


def _grid(
    study: Study, rows: Sequence[table.Row], names: list[str], places: bool
) -> str:
    several = len(study.objectives) > 1
    best = {id(row) for row in table.front(study, rows)} if several else set()
    header = [""] * places + ["design", *map(table.short, names)]
    header += ["widths", "parameters", "MACs", "seeds", "validation accuracy", "loss"]
    tta = any(row.values("accuracy_tta") for row in rows)
    header += ["accuracy with TTA"] * tta
    clocks = {name: unit for name, unit in _CLOCKS.items() if name in study.objectives}
    header += [f"{name} ({unit})" for name, unit in clocks.items()]
    header += ["reported"] if study.reported else []
    header += ["on the Pareto front"] if several else []
    lines = [header, ["---"] * len(header)]
    for place, row in enumerate((r for r in rows if not r.candidate.refusal), 1):
        each = row.candidate
        line = [str(place)] * places + [each.name]
        line += [table.text(table.factor(row, name)) for name in names]
        line += [
            table.text(each.widths),
            f"{each.num_parameters:,}",
            f"{each.cost.macs:,}",
        ]
        line += [_seeds(row), table.spread(row, "accuracy"), table.spread(row, "loss")]
        line += [table.spread(row, "accuracy_tta")] * tta
        line += [table.spread(row, name, "{:.3g}".format) for name in clocks]
        if study.reported:
            claim = study.reported.get(each.name)
            line.append("" if claim is None else f"{claim:.4f}")
        line += ["yes" if id(row) in best else ""] * several
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seeds(row: table.Row) -> str:
    extra = (f"{row.count(s)} {s}" for s in ("pruned", "failed") if row.count(s))
    return ", ".join([str(row.count("done")), *extra])


def _asides(order: Sequence[table.Row]) -> list[str]:
    """Returns what is not in the table: designs over the budget, and failed runs."""
    refused = [
        f"- {row.candidate.name}: {row.candidate.refusal}"
        for row in order
        if row.candidate.refusal
    ]
    failed = [
        f"- {row.candidate.name}, seed {run.seed}: {run.error}"
        for row in order
        for run in row.runs
        if run.state == "failed"
    ]
    parts = []
    if refused:
        parts.append("Never started:\n\n" + "\n".join(refused))
    if failed:
        parts.append("Failed:\n\n" + "\n".join(failed))
    return parts


def csv(found: Sequence[table.Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns the header and the lines of results.csv: one for each run."""
    names = table.factor_names(found)
    header = ["design", *names, "widths", "parameters", "macs", "seed", "state"]
    header += ["epochs", *_RUN, "error"]
    lines = []
    for row in found:
        each = row.candidate
        start = [each.name, *(_cell(table.factor(row, name)) for name in names)]
        start += [table.text(each.widths), each.num_parameters, each.cost.macs]
        if each.refusal:
            lines.append([*start, "", "refused", 0, *[""] * len(_RUN), each.refusal])
        for run in row.runs:
            figures = [run.result.get(name, "") for name in _RUN]
            lines.append(
                [*start, run.seed, run.state, run.epochs, *figures, run.error or ""]
            )
    return header, lines


def _cell(value: Any) -> Any:
    return table.text(value) if isinstance(value, list | tuple | type(None)) else value
