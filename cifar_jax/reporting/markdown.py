"""A report as Markdown: the same tables, and links to the pictures."""

import re

from cifar_jax.reporting.document import (
    Cell,
    Charts,
    Document,
    Facts,
    Gallery,
    Note,
    Picture,
    Section,
    Table,
)


def render(document: Document) -> str:
    """Returns the report."""
    lines = [f"# {escape(document.title)}", escape(document.origin)]
    for section in document.sections:
        lines += _section(section, level=2)
    return "\n\n".join(lines) + "\n"


def table(content: Table) -> str:
    """Returns a table, without its caption."""
    rules = ["---:" if numeric else "---" for numeric in content.numeric]
    rows = [*content.rows, *([content.total] if content.total else [])]
    lines = [map(escape, content.columns), rules, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


def _cell(cell: Cell) -> str:
    if cell.links:
        return ", ".join(f"[{escape(text)}]({to})" for text, to in cell.links)
    return escape(cell.text)


def _section(section: Section, level: int) -> list[str]:
    lines = [f"{'#' * level} {escape(section.title)}"]
    for block in section.blocks:
        if isinstance(block, Section):
            lines += _section(block, level + 1)
        else:
            lines += _WRITERS[type(block)](block)
    return lines


def _table(block: Table) -> list[str]:
    return [f"{escape(block.caption)}:", table(block)]


def _facts(block: Facts) -> list[str]:
    lines = []
    for fact in block.items:
        detail = f" ({escape(fact.detail)})" if fact.detail else ""
        lines.append(f"- {escape(fact.name)}: **{escape(fact.value)}**{detail}")
    return ["\n".join(lines)]


def _note(block: Note) -> list[str]:
    text = escape(block.text)
    lines = [f"**{text}**" if block.warns else text]
    # Four spaces: whatever is in the command, it cannot end the block.
    return [*lines, f"    {block.command}"] if block.command else lines


def _charts(block: Charts) -> list[str]:
    pictures = [
        f"![{escape(chart.title)}](plots/{name}.png)"
        for name, chart in block.charts.items()
    ]
    return ["\n".join(pictures), escape(block.caption)]


def _picture(block: Picture | Gallery) -> list[str]:
    caption = escape(block.caption)
    return [f"{caption}:", f"![{caption}]({block.drawing.path})"]


_WRITERS = {
    Table: _table,
    Facts: _facts,
    Note: _note,
    Charts: _charts,
    Picture: _picture,
    Gallery: _picture,
}
