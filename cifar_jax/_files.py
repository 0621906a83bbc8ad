"""Files that appear whole or not at all."""

import contextlib
import csv
import json
import os
import pathlib
import secrets
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write; it takes the given name when the block has succeeded."""
    # Processes of two hosts or containers may have one number.
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class OutputFolder:
    """A folder of results, in which each file appears only when it is whole.

    Attributes:
      path: The folder. It is made with the first file; older files are replaced.
      files: Names of the files written so far.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.files: list[str] = []

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[pathlib.Path]:
        """Yields a path to write a file of that name to."""
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / name) as temporary:
            yield temporary
        self.files.append(name)

    def text(self, name: str, content: str) -> None:
        """Writes a text."""
        with self.file(name) as path:
            path.write_text(content, encoding="utf-8", errors="replace")

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON object."""
        self.text(name, json.dumps(content, indent=2) + "\n")

    def table(self, name: str, header: Sequence, rows: Sequence[Sequence]) -> None:
        """Writes a CSV file."""
        with self.file(name) as path, path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *rows])

    def figure(self, name: str, figure: "Figure") -> None:
        """Writes a picture as PNG."""
        import matplotlib  # slow to import, and most commands draw nothing
        from matplotlib.text import Text

        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a name with a $ in it is not a formula
        with self.file(name) as path, warnings.catch_warnings():
            # Letters that the font lacks are drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph")
            with matplotlib.rc_context({"text.parse_math": False}):
                figure.savefig(path, format="png", dpi=130)


class CheckedLines:
    """A file of JSON objects, one a line, for a single writer.

    `crc` in a line is a checksum that depends on all lines before it, so that changed,
    missing and foreign lines are all noticed. A last line that was cut off is dropped.

    Attributes:
      records: Objects in the file, without their checksums, as JSON reads them back.

    Raises:
      ValueError: If a line is damaged, or has no checksum.
    """

    def __init__(self, path: pathlib.Path):
        self.records: list[dict[str, Any]] = []
        self._path, self._crc = path, 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # by a kill or power cut
            os.truncate(path, sum(map(len, lines[:-1])))
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                crc = record.pop("crc", None)
                if crc != zlib.crc32(json.dumps(record).encode(), self._crc):
                    raise ValueError("wrong checksum" if crc else "no checksum")
            except (ValueError, AttributeError, TypeError) as error:
                message = f"line {number} of {len(lines)}: {error}"
                raise ValueError(message) from error
            self._crc = crc
            self.records.append(record)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends objects."""
        with self._path.open("a") as file:
            for record in logs:
                self._crc = zlib.crc32(json.dumps(record).encode(), self._crc)
                text = json.dumps({**record, "crc": self._crc}, separators=(",", ":"))
                file.write(text + "\n")
                self.records.append(json.loads(text))
