"""The tables of published results in README.md and results/README.md, as Markdown.

They are made from the JSON files under results/: results of runs, records of several
seeds, speeds beside those of other implementations, and winners of studies.
"""

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.config import flatten
from cifar_jax.reporting.runs import (
    Group,
    Record,
    Run,
    Sample,
    check,
    from_file,
    group,
    read_object,
)
from cifar_jax.reporting.tables import (
    DAGGER,
    SELECTED_ON_TEST,
    Cell,
    Table,
    duration,
    gflops,
    number,
    sample,
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
    """Returns the pages that show the records, as they should be.

    Those are README.md in the folder and above it, where they hold the markers. The
    first also shows what studies selected.

    Args:
      folder: Folder that holds the records, at any depth.

    Raises:
      UserError: If there is no such page, or a record is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give the one that holds the records"
        )
    files = {path: read_object(path) for path in sorted(folder.rglob("*.json"))}
    texts = {}
    for path in (folder.parent / "README.md", folder / "README.md"):
        if not path.exists() or BEGIN not in (text := path.read_text("utf-8")):
            continue
        tables = _tables(files, path.parent, with_studies=path.parent == folder)
        if [text.count(BEGIN), text.count(END)] != [1, 1] or not (
            text.index(BEGIN) < text.index(END)
        ):
            raise UserError(f"{path} needs {BEGIN} and, below it, {END}, once each")
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        texts[path] = f"{text[:start]}\n\n{tables}\n\n{text[end:]}"
    if not texts:
        raise UserError(
            f"neither {folder.parent / 'README.md'} nor {folder / 'README.md'} holds "
            f"{BEGIN} and {END}; put both lines where the table should be"
        )
    return texts


def write(path: pathlib.Path, text: str) -> None:
    """Writes a page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _tables(files: Files, start: pathlib.Path, *, with_studies: bool) -> str:
    """Returns all tables as Markdown, with links that hold in the folder `start`."""

    def link(path: pathlib.Path) -> str:
        relative = pathlib.Path(os.path.relpath(path, start)).as_posix()
        # Encode what Markdown would take for the end of the address.
        return re.sub(r"[\s()<>]", lambda match: f"%{ord(match[0]):02X}", relative)

    groups = _groups(files)
    parts = [markdown(_accuracies(groups, link))]
    if any(each.selected_on_test for each in groups):
        parts.append(escape(SELECTED_ON_TEST))
    records = {
        path: check(flatten(content), Record, path)
        for path, content in files.items()
        if content.get("kind") == "record"
    }
    parts += [escape(line) for line in _data_notes(records)]
    tables = [_clocks(records, link), _speeds(files, link)]
    if with_studies:
        tables.append(_studies(files, link))
    for table in tables:
        if table.rows:
            parts += [f"{escape(table.caption)}:", markdown(table)]
    return "\n\n".join(parts)


def _groups(files: Files) -> list[Group]:
    """Returns the runs of all files: a group for each config and device."""
    by_device: dict[str | None, list[Run]] = {}
    for path in files:
        for run in from_file(path):
            by_device.setdefault(run.place, []).append(run)
    return [each for runs in by_device.values() for each in group(runs)]


Link = Callable[[pathlib.Path], str]


def _accuracies(groups: Sequence[Group], link: Link) -> Table:
    """Returns the accuracies, by data set, and the best test accuracy first."""

    def rank(each: Group) -> tuple[str, float, str]:
        run, best = each.runs[0], each.sample(lambda run: run.accuracy("test"))
        place = run.place or ""
        return run.settings["data.name"], -best.mean if best else 0, place

    rows = []
    for each in sorted(groups, key=rank):
        run, mark = each.runs[0], DAGGER if each.selected_on_test else ""
        paths = dict.fromkeys(run.path for run in each.runs)
        tests = [
            each.sample(lambda r, k=k: r.accuracy(k)) for k in ("test", "test_tta")
        ]
        rows.append(
            [
                Cell("", links=[(path.stem, link(path)) for path in paths]),
                Cell(run.settings["data.name"]),
                number(run.result["num_parameters"]),
                gflops(run.result["flops_per_image"]),
                number(len(each.by_seed)),
                sample(each.sample(lambda run: run.accuracy("val"))),
                *(sample(test, mark=mark) for test in tests),
                duration(each.sample(lambda run: run.result["seconds"]["total"])),
                Cell(run.place),
            ]
        )
    columns = ["record", "data set", "parameters", "GFLOPs per image", "seeds"]
    columns += ["validation accuracy", "test accuracy", "test with augmentation"]
    return Table("", [*columns, "time", "device"], rows).compact()


def _data_notes(records: Mapping[pathlib.Path, Record]) -> list[str]:
    """Returns how the data of records differ from the original files, a line each."""
    notes: dict[str, list[str]] = {}
    for path, record in records.items():
        note = f"{record['data.name']}, {record['data.note']}"
        notes.setdefault(note, []).append(path.stem)
    return [f"Data of {', '.join(names)}: {note}." for note, names in notes.items()]


def _clocks(records: Mapping[pathlib.Path, Record], link: Link) -> Table:
    """Returns the clocks of what scripts/records.py wrote."""
    rows = []
    for path, record in records.items():
        rows.append(
            [
                Cell("", links=[(path.stem, link(path))]),
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


def _speeds(files: Files, link: Link) -> Table:
    """Returns the speeds that scripts/benchmark.py measured beside other code."""
    measured = {
        p: file["contenders"] for p, file in files.items() if "contenders" in file
    }
    names = list(dict.fromkeys(name for each in measured.values() for name in each))
    rows = []
    for path, contenders in measured.items():
        for key, step in (("train", "training"), ("infer", "inference")):
            if key not in contenders.get("ours", {}):
                continue
            row = [Cell("", links=[(path.stem, link(path))]), Cell(step)]
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


def _studies(files: Files, link: Link) -> Table:
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
                Cell("", links=[(path.parent.name, link(path.parent / "table.md"))]),
                Cell(design),
                number(winner["parameters"]),
                number(len(winner["seeds"])),
                sample(Sample(tuple(winner["validation"]))),
                sample(Sample(tuple(winner["test"]))),
            ]
        )
    caption = (
        "Studies: the design that each selected by its validation accuracy, and the "
        "test accuracy of that design, the only one that was looked at"
    )
    columns = ["study", "selected", "parameters", "seeds"]
    return Table(caption, [*columns, "validation accuracy", "test accuracy"], rows)


def markdown(table: Table) -> str:
    """Returns a table as Markdown, without its caption."""
    rules = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [[escape(name) for name in table.columns], rules]
    for row in table.rows:
        line = []
        for cell in row:
            links = [f"[{escape(text)}]({address})" for text, address in cell.links]
            line.append(", ".join(links) or escape(cell.text))
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)
