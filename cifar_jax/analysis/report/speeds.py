"""Tables of the speeds that files of results hold: of records, and beside peers."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cifar_jax.analysis.report import checked
from cifar_jax.analysis.report.document import Cell, Table
from cifar_jax.analysis.report.text import nothing, number

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


def _record_row(path: pathlib.Path, record: dict[str, Any], address: Address):
    checked.checked(record, _RECORD, path)
    clocks, cold = record["clocks"], record["clocks"].get("cold_process")
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


def _peer_row(path, record, kind: str, names: Sequence[str], address: Address):
    peers = record["contenders"]
    cells = [_peer(peers[n][kind], path) if n in peers else nothing() for n in names]
    return [
        Cell("", links=[(path.stem, address(path))]),
        Cell(_KINDS[kind]),
        *cells,
        Cell(str(peers["ours"].get("device", ""))),
    ]


def _peer(measured: dict[str, Any], path: pathlib.Path) -> Cell:
    checked.checked(measured, _PEER, path)
    rate = measured["images_per_second"]["median"]
    faster = measured["ours_is_faster"]["median"]
    return Cell(f"{rate:,.0f} ({faster:.2f})", number=rate)


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
