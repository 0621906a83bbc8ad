"""The tables of published results in README.md and results/README.md, as Markdown.

They are made from the JSON files under results/: results of runs, records of several
seeds, speeds beside those of other implementations, and winners of studies.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from cifar_jax import UserError
from cifar_jax._files import check, read_object
from cifar_jax.config import flatten
from cifar_jax.reporting.runs import Group, Record, Run, from_file, group_runs, sample
from cifar_jax.reporting.tables import (
    DAGGER,
    SELECTED_ON_TEST,
    Cell,
    Table,
    duration,
    mean,
    number,
    size,
)

BEGIN, END = "<!-- records:begin -->", "<!-- records:end -->"

Files = Mapping[pathlib.Path, dict[str, Any]]


# What scripts/benchmark.py measured of one implementation, by dotted key.
Speed = TypedDict(
    "Speed", {"images_per_second.median": float, "ours_is_faster.median": float}
)


class Winner(TypedDict):
    """The content of a study's winner.json."""

    design: str
    factors: NotRequired[dict[str, Any]]
    parameters: int
    seeds: list[int]
    validation: list[float]
    test: list[float]


def pages(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """Returns the pages that show the records in a folder, at any depth.

    Those are README.md in the folder and above it, where they hold the markers. The
    first also shows clocks, speeds and what studies selected.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give the one that holds the records"
        )
    files = {path: read_object(path) for path in sorted(folder.rglob("*.json"))}
    accuracies, speeds = _tables(files)
    texts = {}
    for path in (folder.parent / "README.md", folder / "README.md"):
        if not path.exists() or BEGIN not in (text := path.read_text("utf-8")):
            continue
        before, _, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end or BEGIN in rest or END in before + after:
            raise UserError(f"{path} needs {BEGIN} and, below it, {END}, once each")
        details = [*speeds, _studies(files)] if path.parent == folder else []
        parts = [
            _markdown(part, path.parent) if isinstance(part, Table) else _escape(part)
            for part in (*accuracies, *details)
        ]
        middle = "\n\n".join(part for part in parts if part)
        texts[path] = f"{before}{BEGIN}\n\n{middle}\n\n{END}{after}"
    if not texts:
        raise UserError(
            f"neither {folder.parent / 'README.md'} nor {folder / 'README.md'} holds "
            f"{BEGIN} and {END}; put both lines where the table should be"
        )
    return texts


def _tables(files: Files) -> tuple[list[Table | str], list[Table]]:
    """Returns the table of accuracies with the notes on it; and clocks and speeds."""
    by_device: dict[str | None, list[Run]] = {}
    for path in files:
        for run in from_file(path):
            by_device.setdefault(run.place, []).append(run)
    groups = [group for runs in by_device.values() for group in group_runs(runs)]
    parts: list[Table | str] = [_accuracies(groups)]
    if any(group.selected_on_test for group in groups):
        parts.append(SELECTED_ON_TEST)
    records: dict[pathlib.Path, Record] = {
        path: check(flatten(content), Record, path)
        for path, content in files.items()
        if content.get("kind") == "record"
    }
    notes: dict[str, list[str]] = {}  # how data differ from the original files
    for path, record in records.items():
        note = f"{record['data.name']}, {record['data.note']}"
        notes.setdefault(note, []).append(path.stem)
    parts += [f"Data of {', '.join(names)}: {note}." for note, names in notes.items()]
    return parts, [_clocks(records), _speeds(files)]


def _accuracies(groups: Sequence[Group]) -> Table:
    """Returns the accuracies, by data set, and the best test accuracy first."""
    rows, order = [], []
    for group in groups:
        run, mark = group.runs[0], DAGGER if group.selected_on_test else ""
        val, test, augmented = (
            group.sample(lambda run, key=key: run.accuracy(key))
            for key in ("val", "test", "test_tta")
        )
        name, place = run.settings["data.name"], run.place or ""
        parameters, flops = size(run)
        paths = dict.fromkeys(run.path for run in group.runs)
        rows.append(
            [
                Cell("", links=[(path.stem, path) for path in paths]),
                Cell(name),
                number(parameters),
                number(flops / 1e9 if flops else None, ".3g"),
                number(len(group.by_seed)),
                mean(val),
                mean(test, mark=mark),
                mean(augmented, mark=mark),
                duration(group.sample(lambda run: run.seconds)),
                Cell(place),
            ]
        )
        order.append((name, -test.mean if test else 0, place))
    rows = [rows[k] for k in sorted(range(len(rows)), key=order.__getitem__)]
    columns = ["record", "data set", "parameters", "GFLOPs per image", "seeds"]
    columns += ["validation accuracy", "test accuracy", "test with augmentation"]
    return Table("", [*columns, "time", "device"], rows).compact()


def _clocks(records: Mapping[pathlib.Path, Record]) -> Table:
    """Returns the clocks of what scripts/records.py wrote."""
    rows = []
    for path, record in records.items():
        rows.append(
            [
                Cell("", links=[(path.stem, path)]),
                number(record["clocks.train.mean"], ".1f"),
                number(record["clocks.train_and_evaluate.mean"], ".1f"),
                number(record.get("clocks.cold_process.seconds"), ".1f"),
                number(record["images_per_second.mean"], ",.0f"),
                number(record["flops.mean"] / 1e12, ".3g"),
                number(record["share_of_peak.mean"], ".1%"),
                Cell(f"{record['num_devices']} x {record['device']}"),
            ]
        )
    caption = (
        "Seconds: of the training steps alone; with all evaluation; and of a whole "
        "process that finds nothing compiled. The peak is that of a matrix product in "
        "the same process"
    )
    columns = ["record", "training", "with evaluation", "cold process"]
    columns += ["images/s", "TFLOP/s", "of the peak", "device"]
    return Table(caption, columns, rows)


def _speeds(files: Files) -> Table:
    """Returns the speeds that scripts/benchmark.py measured beside other code."""
    measured = {
        p: file["contenders"] for p, file in files.items() if "contenders" in file
    }
    names = list(dict.fromkeys(itertools.chain(*measured.values())))
    rows = []
    for path, contenders in measured.items():
        for key, step in (("train", "training"), ("infer", "inference")):
            if key not in contenders.get("ours", {}):
                continue
            row = [Cell("", links=[(path.stem, path)]), Cell(step)]
            for name in names:
                if name not in contenders:
                    row.append(Cell())
                    continue
                step_speeds = check(contenders[name].get(key), dict, path)
                speed: Speed = check(flatten(step_speeds), Speed, path)
                rate = speed["images_per_second.median"]
                faster = speed["ours_is_faster.median"]
                row.append(Cell(f"{rate:,.0f} ({faster:.2f})", rate))
            rows.append([*row, Cell(str(contenders["ours"].get("device", "")))])
    caption = (
        "Images/s, and in brackets how many times as fast ours is: medians over turns "
        "that the contenders took in one run"
    )
    columns = ["measured", "step", *(name.replace("_", " ") for name in names)]
    return Table(caption, [*columns, "device"], rows)


def _studies(files: Files) -> Table:
    """Returns the designs that `cifar_jax.search` selected."""
    rows = []
    for path, content in files.items():
        if path.name != "winner.json":
            continue
        winner: Winner = check(content, Winner, path)
        design = winner["design"]
        if re.fullmatch(r"t\d+", design):  # the number of a sampled one: its factors
            factors = winner.get("factors", {}).items()
            design = ", ".join(f"{key.rpartition('.')[2]} {v}" for key, v in factors)
        rows.append(
            [
                Cell("", links=[(path.parent.name, path.parent / "table.md")]),
                Cell(design),
                number(winner["parameters"]),
                number(len(winner["seeds"])),
                mean(sample(winner["validation"])),
                mean(sample(winner["test"])),
            ]
        )
    caption = (
        "Studies: the design that each selected by its validation accuracy, and the "
        "test accuracy of that design, the only one that was looked at"
    )
    columns = ["study", "selected", "parameters", "seeds"]
    return Table(caption, [*columns, "validation accuracy", "test accuracy"], rows)


def _markdown(table: Table, start: pathlib.Path) -> str:
    """Returns a table as Markdown, with links that hold in the folder `start`."""
    if not table.rows:
        return ""
    lines = [list(map(_escape, table.columns))]
    lines.append(["---:" if numeric else "---" for numeric in table.numeric])
    for row in table.rows:
        cells = []
        for cell in row:
            links = []
            for text, path in cell.links:
                address = pathlib.Path(os.path.relpath(path, start)).as_posix()
                # Encode what Markdown would take for the end of the address.
                address = re.sub(r"[\s()<>]", lambda m: f"%{ord(m[0]):02X}", address)
                links.append(f"[{_escape(text)}]({address})")
            cells.append(", ".join(links) or _escape(cell.text))
        lines.append(cells)
    caption = f"{_escape(table.caption)}:\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)
