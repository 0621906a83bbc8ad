"""Folders of files, each of which appears only when it is whole."""

import csv
import json
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from cifar_jax._files import replacing


def write_json(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a record, in a folder that is made for it where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n")


class Output:
    """The folder that an evaluation writes to, each file whole or not at all.

    Args:
      folder: Made with the first file; those of an earlier evaluation are replaced.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.files: list[str] = []

    def figure(self, name: str, figure: Figure) -> None:
        """Writes a picture."""
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a name with a $ in it is no formula
        with self._file(name) as path, warnings.catch_warnings():
            # For letters that the font lacks, boxes are drawn.
            warnings.filterwarnings("ignore", message="Glyph")
            with matplotlib.rc_context({"text.parse_math": False}):
                figure.savefig(path, format="png", dpi=130)

    def text(self, name: str, content: str) -> None:
        """Writes a text."""
        with self._file(name) as path:
            path.write_text(content, encoding="utf-8", errors="replace")

    def arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Writes an .npz file."""
        with self._file(name) as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def table(self, name: str, header: Sequence, rows: Sequence[Sequence]) -> None:
        """Writes a CSV file."""
        with self._file(name) as path, path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    def record(self, name: str, record: Mapping[str, Any]) -> None:
        """Writes a JSON object, with the names of all files before it."""
        content = {**record, "files": list(self.files)}
        with self._file(name) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")

    def _file(self, name: str):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.files.append(name)
        return replacing(self.folder / name)
