"""Writes the tables of published results into README.md and results/README.md.

python scripts/records_tables.py

They are made from the JSON files under a folder: results of runs, records of several
seeds, speeds beside those of other implementations, and winners of studies.
"""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cifar_jax import UserError, _cli
from cifar_jax._files import read_object, replacing
from cifar_jax.reporting.runs import Group, Run, from_file, group_runs, sample
from cifar_jax.reporting.tables import (
    SELECTED_ON_TEST,
    Cell,
    Table,
    duration,
    make,
    number,
)

BEGIN, END = "<!-- records:begin -->", "<!-- records:end -->"

# Folders whose accuracies are not among the records: what was tried on the way, which
# results/README.md shows in a table of its own, and runs that show something else.
COMPARISONS, OTHERS = "comparisons", "reliability"

COMPARED = "Recipes that were compared, on validation images where there are some:"

Files = Mapping[pathlib.Path, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Links(Cell):
    """A cell of links: pairs of text and file."""

    links: Sequence[tuple[str, pathlib.Path]] = ()


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("folder", "folder with the records", "results")
    flags.add_bool("check", "write nothing, fail if a table is not up to date")


def main(flags: _cli.Flags) -> None:
    """Writes the tables, or checks them."""
    texts = pages(pathlib.Path(flags.folder))
    stale = [path for path, text in texts.items() if path.read_text("utf-8") != text]
    if stale and flags.check:
        raise UserError(
            f"{' and '.join(map(str, stale))} not up to date with the records; run "
            "python scripts/records_tables.py"
        )
    for path, text in texts.items():
        if path in stale:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        print(f"{path}: {'written' if path in stale else 'up to date'}")


def pages(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """Returns the pages that show the records in a folder, at any depth.

    Those are README.md in the folder and above it, where they hold the markers. The
    first also shows clocks, speeds and what studies selected.
    """
    read = {path: read_object(path) for path in sorted(folder.rglob("*.json"))}
    if not read:
        raise UserError(f"{folder} has no records; give the folder results")
    rooms = {path: path.relative_to(folder).parts[0] for path in read}
    files = {p: f for p, f in read.items() if rooms[p] not in (COMPARISONS, OTHERS)}
    compared = {p: f for p, f in read.items() if rooms[p] == COMPARISONS}
    records = {p: file for p, file in files.items() if file.get("kind") == "record"}
    accuracies: list[Table | str] = [*_accuracies(files), *_notes(records)]
    details: list[Table | str] = [_clocks(records), _speeds(files), _studies(files)]
    if compared:
        details += [COMPARED, *_accuracies(compared)]
    texts = {}
    for path in (folder.parent / "README.md", folder / "README.md"):
        text = path.read_text("utf-8") if path.exists() else ""
        if match := re.fullmatch(f"(.*{BEGIN}).*({END}.*)", text, re.DOTALL):
            parts = accuracies + (details if path.parent == folder else [])
            shown = [
                _markdown(p, path.parent) if isinstance(p, Table) else _escape(p)
                for p in parts
            ]
            middle = "\n\n".join(part for part in shown if part)
            texts[path] = f"{match[1]}\n\n{middle}\n\n{match[2]}"
    if not texts:
        raise UserError(
            f"neither {folder.parent / 'README.md'} nor {folder / 'README.md'} holds "
            f"{BEGIN} and {END}; put both lines where the table should be"
        )
    return texts


def _accuracies(files: Files) -> list[Table | str]:
    """Returns the accuracies of runs by data set, the best test accuracy first."""
    by_device: dict[str | None, list[Run]] = {}
    for path in files:
        for run in from_file(path):
            by_device.setdefault(run.place, []).append(run)
    groups = [group for runs in by_device.values() for group in group_runs(runs)]
    columns = {
        "record": lambda group: _links(run.path for run in group.runs),
        "data set": lambda group: Cell(group.runs[0].settings["data.name"]),
        "parameters": lambda group: number(group.runs[0].size[0]),
        "GFLOPs per image": lambda g: number(g.runs[0].size[1], ".3g", scale=1e-9),
        "seeds": lambda group: number(len(group.by_seed)),
        "validation accuracy": lambda g: number(g.sample("validation"), ".4f"),
        "test accuracy": lambda g: number(g.sample("test"), ".4f", g.mark),
        "test with augmentation": lambda g: number(g.sample("test_tta"), ".4f", g.mark),
        "time": lambda group: duration(group.sample("seconds")),
        "device": lambda group: Cell(group.runs[0].place or ""),
    }
    parts: list[Table | str] = [make("", sorted(groups, key=_rank), columns)]
    if any(group.selected_on_test for group in groups):
        parts.append(SELECTED_ON_TEST)
    return parts


def _links(paths: Iterable[pathlib.Path]) -> Links:
    """Returns a cell of links to files, each once."""
    return Links(links=[(path.stem, path) for path in dict.fromkeys(paths)])


def _rank(group: Group) -> tuple[str, float, str]:
    run, test = group.runs[0], group.sample("test")
    return run.settings["data.name"], -test.mean if test else 0.0, run.place or ""


def _notes(records: Files) -> list[str]:
    """Returns how the data of records differ from the original files."""
    notes: dict[str, list[str]] = {}
    for path, record in records.items():
        note = f"{record['data']['name']}, {record['data']['note']}"
        notes.setdefault(note, []).append(path.stem)
    return [f"Data of {', '.join(names)}: {note}." for note, names in notes.items()]


def _clocks(records: Files) -> Table:
    """Returns the clocks of what scripts/records.py wrote."""
    rows = []
    for path, record in records.items():
        clocks = record["clocks"]
        cold = clocks["cold_process"]
        rows.append(
            [
                _links([path]),
                number(clocks["train"]["mean"], ".1f"),
                number(clocks["train_and_evaluate"]["mean"], ".1f"),
                number(cold and cold["seconds"], ".1f"),
                number(record["images_per_second"]["mean"], ",.0f"),
                number(record["flops"]["mean"] / 1e12, ".3g"),
                number(record["share_of_peak"]["mean"], ".1%"),
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
    longest_first = sorted(measured.values(), key=lambda by_name: -len(by_name))
    names = list(dict.fromkeys(itertools.chain(*longest_first)))
    rows = []
    for path, contenders in measured.items():
        for key, step in (("train", "training"), ("infer", "inference")):
            if key not in contenders.get("ours", {}):
                continue
            row = [_links([path]), Cell(step)]
            for name in names:
                if name not in contenders:
                    row.append(Cell())
                    continue
                speed = contenders[name][key]
                rate = speed["images_per_second"]["median"]
                faster = speed["ours_is_faster"]["median"]
                row.append(Cell(f"{rate:,.0f} ({faster:.2f})", rate))
            rows.append([*row, Cell(contenders["ours"].get("device", ""))])
    caption = (
        "Images/s, and in brackets how many times as fast ours is: medians over turns "
        "that the contenders took in one run"
    )
    columns = ["measured", "step", *(name.replace("_", " ") for name in names)]
    return Table(caption, [*columns, "device"], rows)


def _studies(files: Files) -> Table:
    """Returns the designs that `cifar_jax.search` selected."""
    rows = []
    for path, winner in files.items():
        if path.name != "winner.json":
            continue
        design = winner["design"]
        if re.fullmatch(r"t\d+", design):  # the number of a sampled one: its factors
            factors = winner["factors"].items()
            design = ", ".join(f"{key.rpartition('.')[2]} {v}" for key, v in factors)
        rows.append(
            [
                Links(links=[(path.parent.name, path.parent / "table.md")]),
                Cell(design),
                number(winner["parameters"]),
                number(len(winner["seeds"])),
                number(sample(winner["validation"]), ".4f"),
                number(sample(winner["test"]), ".4f"),
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
    lines += [[_cell(cell, start) for cell in row] for row in table.rows]
    caption = f"{_escape(table.caption)}:\n\n" if table.caption else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell, start: pathlib.Path) -> str:
    if not isinstance(cell, Links):
        return _escape(cell.text)
    links = []
    for text, path in cell.links:
        address = pathlib.Path(os.path.relpath(path, start)).as_posix()
        # Encode what Markdown would take for the end of the address.
        address = re.sub(r"[\s()<>]", lambda m: f"%{ord(m[0]):02X}", address)
        links.append(f"[{_escape(text)}]({address})")
    return ", ".join(links)


def _escape(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


if __name__ == "__main__":
    _cli.run()
