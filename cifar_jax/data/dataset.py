"""Images that are read in pieces, however they are stored."""

import dataclasses
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from cifar_jax import UserError

MAX_CLASSES = 1 << 16

ImageShape = tuple[int, int, int]  # height, width, channels


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
class Batch:
    """Some consecutive images of a data set.

    Attributes:
      images: uint8 [N, H, W, C]; zeros where an image cannot be read.
      labels: int32 [N], or None.
      errors: Fault of each image that cannot be read, in one line, by its index here.
    """

    images: np.ndarray
    labels: np.ndarray | None
    errors: dict[int, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images of one shape, with or without labels, that are read in pieces.

    Attributes:
      name: Source as the user named it, for errors.
      image_shape: Height, width and channels.
      num_images: Number of images.
      read: Function that returns the images from a start to before a stop, which are
        both within the data set.
      label_names: Names of the classes, by label; None: there are no labels. Where a
        source holds numbers only, the names are those numbers.
      ids: Name or number of each image in the source; None: it has none.
    """

    name: str
    image_shape: ImageShape
    num_images: int
    read: Callable[[int, int], Batch]
    label_names: tuple[str, ...] | None = None
    ids: Sequence[str | int] | None = None

    def __len__(self) -> int:
        return self.num_images

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yields all images in order, `size` at a time; the last may be fewer."""
        for start in range(0, self.num_images, size):
            yield self.read(start, min(start + size, self.num_images))

    def examples(self) -> Examples:
        """Reads all labelled images into memory.

        Raises:
          UserError: If there are no labels, no images, or an image cannot be read.
        """
        if self.label_names is None:
            raise UserError(
                f"{self.name} has no labels; give a labelled source, such as a folder "
                "with one sub-folder for each class"
            )
        if not self.num_images:
            raise UserError(f"{self.name} is empty; choose another split or source")
        batch = self.read(0, self.num_images)
        errors = list(batch.errors.values())
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise UserError(f"{errors[0]}{more}")
        return Examples(batch.images, batch.labels)


# Functions that open the splits of a source.
Splits = Mapping[str, Callable[[], Dataset]]


def from_arrays(
    name: str,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    label_names: tuple[str, ...] | None = None,
    ids: Sequence[str | int] | None = None,
) -> Dataset:
    """Returns a data set of arrays, which may be mapped from a file.

    Args:
      name: Name for errors.
      images: uint8 [N, H, W, C].
      labels: int32 [N], checked by `as_labels`.
      label_names: Names of the classes, by label; None: their numbers.
      ids: Name or number of each image.
    """
    if labels is not None and label_names is None:
        label_names = tuple(str(k) for k in range(int(labels.max(initial=0)) + 1))

    mapped = _mapping(images)

    def read(start: int, stop: int) -> Batch:
        part = None if labels is None else labels[start:stop]
        piece = np.array(images[start:stop], order="C")
        if mapped is not None:  # else all that was read counts as memory in use
            mapped.madvise(mmap.MADV_DONTNEED)
        return Batch(piece, part)

    return Dataset(name, images.shape[1:], len(images), read, label_names, ids)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """Returns the mapped file that an array lies in, if it does."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


def as_images(array, where: str) -> np.ndarray:
    """Returns images as uint8 [N, H, W, C], without copying them.

    Args:
      array: uint8: [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, [N, H, W], or
        [N, 3 * side * side] with the red, green and blue planes of square images.
      where: Name of the file, for errors.

    Raises:
      UserError: If it is something else, or could be two of these.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        found = getattr(array, "dtype", type(array).__name__)
        raise UserError(f"{where}: the images are {found}; give an array of uint8")
    if array.ndim == 2 and array.shape[1]:
        side = round((array.shape[1] / 3) ** 0.5)
        if 3 * side**2 == array.shape[1]:
            planes = array.reshape(len(array), 3, side, side)
            return planes.transpose(0, 2, 3, 1)
    if array.ndim == 3 and array.size:
        return array[..., None]
    if array.ndim == 4 and array.size:
        last, first = array.shape[3] in (1, 3), array.shape[1] in (1, 3)
        if last and not first:
            return array
        if first and not last:
            return array.transpose(0, 2, 3, 1)
    raise UserError(
        f"{where}: images of shape {array.shape} are not understood; give uint8 "
        "[N, H, W, 3]"
    )


def as_labels(values, count: int, where: str) -> np.ndarray:
    """Returns labels as int32 [N].

    Args:
      values: Integers: a list, or an array [N] or [N, 1].
      count: N, the number of images.
      where: Name of the file, for errors.

    Raises:
      UserError: If they are not integers, below zero, too large, or not one for each
        image.
    """
    if isinstance(values, list) and not all(type(v) is int for v in values):
        raise UserError(f"{where}: the labels are no integers; give class numbers")
    try:
        labels = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        labels = np.empty(0, object)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(
            f"{where}: labels of dtype {labels.dtype} and shape {labels.shape} are not "
            "understood; give one integer for each image"
        )
    if len(labels) != count:
        raise UserError(
            f"{where}: there are {len(labels):,} labels for {count:,} images; give one "
            "for each image"
        )
    if count and not (0 <= labels.min() and labels.max() < MAX_CLASSES):
        raise UserError(
            f"{where}: labels run from {labels.min()} to {labels.max()}; give class "
            f"numbers from 0 to below {MAX_CLASSES:,}"
        )
    return labels.astype(np.int32)


def as_ids(values, count: int, where: str) -> list[str | int]:
    """Returns what a source calls its images.

    Args:
      values: Integers or strings: a list, or an array [N].
      count: N, the number of images.
      where: Name of the file, for errors.

    Raises:
      UserError: If they are neither, or not one for each image.
    """
    try:
        ids = values.tolist() if isinstance(values, np.ndarray) else values
    except ValueError:  # bytes that are no Unicode
        ids = None
    if isinstance(ids, list):
        ids = [v.decode("latin-1") if isinstance(v, bytes) else v for v in ids]
    if not isinstance(ids, list) or not all(type(v) in (int, str) for v in ids):
        raise UserError(f"{where}: the ids are no numbers or strings; leave them out")
    if len(ids) != count:
        raise UserError(
            f"{where}: there are {len(ids):,} ids for {count:,} images; give one for "
            "each image"
        )
    return ids
