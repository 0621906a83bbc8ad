"""TFDS data sets on disk: preparing, finding and reading them."""

import contextlib
import functools
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from cifar_jax import UserError
from cifar_jax.data import archives, download
from cifar_jax.data.builders import BUILDERS
from cifar_jax.data.download import Report
from cifar_jax.data.layouts import Layout
from cifar_jax.data.table import Rows, Table


def location(name: str, data_dir: str | None = None) -> pathlib.Path | None:
    """Returns the folder of a data set that is on disk, else None."""
    builder = _on_disk(name, data_folder(data_dir))
    return builder and pathlib.Path(builder.data_path)


def prepare(
    name: str,
    data_dir: str | None = None,
    *,
    source: str | None = None,
    report: Report = print,
) -> pathlib.Path:
    """Puts a data set on disk, unless it is there.

    Args:
      name: Of a data set that this package can prepare: a key of `BUILDERS`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      source: Local copy of the official archive; None: it is downloaded.
      report: Called with a line before each slow part.

    Returns:
      The folder of the data set.

    Raises:
      UserError: If the data set is unknown, its archive is damaged, or it can neither
        be found nor downloaded.
    """
    folder = data_folder(data_dir)
    if path := location(name, data_dir):
        return path
    brought = _brought(name, folder)
    try:
        if brought.layout is not None:
            source = source or _download(name, brought.layout, folder, report)
            archives.locate(source, brought.layout)  # fails before anything is written
        report(f"Preparing {name} in {folder}")
        with quiet_tfds():
            builder = brought(source=source, data_dir=str(folder))
            builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error})") from error
    if _on_disk(name, folder) is None:  # TFDS has found its folder, but not all of it
        raise UserError(
            f"{builder.data_path} is incomplete; delete that folder and prepare the "
            "data set again"
        )
    return pathlib.Path(builder.data_path)


def describe(
    name: str, data_dir: str | None = None
) -> tuple[tuple[int, int, int], tuple[str, ...] | None]:
    """Returns shape and classes of a data set, on disk or that can be prepared.

    Args:
      name: Of the TFDS data set, such as `cifar10`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
      Height, width and channels, and the names of the classes; None: it has no labels.

    Raises:
      UserError: If it is not on disk and cannot be prepared, or holds no images of one
        size.
    """
    folder = data_folder(data_dir)
    builder = _on_disk(name, folder)
    if builder is None:
        brought = _brought(name, folder)
        return brought.image_shape, brought.labels["label"]
    features = dict((builder.info.features or {}).items())
    if "image" not in features:
        raise UserError(
            f"data set {name} in {folder} has the features {sorted(features)}; image "
            "and label are needed"
        )
    label, shape = features.get("label"), features["image"].shape
    classes = label is None or isinstance(label, tfds.features.ClassLabel)
    if not classes or None in (shape or (None,)):
        raise UserError(
            f"data set {name} in {folder} has images of shape {shape} and labels "
            f"{label}; images of one size and a ClassLabel are needed"
        )
    return tuple(shape), None if label is None else tuple(label.names)


def open_table(name: str, split: str, data_dir: str | None = None) -> Table:
    """Opens a split of a data set that is on disk.

    Args:
      name: Of the TFDS data set.
      split: Split string of TFDS, such as `train[:80%]`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: If there is no such split; when rows are read: if files are damaged.
    """
    check_split(name, split, data_dir)
    builder = _on_disk(name, data_folder(data_dir))
    image_shape, label_names = describe(name, data_dir)
    read = _reader(builder, split)

    def fetch(start, stop):
        try:
            with quiet_tfds():
                rows = read(start, stop)
        except UserError:
            raise
        except Exception as error:  # TFDS and TensorFlow raise many kinds
            raise UserError(
                f"split {split!r} of {builder.data_path} cannot be read "
                f"({_first_line(error)}); check the split, or delete that folder and "
                "prepare the data set again"
            ) from error
        images = np.empty((len(rows), *image_shape), np.uint8)
        for k, row in enumerate(rows):
            images[k] = row["image"]
        if label_names is None:
            return Rows(images, None)
        return Rows(images, np.array([row["label"] for row in rows], np.int32))

    size = builder.info.splits[split].num_examples
    return Table(f"{name}:{split}", image_shape, size, fetch, label_names)


def check_split(name: str, split: str, data_dir: str | None = None) -> None:
    """Refuses a split that a prepared data set lacks; reads no images.

    Args:
      name: Of the TFDS data set.
      split: Split string of TFDS.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: names the splits that there are.
    """
    splits = _on_disk(name, data_folder(data_dir)).info.splits
    try:
        num_examples = splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"data set {name} has no split {split!r}; use {', '.join(splits)}, or a "
            "part such as test[:50%]"
        ) from error
    if not num_examples:
        raise UserError(f"split {split!r} of {name} is empty; choose another split")


def _reader(builder, split: str) -> Callable[[int, int], list[dict]]:
    """Returns what reads the rows from a start to an end."""
    formats = tfds.core.file_adapters.FileFormat.with_random_access()
    if builder.info.file_format in formats:
        data = functools.cache(lambda: builder.as_data_source(split))
        return lambda start, stop: data().__getitems__(range(start, stop))
    position, rows = 0, None

    def read(start, stop):
        nonlocal position, rows
        if rows is None or start != position:  # it reads on, or from the beginning
            rows = itertools.islice(_tensorflow_rows(builder, split), start, None)
        position = stop
        return list(itertools.islice(rows, stop - start))

    return read


def _tensorflow_rows(builder, split: str) -> Iterator[dict]:
    try:
        return iter(tfds.as_numpy(builder.as_dataset(split)))
    except ImportError as error:
        raise UserError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, "
            "which only TensorFlow reads; pip install 'cifar-jax[tf]', or prepare the "
            "data set in another --config.data.dir"
        ) from error


def data_folder(data_dir: str | None) -> pathlib.Path:
    """Returns the folder of TFDS data sets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir or default).expanduser()


def _on_disk(name: str, folder: pathlib.Path):
    """Returns TFDS's builder of a prepared data set, or None."""
    try:
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=str(folder)
        )
    except tfds.core.registered.DatasetNotFoundError:
        return None
    except Exception as error:  # TFDS and protobuf raise many kinds
        raise UserError(
            f"data set {name!r} in {folder} cannot be read ({_first_line(error)}); "
            f"check its name, or delete {folder / name} and prepare it again"
        ) from error


def _brought(name: str, folder: pathlib.Path):
    if name not in BUILDERS:
        raise UserError(
            f"data set {name!r} is not in {folder} and cannot be prepared here; use "
            f"{', '.join(BUILDERS)}, or set data.dir to where it lies"
        )
    return BUILDERS[name]


def _download(
    name: str, layout: Layout, folder: pathlib.Path, report: Report
) -> pathlib.Path:
    report(f"Downloading {layout.url} ({layout.size / 1e6:.0f} MB)")
    try:
        return download.download(
            layout, folder / "downloads", progress=download.tenths(report)
        )
    except UserError as error:
        raise UserError(
            f"data set {name} is not in {folder}, and {error}. Three ways out: "
            f"(1) connect and run the command again; (2) copy {layout.archive} here "
            f"and run `python -m cifar_jax.prepare --dataset {name} --source PATH`; "
            f"(3) copy the folder {name}/ of a machine that has it into {folder}, or "
            "set --config.data.dir or TFDS_DATA_DIR to where it lies"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def quiet_tfds():
    """Keeps TFDS's bars, notices and advice on OpenCV from the terminal."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
