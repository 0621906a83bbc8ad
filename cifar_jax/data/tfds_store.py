"""TFDS data sets on disk: finding, preparing and reading them."""

import contextlib
import functools
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds

from cifar_jax import UserError
from cifar_jax._files import first_line, lock_file, on_disk
from cifar_jax._runtime import errors_alone
from cifar_jax.data import archives, download, pixels
from cifar_jax.data.builders import BUILDERS
from cifar_jax.data.dataset import Batch, Dataset, ImageShape, Splits
from cifar_jax.data.download import Report


class TfdsStore:
    """A data set of TFDS, on disk or not; those in `BUILDERS` can be prepared here.

    Args:
      name: Name of the data set, such as `cifar10`, with its version if need be.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.

    Attributes:
      name: Name of the data set.
      folder: Folder of TFDS data sets.
    """

    def __init__(self, name: str, data_dir: str | None):
        default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        self.name = name
        self.folder = on_disk(os.fspath(data_dir or default), "data.dir")
        self._builder = self._open_builder()

    def _open_builder(self) -> tfds.core.DatasetBuilder | None:
        """Returns TFDS's builder if the data set is on disk."""
        try:
            return tfds.core.read_only_builder.builder_from_files(
                self.name, data_dir=str(self.folder)
            )
        except tfds.core.registered.DatasetNotFoundError:
            return None
        except Exception as error:  # TFDS and protobuf raise many kinds
            raise UserError(
                f"{self.folder / self.name} cannot be read ({first_line(error)}); "
                "check the name, or delete that folder and prepare it again"
            ) from error

    @property
    def path(self) -> pathlib.Path | None:
        """Folder of the data set; None: it is not on disk."""
        builder = self._builder
        return None if builder is None else pathlib.Path(builder.data_path)

    def describe(self) -> tuple[ImageShape, tuple[str, ...] | None]:
        """Returns height, width and channels, and the class names; None: no labels."""
        if self._builder is None:
            return BUILDERS[self.name].image_shape, BUILDERS[self.name].labels["label"]
        features = dict((self._builder.info.features or {}).items())
        if "image" not in features:
            raise UserError(
                f"data set {self.name} in {self.folder} has the features "
                f"{sorted(features)}; image and label are needed"
            )
        label, image = features.get("label"), features["image"]
        has_classes = label is None or isinstance(label, tfds.features.ClassLabel)
        shape, is_uint8 = image.shape, image.np_dtype == np.uint8
        is_image = len(shape) == 3 and None not in shape and shape[2] in (1, 3)
        if not (has_classes and is_uint8 and is_image):
            raise UserError(
                f"data set {self.name} in {self.folder} has {image.np_dtype} images of "
                f"shape {shape} and labels {label}; uint8 images of one size, "
                "with 1 or 3 channels, and a ClassLabel are needed"
            )
        return tuple(shape), None if label is None else tuple(label.names)

    def prepare(self, local: str | None = None, report: Report = print) -> pathlib.Path:
        """Puts the data set on disk, unless it is there, and returns its folder.

        Args:
          local: Copy of the official archive; None: it is downloaded.
          report: Called with a line before each slow part.
        """
        if self.path is not None:
            return self.path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f".{self.name}.lock").open("a") as file:
                if not lock_file(file):
                    report(f"Waiting for another process that prepares {self.name}")
                    lock_file(file, wait=True)
                self._builder = self._open_builder()
                if self._builder is None:
                    self._prepare(local, report)
        except OSError as error:
            # Where the file system has no locks, another process may have been faster.
            self._builder = self._open_builder()
            if self._builder is None:
                message = f"cannot be prepared in {self.folder} ({error})"
                raise UserError(f"{self.name} {message}; check that path") from error
        assert self.path is not None
        return self.path

    def _prepare(self, local: str | None, report: Report) -> None:
        """Puts the data set on disk, with the arguments of `prepare`."""
        builder_class, archive = BUILDERS[self.name], local
        if specs := builder_class.specs:
            try:
                folder = self.folder / "downloads"
                archive = archive or str(download.download(specs, folder, report))
            except UserError as error:
                raise UserError(
                    f"data set {self.name} is not in {self.folder}, and {error}. Three "
                    "ways out: (1) connect and run the command again; (2) copy "
                    f"{specs[0].archive} here and run `python -m cifar_jax.prepare "
                    f"--dataset {self.name} --source PATH`; (3) copy the folder "
                    f"{self.name}/ of a machine that has it into {self.folder}, or set "
                    "--config.data.dir or TFDS_DATA_DIR to where it lies"
                ) from error
            archives.locate(archive, specs)  # fails before anything is written
        report(f"Preparing {self.name} in {self.folder}")
        with quiet_tfds():
            builder = builder_class(source=archive, data_dir=str(self.folder))
            builder.download_and_prepare()
        self._builder = self._open_builder()
        if self._builder is None:  # TFDS takes a folder with missing files for whole
            raise UserError(
                f"{builder.data_path} is incomplete; delete that folder and prepare "
                "the data set again"
            )

    @property
    def splits(self) -> Splits:
        """Functions that open the splits of the data set, which must be on disk."""
        builder, (image_shape, label_names) = self._builder, self.describe()
        assert builder is not None, "prepare it first"

        def open_split(split: str) -> Dataset:
            read_rows = _row_reader(builder, split)

            def read(start: int, stop: int) -> Batch:
                rows = read_rows(start, stop)
                images = np.empty((len(rows), *image_shape), np.uint8)
                for k, row in enumerate(rows):
                    images[k] = row["image"]
                if label_names is None:
                    return Batch(images, None)
                return Batch(images, np.array([row["label"] for row in rows], np.int32))

            size = builder.info.splits[split].num_examples
            name = f"{self.name}:{split}"
            data = Dataset(name, image_shape, size, read, label_names)
            folder = pathlib.Path(builder.data_path)
            files = sorted(p for p in folder.iterdir() if not p.match("*pixels-*"))
            facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
            return pixels.kept(data, folder / f"pixels-{split}.npy", repr(facts))

        return {s: functools.partial(open_split, s) for s in builder.info.splits}


