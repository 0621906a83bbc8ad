"""Labelled images from TFDS data sets, which are prepared on demand."""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from cifar_jax import UserError
from cifar_jax.data import archives
from cifar_jax.data.builders import BUILDERS

Report = Callable[[str], None]  # takes one line for the person who waits


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images in memory.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Examples":
        return Examples(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that is on disk or that this package can prepare.

    Attributes:
      name: Name of the TFDS data set.
      image_shape: Height, width and channels.
      label_names: Classes, by label.
      data_dir: Folder of TFDS data sets.
    """

    name: str
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...]
    data_dir: pathlib.Path

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)


def find(name: str, data_dir: str | None = None) -> Source:
    """Returns what is known of a data set before it is read or prepared.

    Args:
      name: Of the TFDS data set, such as `cifar10`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: If it is not on disk and cannot be prepared, or holds no labelled
        images.
    """
    folder = _data_dir(data_dir)
    builder = _on_disk(name, folder)
    if builder is None:
        brought = _brought(name, folder)
        return Source(name, brought.image_shape, brought.label_names, folder)
    features = builder.info.features
    if not {"image", "label"} <= set(features or ()):
        raise UserError(
            f"data set {name} in {folder} has the features {sorted(features or ())}; "
            "image and label are needed"
        )
    label, shape = features["label"], features["image"].shape
    if not isinstance(label, tfds.features.ClassLabel) or None in (shape or (None,)):
        raise UserError(
            f"data set {name} in {folder} has images of shape {shape} and labels "
            f"{label}; images of one size and a ClassLabel are needed"
        )
    return Source(name, tuple(shape), tuple(label.names), folder)


def location(name: str, data_dir: str | None = None) -> pathlib.Path | None:
    """Returns the folder of a data set that is on disk, else None."""
    builder = _on_disk(name, _data_dir(data_dir))
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
    folder = _data_dir(data_dir)
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


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    source: str | None = None,
    report: Report = print,
) -> Examples:
    """Reads a split into memory, preparing the data set first if need be.

    Args:
      name: Of the TFDS data set.
      split: Split string of TFDS, such as `train[:80%]`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      source: Local copy of the archive, used only to prepare the data set.
      report: Called with a line before each slow part.

    Returns:
      The images in the order on disk.

    Raises:
      UserError: If it cannot be prepared, or its files are damaged or unreadable.
    """
    path = prepare(name, data_dir, source=source, report=report)
    try:
        with quiet_tfds():
            rows = _read_rows(_on_disk(name, _data_dir(data_dir)), split)
    except (ValueError, RuntimeError, OSError, IndexError) as error:
        raise UserError(
            f"split {split!r} of {path} cannot be read ({_first_line(error)}); check "
            "the split, or delete that folder and prepare the data set again"
        ) from error
    if not rows:
        raise UserError(f"split {split!r} of {path} is empty; choose another split")
    images = np.stack([row["image"] for row in rows])
    return Examples(images, np.array([row["label"] for row in rows], np.int32))


def check_split(name: str, split: str, data_dir: str | None = None) -> None:
    """Refuses a split that a prepared data set lacks; reads no images.

    Args:
      name: Of the TFDS data set.
      split: Split string of TFDS.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: names the splits that there are.
    """
    splits = _on_disk(name, _data_dir(data_dir)).info.splits
    try:
        num_examples = splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"data set {name} has no split {split!r}; use {', '.join(splits)}, or a "
            "part such as test[:50%]"
        ) from error
    if not num_examples:
        raise UserError(f"split {split!r} of {name} is empty; choose another split")


def _read_rows(builder, split: str) -> list[dict]:
    if (
        builder.info.file_format
        in tfds.core.file_adapters.FileFormat.with_random_access()
    ):
        data = builder.as_data_source(split)
        return data.__getitems__(range(len(data)))
    try:
        return list(tfds.as_numpy(builder.as_dataset(split)))
    except ImportError as error:
        raise UserError(
            f"{builder.data_path} is in the format {builder.info.file_format.value}, "
            "which only TensorFlow reads; pip install 'cifar-jax[tf]', or prepare the "
            "data set in another --config.data.dir"
        ) from error


def _data_dir(data_dir: str | None) -> pathlib.Path:
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


def _tenths(report: Report) -> archives.Progress:
    """Returns a progress that reports each tenth of a download."""
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if done * 10 // total > reported:
            reported = done * 10 // total
            report(f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return progress


def _download(
    name: str, layout: archives.BinaryLayout, folder: pathlib.Path, report: Report
) -> pathlib.Path:
    report(f"Downloading {layout.url} ({layout.size / 1e6:.0f} MB)")
    try:
        return archives.download(layout, folder / "downloads", progress=_tenths(report))
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
