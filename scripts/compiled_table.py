"""Prints what compile_for.py has said before and after a change, as a Markdown table.

python scripts/compiled_table.py --folder results/compiled
"""

import json
import pathlib

from cifar_jax import UserError, _cli

# Heading, and what the column shows of the facts.
COLUMNS = {
    "images a device": lambda f: f"{f['conv_batch_per_device']} of {f['batch_size']}",
    "gradient all-reduces": lambda f: f"{f['gradient_all_reduces']}",
    "loops (until data say so)": lambda f: (
        f"{f['loops']} ({f['loops_until_data_say_so']})"
    ),
    "conditionals": lambda f: f"{f['conditionals']}",
    "launches": lambda f: "" if f["launches"] is None else f"{f['launches']}",
    "GB a step": lambda f: f"{f['bytes_per_step'] / 1e9:.2f}",
    "memory, MiB": lambda f: f"{f['memory_bytes_per_device'] / 2**20:,.0f}",
    "not estimated": lambda f: f"{len(f['without_estimate'])}",
    "step, ms (estimate)": lambda f: f"{f['estimated_step_ms']:.2f}",
    "training, s (estimate)": lambda f: f"{f['estimated_training_seconds']:,.0f}",
}


def table(folder: pathlib.Path) -> str:
    """Returns a Markdown table of before/*.json and after/*.json of a folder.

    Where a figure has changed, a cell shows both.
    """
    files = {
        when: {path.name: json.loads(path.read_text()) for path in paths}
        for when in ("before", "after")
        if (paths := sorted((folder / when).glob("*.json")))
    }
    if not files:
        raise UserError(f"{folder} has no before/*.json and no after/*.json")
    lines = [
        "| config | target | " + " | ".join(COLUMNS) + " |",
        "| --- | --- " + "| ---: " * len(COLUMNS) + "|",
    ]
    for name in sorted(set().union(*files.values())):
        both = [facts.get(name) for facts in files.values()]
        known = [facts for facts in both if facts]
        cells = [known[0]["config"], known[0]["target"]]
        for show in COLUMNS.values():
            values = [show(facts) if facts else "–" for facts in both]
            cells.append(" → ".join(dict.fromkeys(values)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string(
        "folder", "folder with before/ and after/ in it", "results/compiled"
    )


def main(flags: _cli.Flags) -> None:
    """Prints the table."""
    print(table(pathlib.Path(flags.folder)))


if __name__ == "__main__":
    _cli.run()