def _row_reader(
    builder: tfds.core.DatasetBuilder, split: str
) -> Callable[[int, int], list[dict]]:
    """Returns a function that reads the rows from a start to before a stop."""
    formats = tfds.core.file_adapters.FileFormat.with_random_access()
    has_random_access = builder.info.file_format in formats
    data, position, rows = None, 0, iter(())

    def read(start: int, stop: int) -> list[dict]:
        nonlocal data, position, rows
        try:
            with quiet_tfds():
                if has_random_access:
                    if data is None:
                        data = builder.as_data_source(split)
                    return data.__getitems__(range(start, stop))
                # TensorFlow reads in order: only a step back or a jump starts again.
                if data is None or start != position:
                    data = tfds.as_numpy(builder.as_dataset(split))
                    rows = itertools.islice(data, start, None)
                position = stop
                return list(itertools.islice(rows, stop - start))
        except ImportError as error:
            raise UserError(
                f"{builder.data_path} has the format {builder.info.file_format.value}, "
                "which only TensorFlow reads; pip install 'cifar-jax[tf]', or prepare "
                "it in another --config.data.dir"
            ) from error
        except Exception as error:  # TFDS and TensorFlow raise many kinds
            raise UserError(
                f"split {split!r} of {builder.data_path} cannot be read "
                f"({first_line(error)}); check the split, or delete that folder and "
                "prepare the data set again"
            ) from error

    return read


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Keeps TFDS's bars, notices and advice on OpenCV from the terminal."""
    tfds.disable_progress_bar()
    with errors_alone(), contextlib.redirect_stdout(io.StringIO()):
        yield
