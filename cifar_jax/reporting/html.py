"""A report as one HTML file that needs nothing beside it."""

import base64
import hashlib
import io
import pathlib
import re

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cifar_jax.reporting import palette, svg
from cifar_jax.reporting.document import Document

_FOLDER = pathlib.Path(__file__).parent


def render(document: Document) -> str:
    """Returns the page.

    Every text is escaped, and the page forbids itself to load anything and to run any
    script but its own.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,  # names of classes and folders are not ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": anchor,
        "tile": _tile,
        "picture": _picture,
        "svg": svg.inline,
        "points": svg.points,
        "series": palette.series,
        "shape": palette.shape,
    }
    script = (_FOLDER / "page.js").read_text()
    return environment.get_template("page.html").render(
        document=document,
        light=palette.css(palette.LIGHT),
        dark=palette.css(palette.DARK),
        style=(_FOLDER / "page.css").read_text(),
        script=script,
        script_hash=_sha256(script),
    )


def anchor(title: str) -> str:
    """Returns the id of a section."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _sha256(text: str) -> str:
    """Returns a digest as a content security policy has it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _tile(image: np.ndarray) -> str:
    """Returns the address of an image that is in the address: uint8 [H, W, 1 or 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, format="png", optimize=True)
    return _address(buffer)


def _picture(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return _address(buffer)


def _address(buffer: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
