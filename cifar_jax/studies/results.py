"""What a study writes for people: results.csv, table.md and plots/."""

import contextlib
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_jax.analysis.output import Output, replacing
from cifar_jax.studies import plots, table
from cifar_jax.studies.study import Study

WINNER = "winner.json"


def write(study: Study, found: Sequence[table.Row], folder: pathlib.Path) -> None:
    """Writes the tables and the pictures, each whole or not at all."""
    Output(folder).table("results.csv", *table.csv(found))
    text, chosen = table.markdown(study, found), winner(folder)
    with replacing(folder / "table.md") as path:
        path.write_text(text + (f"\n{_verdict(chosen)}\n" if chosen else ""))
    output = Output(folder / "plots")
    for name, figure in plots.draw(study, found):
        output.figure(f"{name}.png", figure)


def winner(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns winner.json: the chosen design with its test accuracies, or None."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / WINNER).read_text())
    return None


def _verdict(record: Mapping[str, Any]) -> str:
    test = record["test"]
    spread = f" ± {statistics.stdev(test):.4f}" if len(test) > 1 else ""
    return (
        f"Chosen on validation: {record['design']}. Its test accuracy, the only one "
        f"that was looked at: {statistics.fmean(test):.4f}{spread} (n = {len(test)})."
    )
