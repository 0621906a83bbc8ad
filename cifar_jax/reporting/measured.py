"""Tables of what files of results hold beside runs: clocks, peers, and studies."""

import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cifar_jax.reporting import checked
from cifar_jax.reporting.document import Cell, Table
from cifar_jax.reporting.groups import sample as sample_of
from cifar_jax.reporting.text import nothing, number, sample

_NUMBER = (int, float)
_RECORD = {
    "device": str,
    "num_devices": int,
    "clocks.train.mean": _NUMBER,
    "clocks.train_and_evaluate.mean": _NUMBER,
    "images_per_second.mean": _NUMBER,
    "flops.mean": _NUMBER,
    "share_of_peak.mean": _NUMBER,
    "data.name": str,
    "data.note": str,
}
_PEER = {"images_per_second.median": _NUMBER, "ours_is_faster.median": _NUMBER}
_WINNER = {
    "design": str,
    "parameters": int,
    "seeds": list,
    "validation": list,
    "test": list,
}
_KINDS = {"train": "training", "infer": "inference"}

Address = Callable[[pathlib.Path], str]


def of_records(files: Mapping[pathlib.Path, dict], address: Address) -> Table | None:
    """Returns the clocks of what scripts/records.py has written; None: there is none.

    Args:
      files: What JSON files hold.
      address: Returns the link to a file.

    Raises:
      UserError: If one is damaged.
    """
    records = _of_kind(files, "record")
    columns = ["record", "training", "with evaluation", "cold process"]
    columns += ["images/s", "TFLOP/s", "of the peak", "device"]
    rows = [_record_row(path, each, address) for path, each in records.items()]
    caption = (
        "Seconds: of the training steps alone; with all evaluation; and of a whole "
        "process that finds nothing compiled. The peak is that of a matrix product in "
        "the same process"
    )
    return Table(caption, columns, rows) if rows else None


def _record_row(
    path: pathlib.Path, record: dict[str, Any], address: Address
) -> list[Cell]:
    checked.checked(record, _RECORD, path)
    clocks, cold = record["clocks"], record["clocks"].get("cold_process")
    if cold:
        checked.checked(cold, {"seconds": _NUMBER}, path)
    return [
        Cell("", links=[(path.stem, address(path))]),
        number(clocks["train"]["mean"], ".1f"),
        number(clocks["train_and_evaluate"]["mean"], ".1f"),
        number(cold["seconds"], ".1f") if cold else nothing(),
        number(record["images_per_second"]["mean"], ",.0f"),
        number(record["flops"]["mean"] / 1e12, ".3g"),
        number(record["share_of_peak"]["mean"], ".1%"),
        Cell(f"{record['num_devices']} x {record['device']}"),
    ]


def of_peers(files: Mapping[pathlib.Path, dict], address: Address) -> Table | None:
    """Returns what scripts/peers.py has written; None: there is nothing.

    Args:
      files: What JSON files hold.
      address: Returns the link to a file.

    Raises:
      UserError: If one is damaged.
    """
    found = {path: each for path, each in files.items() if "contenders" in each}
    names = list(
        dict.fromkeys(n for each in found.values() for n in each["contenders"])
    )
    rows = [
        _peer_row(path, each, kind, names, address)
        for path, each in found.items()
        for kind in _KINDS
        if kind in each["contenders"].get("ours", {})
    ]
    caption = (
        "Images/s, and in brackets how many times as fast ours is: medians over turns "
        "that the contenders took in one run"
    )
    columns = ["measured", "step", *(name.replace("_", " ") for name in names)]
    return Table(caption, [*columns, "device"], rows) if rows else None


def _peer_row(
    path: pathlib.Path, record, kind: str, names: Iterable[str], address: Address
) -> list[Cell]:
    peers = record["contenders"]
    cells = [_peer(peers[n], kind, path) if n in peers else nothing() for n in names]
    return [
        Cell("", links=[(path.stem, address(path))]),
        Cell(_KINDS[kind]),
        *cells,
        Cell(str(peers["ours"].get("device", ""))),
    ]


def _peer(peer: Any, kind: str, path: pathlib.Path) -> Cell:
    measured = checked.checked(peer, {kind: dict}, path)[kind]
    checked.checked(measured, _PEER, path)
    rate = measured["images_per_second"]["median"]
    faster = measured["ours_is_faster"]["median"]
    return Cell(f"{rate:,.0f} ({faster:.2f})", number=rate)


def of_studies(files: Mapping[pathlib.Path, dict], address: Address) -> Table | None:
    """Returns what `cifar_jax.search` has chosen; None: there is nothing.

    Args:
      files: What JSON files hold.
      address: Returns the link to a file.

    Raises:
      UserError: If one is damaged.
    """
    rows = [
        _study_row(path, checked.checked(each, _WINNER, path), address)
        for path, each in files.items()
        if path.name == "winner.json"
    ]
    caption = (
        "Studies: the design that each has chosen by its validation accuracy, and the "
        "test accuracy of that design, the only one that was looked at"
    )
    columns = ["study", "chosen", "parameters", "seeds"]
    columns += ["validation accuracy", "test accuracy"]
    return Table(caption, columns, rows) if rows else None


def _study_row(
    path: pathlib.Path, winner: dict[str, Any], address: Address
) -> list[Cell]:
    return [
        Cell("", links=[(path.parent.name, address(path.parent / "table.md"))]),
        Cell(_chosen(winner)),
        number(winner["parameters"]),
        number(len(winner["seeds"])),
        *(sample(sample_of(winner[key])) for key in ("validation", "test")),
    ]


def _chosen(winner: dict[str, Any]) -> str:
    """Returns a design's name or, of a sampled one, which has a number, its factors."""
    if not re.fullmatch(r"t\d+", winner["design"]):
        return winner["design"]
    factors = winner.get("factors", {}).items()
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in factors)


def data_notes(files: Mapping[pathlib.Path, dict]) -> list[str]:
    """Returns how the data of records differ from the original files, a line each."""
    found: dict[str, list[str]] = {}
    for path, record in _of_kind(files, "record").items():
        checked.checked(record, _RECORD, path)
        data = record["data"]
        found.setdefault(f"{data['name']}, {data['note']}", []).append(path.stem)
    return [f"Data of {', '.join(names)}: {note}." for note, names in found.items()]


def _of_kind(files: Mapping[pathlib.Path, dict], kind: str) -> dict[pathlib.Path, Any]:
    return {path: each for path, each in files.items() if each.get("kind") == kind}
