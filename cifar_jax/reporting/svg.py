"""Charts as SVG within a page: its fonts, its colours, and its width."""

import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np

from cifar_jax.reporting.chart import Chart, style
from cifar_jax.reporting.palette import LIGHT

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_NAMES = {value: name for name, value in LIGHT.items()}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def inline(chart: Chart, name: str) -> str:
    """Returns a chart as an <svg> element whose colours are the page's variables.

    Args:
      chart: The chart.
      name: Unique within the page.
    """
    buffer = io.StringIO()
    with style():
        chart.figure.savefig(
            buffer, format="svg", facecolor="none", metadata=_NO_METADATA
        )
    root = ElementTree.fromstring(buffer.getvalue())
    for size in ("width", "height"):
        del root.attrib[size]
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":
            root.remove(child)
    root.set("role", "img")
    root.set("aria-label", f"{chart.title}. {chart.text}")
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _themed(element.get("style")))
    _rename(root, name)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def points(chart: Chart) -> list[dict[str, Any]]:
    """Returns where a chart's values lie, in the coordinates of `inline`.

    Returns:
      For each line its `name`, its `colour`, and its `points`: x, y, and two texts.
    """
    height = chart.figure.bbox.height
    found = []
    for marks in chart.marks:
        finite = np.isfinite(marks.y) & np.isfinite(marks.x)
        places = np.column_stack([marks.x, marks.y])[finite]
        pixels = chart.axes.transData.transform(places) if len(places) else places
        labels = [text for text, keep in zip(marks.labels, finite, strict=True) if keep]
        found.append(
            {
                "name": marks.name,
                "colour": marks.colour,
                "points": [
                    [round(x, 1), round(height - y, 1), *label]
                    for (x, y), label in zip(pixels.tolist(), labels, strict=True)
                ],
            }
        )
    return found


def _themed(text: str) -> str:
    """Returns CSS with variables for colours of the palette."""

    def variable(match: re.Match) -> str:
        colour = match[0].lower()
        return f"var(--{_NAMES[colour]})" if colour in _NAMES else colour

    return re.sub(r"#[0-9a-fA-F]{6}\b", variable, text)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Makes the ids of a chart unique within a page; drops those that nobody uses."""
    used = set(re.findall(r"#([\w-]+)", ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id" and value not in used:
                del element.attrib[key]
            elif key == "id":
                element.set(key, f"{name}-{value}")
            elif key.endswith("href") or "url(#" in value:
                element.set(key, value.replace("#", f"#{name}-"))
