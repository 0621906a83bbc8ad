"""The best design of a study, which alone is scored on the test set, once."""

import json
import pathlib
import statistics
from typing import Any, TypedDict

from cifar_jax import UserError
from cifar_jax._files import OutputFolder
from cifar_jax.studies.table import Row


class Winner(TypedDict):
    """The content of winner.json; `validation` and `test` are accuracies by seed."""

    design: str
    factors: dict[str, Any]
    widths: tuple[int, ...]
    parameters: int
    macs: int
    seeds: list[int]
    validation: list[float]
    test: list[float]


def read(folder: pathlib.Path) -> Winner | None:
    """Returns winner.json of a study's folder, or None."""
    path = folder / "winner.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it, and the same command writes it "
            "again"
        ) from error


def write(folder: pathlib.Path, best: Row, test: list[float]) -> None:
    """Writes winner.json, with the test accuracies of the best design by seed."""
    record = Winner(
        design=best.candidate.name,
        factors=best.candidate.factors,
        widths=best.candidate.widths,
        parameters=best.candidate.num_parameters,
        macs=best.done[0].figures["macs"],
        seeds=[run.seed for run in best.done],
        validation=best.values("accuracy"),
        test=test,
    )
    OutputFolder(folder).json("winner.json", record)


def verdict(record: Winner) -> str:
    """Returns the sentence on the winner for a reader."""
    test = record["test"]
    spread = f" ± {statistics.stdev(test):.4f}" if len(test) > 1 else ""
    return (
        f"Chosen on validation: {record['design']}. Its test accuracy, the only one "
        f"that was looked at: {statistics.fmean(test):.4f}{spread} (n = {len(test)})."
    )
