"""Images that are read in pieces, however they are stored, and checks of their arrays.

Every reader of this folder returns a `Dataset`, so evaluation and prediction never need
more than a batch in memory, and training reads a split as `Examples`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cifar_jax import UserError

MAX_CLASSES = 1 << 16

ImageShape = tuple[int, int, int]  # height, width, channels


@dataclasses.dataclass(frozen=True)
class Examples:
    """Labelled images in memory.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int32 [N], class of each image.
      histogram: int64 [C, 256], as `histogram` returns it; None: not counted yet.
    """

    images: np.ndarray
    labels: np.ndarray
    histogram: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Examples":
        return Examples(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some consecutive images of a data set.

    Attributes:
      images: uint8 [B, H, W, C]; zeros where an image cannot be read.
      labels: int32 [B], class of each image; None: the data set has no labels.
      errors: Fault of each image that cannot be read, in one line, by its index in the
        batch.
      histogram: int64 [C, 256], as `histogram` returns it; None: not counted yet.
    """

    images: np.ndarray
    labels: np.ndarray | None
    errors: dict[int, str] = dataclasses.field(default_factory=dict)
    histogram: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images of one shape, with or without labels, that are read in pieces.

    Attributes:
      name: Source as the user named it, for errors.
      image_shape: Height, width and channels.
      num_images: Number of images.
      read: Function that returns the images from a start to before a stop, which are
        both within the data set.
      label_names: Names of the classes, by label; None: it has no labels. Where a
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

    def examples(self, count: int | None = None) -> Examples:
        """Reads labelled images into memory.

        Args:
          count: Number of images, from the first; None: all.
        """
        if self.label_names is None:
            raise UserError(
                f"{self.name} has no labels; give a labelled source, such as a folder "
                "with one sub-folder for each class"
            )
        if not self.num_images:
            raise UserError(f"{self.name} is empty; choose another split or source")
        batch = self.read(0, self.num_images if count is None else count)
        if errors := list(batch.errors.values()):
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise UserError(f"{errors[0]}{more}")
        assert batch.labels is not None  # there are label names
        if batch.labels.min() < 0:  # as TFDS marks images without one
            raise UserError(f"{self.name} has images without labels; use another split")
        return Examples(batch.images, batch.labels, batch.histogram)


def histogram(images: np.ndarray) -> np.ndarray:
    """Counts the pixels of each value in each channel: int64 [C, 256].

    Args:
      images: uint8 [N, H, W, C].
    """
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])


# Functions that open the splits of a source, by name.
Splits = Mapping[str, Callable[[], Dataset]]


def from_arrays(name: str, images: Any, labels: Any = None, ids: Any = None) -> Dataset:
    """Returns a data set of arrays, which may be mapped from a file.

    The names of its classes are their numbers.

    Args:
      name: Name for errors.
      images: Images, as `as_images` takes them.
      labels: Labels, as `as_labels` takes them; None: it has none.
      ids: Integers or strings, a list or an array [N]; None: it has none.
    """
    images, label_names = as_images(images, name), None
    if ids is not None:
        ids = _as_ids(ids, len(images), name)
    if labels is not None:
        labels = as_labels(labels, len(images), name)
        label_names = tuple(str(k) for k in range(int(labels.max(initial=0)) + 1))

    def read(start: int, stop: int) -> Batch:
        # A copy, because a batch may be kept for longer than a mapped file.
        batch = np.array(images[start:stop], order="C")
        return Batch(batch, None if labels is None else labels[start:stop])

    return Dataset(name, images.shape[1:], len(images), read, label_names, ids)


def as_images(array: Any, where: str) -> np.ndarray:
    """Returns images as uint8 [N, H, W, C], without copying them.

    Args:
      array: uint8: [N, H, W, C] or [N, C, H, W] with 1 or 3 channels, [N, H, W], or
        [N, 3 * side * side] with the red, green and blue planes of square images.
      where: Name of the file, for errors.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(array).__name__)
        raise UserError(f"{where}: the images are {kind}; give an array of uint8")
    if array.ndim == 2 and array.shape[1]:
        side = round((array.shape[1] / 3) ** 0.5)
        if 3 * side**2 == array.shape[1]:
            planes = array.reshape(len(array), 3, side, side)
            return planes.transpose(0, 2, 3, 1)
    if array.ndim == 3 and array.size:
        return array[..., None]
    if array.ndim == 4 and array.size:
        channels_last, channels_first = (array.shape[k] in (1, 3) for k in (3, 1))
        if channels_last and not channels_first:
            return array
        if channels_first and not channels_last:
            return array.transpose(0, 2, 3, 1)
    raise UserError(
        f"{where}: images have the shape {array.shape}; give uint8 [N, H, W, 3]"
    )


def as_labels(
    values: Any, count: int, where: str, num_classes: int = MAX_CLASSES
) -> np.ndarray:
    """Returns labels as int32 [N].

    Args:
      values: Integers: a list, or an array [N] or [N, 1].
      count: N, the number of images.
      where: Name of the file, for errors.
      num_classes: Number that all labels are below.
    """
    # A few bytes of a pickle can name one tuple within tuples a billion times.
    is_list = isinstance(values, list | tuple)
    if is_list and not all(type(v) is int or isinstance(v, np.integer) for v in values):
        raise UserError(f"{where}: labels must be integers; give class numbers")
    try:
        labels = np.asarray(values)
    except (ValueError, OverflowError, RecursionError):
        labels = np.empty(0, object)
    if labels.shape[1:] == (1,):
        labels = labels.ravel()
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(
            f"{where}: labels of dtype {labels.dtype} and shape {labels.shape} are not "
            "understood; give one integer for each image"
        )
    if len(labels) != count:
        raise UserError(
            f"{where}: {len(labels):,} labels for {count:,} images; give one for each"
        )
    if count and not (0 <= labels.min() and labels.max() < num_classes):
        raise UserError(
            f"{where}: labels run from {labels.min()} to {labels.max()}; give class "
            f"numbers from 0 to below {num_classes:,}"
        )
    return labels.astype(np.int32)


def _as_ids(values: Any, count: int, where: str) -> list[str | int]:
    """Returns the names or numbers that a source gives its N images."""
    try:
        ids = values.tolist() if isinstance(values, np.ndarray) else values
    except (ValueError, SystemError):  # a string array that is not Unicode
        ids = None
    if isinstance(ids, list):
        ids = [v.decode("latin-1") if isinstance(v, bytes) else v for v in ids]
    is_sound = isinstance(ids, list) and all(
        isinstance(v, str) or (type(v) is int and v.bit_length() <= 64) for v in ids
    )
    if not is_sound or len(ids) != count:
        raise UserError(
            f"{where}: ids must be strings, or numbers of at most 64 bits, and "
            f"{count:,} of them; leave them out"
        )
    # A lone surrogate cannot be written.
    return [
        v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v
        for v in ids
    ]
