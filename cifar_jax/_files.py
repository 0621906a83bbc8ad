"""Files that appear whole or not at all, and JSON files of the right types."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import pathlib
import re
import secrets
import types
import typing
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from cifar_jax import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.]+$)")


# What a person can do about an error of the operating system, by its name.
_REMEDIES = {
    name: remedy
    for remedy, names in {
        "check the path": "ENOENT ENOTDIR EISDIR EEXIST ENAMETOOLONG",
        "check its permissions": "EACCES EPERM EROFS",
        "free some space": "ENOSPC EDQUOT EFBIG",
        "check the disk": "EIO ESTALE ENODEV",
        "close other programs": "EMFILE ENFILE ENOMEM",
        "check what reads the output": "EPIPE",
        "check the connection": "ECONNREFUSED ECONNRESET ETIMEDOUT EHOSTUNREACH",
    }.items()
    for name in names.split()
}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that have led to it, the first one last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_remedy(error: BaseException) -> str | None:
    """Returns what to do about an error that is due to the operating system, if any."""
    errors = (cause for cause in causes(error) if isinstance(cause, OSError))
    names = (errno.errorcode.get(cause.errno or 0, "") for cause in errors)
    return next((_REMEDIES[name] for name in names if name in _REMEDIES), None)


def on_disk(path: str, key: str) -> pathlib.Path:
    """Returns a path, with ~ expanded, unless it is one in a bucket, gs://NAME."""
    if re.match(r"\w\w+:/", path):
        raise UserError(f"{key} is {path}, in a bucket; use a folder on a disk")
    return pathlib.Path(os.path.expanduser(path))


def first_line(error: object) -> str:
    """Returns the reason that an error gives, in one line, for the text of another."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def lock_file(file: IO, *, wait: bool = False) -> bool:
    """Locks a file until it is closed; returns False if another process has it.

    The kernel frees the lock of a process that dies. Where a file system has no locks,
    as some mounts of NFS and Lustre, every process gets it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


@contextlib.contextmanager
def explained(what: str, kind: type[Exception] = OSError) -> Iterator[None]:
    """Turns an error of writing into one line, which begins with `what`."""
    try:
        yield
    except kind as error:
        text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        # TensorStore's errors are texts.
        is_full = re.search("No space|EXHAUSTED|quota|too large", str(error))
        remedy = find_remedy(error) or ("free some space" if is_full else "mend that")
        raise UserError(
            f"{what} ({first_line(text)[:200]}); {remedy}, then run the command again"
        ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write; it takes the given name when the block has succeeded."""
    # Processes of two hosts or containers may have one number.
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name}.{unique}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if str(error.filename) == str(temporary):  # a name that the user never gave
            error.filename = str(path)
            del error.filename2
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def spreadsheet_cell(value: Any) -> Any:
    """Returns a cell of a CSV file, quoted if a spreadsheet took it for a formula."""
    # A sign may begin a number as well.
    is_text = isinstance(value, str)
    return f"'{value}" if is_text and re.match(_FORMULA, value) else value


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
        """Writes a CSV file, of which a spreadsheet executes nothing."""
        safe = ([spreadsheet_cell(cell) for cell in row] for row in [header, *rows])
        options: dict[str, Any] = dict(encoding="utf-8", errors="replace", newline="")
        with self.file(name) as path, path.open("w", **options) as file:
            csv.writer(file, lineterminator="\n").writerows(safe)

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


def check(tree: Any, kind: Any, path: pathlib.Path, key: str = "") -> Any:
    """Returns the JSON tree of a file if it is of a TypedDict.

    Optional keys may also be null. `key` is where the tree stands in the file.
    """
    arms = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if tree is None and types.NoneType in arms:
        return None
    kind = arms[0]
    plain = dict if typing.is_typeddict(kind) else typing.get_origin(kind) or kind
    # JSON has lists for tuples, and may have a whole number for a float.
    plain_in_json: dict[Any, Any] = {float: (int, float), tuple: list, Any: object}
    is_huge = isinstance(tree, int) and tree.bit_length() > 64
    if is_huge or not isinstance(tree, plain_in_json.get(plain, plain)):
        raise misfit(path, key)
    if typing.is_typeddict(kind):
        for name, hint in typing.get_type_hints(kind).items():
            if tree.get(name) is not None or name in kind.__required_keys__:
                check(tree.get(name), hint, path, f"{key}.{name}".lstrip("."))
    elif plain is list:
        for hint in typing.get_args(kind):
            for number, entry in enumerate(tree):
                check(entry, hint, path, f"{key}[{number}]")
    return tree


def misfit(path: pathlib.Path, key: str) -> UserError:
    """Returns the error about a value of a JSON file; an empty key means all of it."""
    what = repr(key) if key else "its content"
    return UserError(
        f"{path}: {what} is missing or has the wrong type; restore the file from a copy"
    )


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a copy"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; restore it from a copy")
    return content


class CheckedLines:
    """A file of JSON objects, one a line, for a single writer.

    `crc` in a line is a checksum that depends on all lines before it, so that changed,
    missing and foreign lines are all noticed. A last line that was cut off is dropped.

    Attributes:
      records: Objects in the file, as JSON reads them back.

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
