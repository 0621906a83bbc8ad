"""Reads runs: their directories, and files that hold results."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cifar_jax import UserError
from cifar_jax.reporting import checked
from cifar_jax.reporting.checked import read_object
from cifar_jax.reporting.evaluated import read as read_evaluation
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import printable
from cifar_jax.training.workdir import RunDirectory


def read_all(paths: Sequence[os.PathLike]) -> list[Run]:
    """Reads run directories, which may still be trained in, and files of results.

    What is given twice is read once.

    Raises:
      UserError: If one is neither, or damaged.
    """
    unique = {pathlib.Path(path).resolve(): pathlib.Path(path) for path in paths}
    runs = []
    for name, path in zip(_names(list(unique)), unique.values(), strict=True):
        for run in read(path):
            name_of_run = f"{name} {run.name}".strip()
            runs.append(dataclasses.replace(run, name=name_of_run))
    return runs


def read(path: pathlib.Path) -> list[Run]:
    """Reads what a path holds; the name of a run there is what tells it from others.

    Raises:
      UserError: If it is no run, or damaged.
    """
    if path.is_dir():
        return [_read_directory(path)]
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; give a run directory, or a file of results"
        )
    runs = from_file(path)
    if not runs:
        raise UserError(
            f"{path} holds no accuracy of a run; give a run directory, or a file of "
            "results"
        )
    return runs


def from_file(path: pathlib.Path) -> list[Run]:
    """Reads a JSON file of results; one of another kind holds no runs.

    Raises:
      UserError: If it is damaged.
    """
    content = read_object(path)
    for key, reader in _KINDS.items():
        if key in content:
            return reader(path, content)
    return []


def _from_record(path: pathlib.Path, record: Mapping[str, Any]) -> list[Run]:
    """Returns a run for each seed of what scripts/records.py has written."""
    checked.checked(record, checked.RECORD, path)
    runs = []
    for row in record["seeds"]:
        checked.checked(row, checked.SEED, path)
        clocks = row["clocks"]
        result = {
            **{key: record[key] for key in checked.RECORD if key in record},
            **{key: row[key] for key in ("best_epoch", "epochs", "images_per_second")},
            **{
                key: None if row.get(key) is None else {"accuracy": row[key]}
                for key in checked.SCORED
            },
            "config": {**record["config"], "seed": row["seed"]},
            "versions": record.get("versions", {}),
            "seconds": {
                "total": clocks["run"],
                "compile": clocks["compile"],
                "train": clocks["train"],
                "evaluate": clocks["train_and_evaluate"] - clocks["train"],
            },
        }
        runs.append(_from_result(path, result, name=f"seed {row['seed']}"))
    return runs


def _from_result(path: pathlib.Path, result: Any, name: str = "") -> Run:
    result = checked.checked_result(result, path)
    return Run(
        path=path,
        name=name,
        config=checked.checked(result["config"], checked.CONFIG, path),
        dataset=None,
        rows=(),
        result=result,
        evaluation=None,
        updated=None,
    )


# By a key that only files of the kind have; the first that fits.
_KINDS: Mapping[str, Callable[[pathlib.Path, Any], list[Run]]] = {
    "recipe": _from_record,
    "best_epoch": lambda path, result: [_from_result(path, result)],
}


def _read_directory(path: pathlib.Path) -> Run:
    directory, metrics = RunDirectory(path), path / "metrics.jsonl"
    config, dataset = directory.config(), directory.dataset()
    result = directory.result()
    if result is not None:
        result = checked.checked_result(result, path / "result.json")
    try:
        rows = [row for row in directory.rows() if _is_row(row)]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{metrics} is damaged ({error}); restore it from a copy"
        ) from error
    return Run(
        path=path,
        name="",
        config=checked.checked(config, checked.CONFIG, path / "config.json"),
        dataset=checked.checked(dataset, checked.DATASET, path / "dataset.json"),
        rows=rows,
        result=result,
        evaluation=read_evaluation(path / "evaluation"),
        updated=metrics.stat().st_mtime if metrics.exists() else None,
        imported=not rows and (path / "best" / "0").is_dir(),  # by import_torch
    )


def _is_row(row: Any) -> bool:
    kinds = {"step": int, "epoch": int, "split": str}
    return (
        isinstance(row, dict)
        and kinds.keys() <= row.keys()
        and all(isinstance(row[key], kinds.get(key, (int, float))) for key in row)
    )


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart."""
    parts = [path.parts for path in paths]
    parts = [part[:-1] if part[-1] == "result.json" else part for part in parts]
    names = []
    for part in parts:
        name = printable(_shortest(part, parts))
        times = sum(name == other.split(" (")[0] for other in names)
        names.append(f"{name} ({times + 1})" if times else name)
    return names


def _shortest(own: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    ends = [own[-length:] for length in range(1, len(own) + 1)]
    unique = (
        end for end in ends if sum(other[-len(end) :] == end for other in others) == 1
    )
    return "/".join(next(unique, ends[0]))
