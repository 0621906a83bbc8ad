"""The front door of all data: TFDS data sets, archives, arrays, pickles, folders.

A source is named by a string: `NAME`, `NAME:SPLIT`, `PATH` or `PATH:SPLIT`. A data set
of TFDS that is on disk, or that this package prepares, goes before a path of its name.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator

from cifar_jax import UserError
from cifar_jax.data import arrays, files, tfds_store, views
from cifar_jax.data.builders import BUILDERS
from cifar_jax.data.download import Report
from cifar_jax.data.table import Examples, Table
from cifar_jax.data.tfds_store import location, prepare

__all__ = [
    *("Examples", "Report", "Source", "Table"),
    *("check_split", "corruptions", "find", "keeping", "load"),
    *("location", "open_table", "prepare"),
]

_kept: dict[tuple, Examples] | None = None  # None: nothing is to be kept
_TFDS_NAME = re.compile(r"([A-Za-z]\w*(?:/[\w-]+)?(?::\d+\.\d+\.\d+)?)(?::(.+))?")


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images that are on disk or that this package can prepare.

    Attributes:
      name: Name of the TFDS data set, or a path.
      image_shape: Height, width and channels.
      label_names: Classes, by label.
      data_dir: Folder of TFDS data sets, or the folder that the path is in.
    """

    name: str
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...]
    data_dir: pathlib.Path

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)


def find(
    name: str,
    data_dir: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
) -> Source:
    """Returns what is known of a data set before it is prepared or wholly read.

    Args:
      name: A TFDS data set, such as `cifar10`, or a path.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: Height and width that the images are resized to (bicubic); None: they
        all have one size.

    Raises:
      UserError: If it is not on disk and cannot be prepared, or holds no labelled
        images.
    """
    path, _ = _resolve(name, data_dir)
    if path is None:
        shape, label_names = tfds_store.describe(name, data_dir)
        folder = tfds_store.data_folder(data_dir)
    else:
        tables = files.tables(path, **_resizing(image_size))
        table = tables["train" if "train" in tables else next(iter(tables))]()
        shape, label_names, folder = table.image_shape, table.label_names, path.parent
    if label_names is None:
        raise UserError(
            f"{name} has no labels; image and label are needed in a data set, and in a "
            "folder one sub-folder for each class"
        )
    if image_size is not None:
        shape = (*_checked(image_size), shape[2])
    return Source(name, shape, label_names, folder)


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    source: str | None = None,
    report: Report = print,
) -> Examples:
    """Reads a split into memory, preparing a data set of TFDS first if need be.

    Args:
      name: A TFDS data set, or a path.
      split: Split string of TFDS, such as `train[:80%]`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: Height and width that the images are resized to (bicubic); None: they
        all have one size.
      source: Local copy of the archive, used only to prepare the data set.
      report: Called with a line before each slow part.

    Returns:
      The images in the order on disk.

    Raises:
      UserError: If it cannot be prepared, or its files are damaged or unreadable.
    """
    key = (name, split, data_dir, image_size)
    if _kept is not None and key in _kept:
        return _kept[key]
    if _resolve(name, data_dir)[0] is None:
        prepare(name, data_dir, source=source, report=report)
    examples = _open_split(name, split, data_dir, image_size).examples()
    if _kept is not None:
        _kept.clear()
        _kept[key] = examples
    return examples


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Keeps what `load` reads last, for runs that load the same, until the block ends.

    Nobody may change the arrays.
    """
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def check_split(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
) -> None:
    """Refuses a split that cannot be read later; reads as little as that needs.

    Args:
      name: A TFDS data set that is on disk, or a path.
      split: Split string of TFDS.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: Height and width that the images are resized to (bicubic); None: they
        all have one size.

    Raises:
      UserError: names the splits that there are.
    """
    if _resolve(name, data_dir)[0] is None:
        tfds_store.check_split(name, split, data_dir)
    else:
        _open_split(name, split, data_dir, image_size).read(0, 1)


def open_table(
    spec: str,
    data_dir: str | None = None,
    *,
    split: str = "test",
    label_names: tuple[str, ...] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    resize: bool = False,
) -> Table:
    """Opens any source for evaluation or prediction; its images are read in pieces.

    Args:
      spec: `NAME`, `NAME:SPLIT`, `PATH` or `PATH:SPLIT`. A split string is one of TFDS,
        such as `test[:50%]`; CIFAR-10-C has the splits `fog` and `fog/3` for each of
        its corruptions; what has no splits needs none, or has the split `images`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: Read where the spec names none and the source has several.
      label_names: Classes of the network, which the labels are matched to by their
        names; None: the labels stay as they are.
      image_shape: Height, width and channels of the network; None: those of the source.
      resize: Whether images of another size are resized to it (bicubic). Else they are
        errors.

    Returns:
      The table. It has labels if the source has.

    Raises:
      UserError: If there is no such source, or it cannot be used as asked.
    """
    path, selector = _resolve(spec, data_dir)
    if path is None:
        name, selector = _TFDS_NAME.fullmatch(spec).groups()
        prepare(name, data_dir)
        table = tfds_store.open_table(name, selector or split, data_dir)
    else:
        tables = files.tables(path, image_shape=image_shape, resize=resize)
        table = views.select(tables, selector, split, str(path))
    if image_shape is not None:
        table = views.resized(table, image_shape, resize=resize)
    return views.relabelled(table, label_names) if label_names else table


def corruptions(spec: str) -> dict[str, tuple[str, ...]]:
    """Returns the sources that a folder laid out as CIFAR-10-C holds.

    Returns:
      For each corruption, a spec of `open_table` for each severity, 1 to 5; empty if
      the source is laid out in another way.
    """
    folder = pathlib.Path(spec).expanduser()
    names = arrays.corruptions(folder) if folder.is_dir() else ()
    return {
        name: tuple(f"{spec}:{name}/{severity}" for severity in arrays.SEVERITIES)
        for name in names
    }


def _open_split(name: str, split: str, data_dir: str | None, image_size) -> Table:
    source = find(name, data_dir, image_size=image_size)
    path, _ = _resolve(name, data_dir)
    if path is None:
        table = tfds_store.open_table(name, split, data_dir)
    else:
        options = _resizing(image_size) or dict(image_shape=source.image_shape)
        table = views.select(files.tables(path, **options), split, split, name)
    resize = image_size is not None
    table = views.resized(table, source.image_shape, resize=resize)
    return views.relabelled(table, source.label_names)


def _resizing(image_size) -> dict:
    """Options for images that lie in files of their own."""
    if image_size is None:
        return {}
    return dict(image_shape=(*_checked(image_size), 3), resize=True)


def _checked(image_size) -> tuple[int, int]:
    size = tuple(image_size)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise UserError(
            f"data.image_size is {size}; use a height and a width such as (32, 32)"
        )
    return size


def _resolve(spec: str, data_dir: str | None) -> tuple[pathlib.Path | None, str | None]:
    """Returns the path and the split that a spec names; no path: a TFDS data set."""
    match = _TFDS_NAME.fullmatch(spec)
    if match and (match[1] in BUILDERS or location(match[1], data_dir)):
        return None, match[2]
    end = len(spec)
    while end > 0:
        path = pathlib.Path(spec[:end]).expanduser()
        if path.exists():
            return path, spec[end + 1 :] or None
        end = spec.rfind(":", 0, end)
    if match and not pathlib.PurePath(spec).suffix:
        return None, match[2]
    raise UserError(
        f"source {spec} does not exist; give a path, or a data set such as cifar10:test"
    )
