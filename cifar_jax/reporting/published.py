"""The tables of published records, in README.md and in results/README.md."""

import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.reporting import markdown, measured
from cifar_jax.reporting.checked import read_object
from cifar_jax.reporting.document import Cell, Table
from cifar_jax.reporting.groups import Group, group
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.runs import from_file
from cifar_jax.reporting.text import (
    CHOSEN_ON_TEST,
    DAGGER,
    TTA,
    duration,
    gflops,
    number,
    sample,
)

_MAKERS = (measured.of_records, measured.of_peers, measured.of_studies)
BEGIN, END = "<!-- records:begin -->", "<!-- records:end -->"


def pages(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    """Returns the pages that show the records, as they should be.

    Those are README.md in the folder and above it, where they hold the markers. The
    first has what studies have chosen, too.

    Args:
      folder: Holds the records, at any depth.

    Raises:
      UserError: If there is no such page, or a record is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the records")
    paths = sorted(folder.rglob("*.json"))
    groups, files = _read(paths), {path: read_object(path) for path in paths}
    found = {}
    for path in (folder.parent / "README.md", folder / "README.md"):
        if path.exists() and BEGIN in (text := path.read_text(encoding="utf-8")):
            makers = _MAKERS if path.parent == folder else _MAKERS[:-1]
            tables = _tables(groups, files, path.parent, makers)
            found[path] = _replace(text, tables, path)
    if not found:
        raise UserError(
            f"neither {folder.parent / 'README.md'} nor {folder / 'README.md'} holds "
            f"{BEGIN} and {END}; put both lines where the table should be"
        )
    return found


def write(path: pathlib.Path, text: str) -> None:
    """Writes a page, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read(paths: Sequence[pathlib.Path]) -> list[Group]:
    """Returns the runs of all records: a group for each config and device."""
    by_device: dict[tuple, list[Run]] = {}
    for path in paths:
        for run in from_file(path):
            place = run.result["device"], run.result["num_devices"]
            by_device.setdefault(place, []).append(run)
    return [each for runs in by_device.values() for each in group(runs)]


def _replace(text: str, tables: str, path: pathlib.Path) -> str:
    """Returns a page with new tables between its markers."""
    if (
        text.count(BEGIN) != 1
        or text.count(END) != 1
        or text.find(END) < text.find(BEGIN)
    ):
        raise UserError(f"{path} needs {BEGIN} and, below it, {END}, once each")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def _tables(
    groups: Sequence[Group],
    files: Mapping[pathlib.Path, dict],
    start: pathlib.Path,
    makers: Sequence[Callable],
) -> str:
    """Returns the tables as Markdown, with links that are good in a folder."""
    lines = [_accuracies(groups, start)]
    if any(each.chose_on_test for each in groups):
        lines.append(markdown.escape(CHOSEN_ON_TEST))
    lines += map(markdown.escape, measured.data_notes(files))
    for make in makers:
        table = make(files, lambda path: _address(path, start))
        if table is not None:
            lines += [f"{markdown.escape(table.caption)}:", markdown.table(table)]
    return "\n\n".join(lines)


def _accuracies(groups: Sequence[Group], start: pathlib.Path) -> str:
    columns = [
        "record",
        "data set",
        "parameters",
        "GFLOPs an image",
        "seeds",
        "validation accuracy",
        "test accuracy",
        TTA,
        "time",
        "device",
    ]
    rows = [_row(each, start) for each in sorted(groups, key=_rank)]
    return markdown.table(Table("", columns, rows).compact(TTA))


def _rank(each: Group):
    result = each.runs[0].result
    best = each.sample(lambda run: run.test)
    order = -best.mean if best else 0
    return each.runs[0].config["data"]["name"], order, result["device"]


def _row(each: Group, start: pathlib.Path) -> list[Cell]:
    result, mark = each.runs[0].result, DAGGER if each.chose_on_test else ""
    files = dict.fromkeys(run.path for run in each.runs)
    links = [(path.stem, _address(path, start)) for path in files]
    device = f"{result['num_devices']} x {result['device']}"
    return [
        Cell("", links=links),
        Cell(each.runs[0].config["data"]["name"]),
        number(result["num_parameters"]),
        Cell(gflops(result["flops_per_image"]), number=result["flops_per_image"]),
        number(len(each.finished)),
        sample(each.sample(lambda run: run.validation)),
        sample(each.sample(lambda run: run.test), mark=mark),
        sample(each.sample(lambda run: run.test_tta), mark=mark),
        duration(each.sample(lambda run: run.result["seconds"]["total"])),
        Cell(device),
    ]


def _address(path: pathlib.Path, start: pathlib.Path) -> str:
    """Returns a relative link, with what Markdown would take for its end encoded."""
    relative = pathlib.Path(os.path.relpath(path, start)).as_posix()
    return re.sub(r"[\s()<>]", lambda match: f"%{ord(match[0]):02X}", relative)
