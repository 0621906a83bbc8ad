"""Files and folders of images: which reader opens a path, and its splits."""

import functools
import pathlib

from cifar_jax import UserError
from cifar_jax.data import archives, arrays, folders, pickles, transforms
from cifar_jax.data.archive_spec import ArchiveSpec
from cifar_jax.data.arrays import UNNAMED
from cifar_jax.data.dataset import Batch, Dataset, ImageShape, Splits, from_arrays

MAX_PICKLE_BYTES = 2 << 30

_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
_SPLIT_SUFFIXES = {".npz", ".npy", ".pkl", ".pickle"}
# The first instruction of a pickle: PROTO, MARK, EMPTY_DICT or GLOBAL.
_PICKLE_STARTS = (b"\x80", b"(", b"}", b"c")


class FileStore:
    """A file or folder of images.

    Args:
      path: An official archive or its folder, .npz, .npy, a pickled batch, an image, a
        folder of images, or a folder of such sources named train and test.
      image_shape: Shape of images that lie in files of their own; None: that of the
        first image.
      resize: Whether those images are resized to it; otherwise others are errors.

    Attributes:
      path: The file or folder.
      splits: Functions that open the splits, by name. A source that names no split has
        one named `images`.
    """

    def __init__(
        self, path: pathlib.Path, image_shape: ImageShape | None, *, resize: bool
    ):
        self.path = path
        self._open_folder = functools.partial(
            folders.open_folder, image_shape=image_shape, resize=resize
        )
        self.splits = self._find_splits(path)

    def describe(self) -> tuple[ImageShape, tuple[str, ...] | None]:
        """Returns height, width and channels, and the class names; None: no labels."""
        names = list(self.splits)
        first = self.splits["train" if "train" in names else names[0]]()
        return first.image_shape, first.label_names

    def prepare(self, *_) -> pathlib.Path:
        """Returns the path, which unlike a data set of TFDS is always there."""
        return self.path

    def _find_splits(self, path: pathlib.Path) -> Splits:
        if path.is_dir():
            if found := archives.find(path, archives.SPECS):
                return _archive_splits(*found)
            if corrupted := arrays.corrupted_splits(path):
                return corrupted
            # A folder of splits: all its folders are named like splits; files may be.
            hidden = (".", "__MACOSX")
            shown = [p for p in sorted(path.iterdir()) if not p.name.startswith(hidden)]
            inner = [p for p in shown if p.is_dir()]
            outer = [p for p in shown if p.is_file() and p.suffix in _SPLIT_SUFFIXES]
            parts = {p.stem: p for p in (*outer, *inner) if p.stem in _SPLIT_NAMES}
            if parts and all(p.name in _SPLIT_NAMES for p in inner):
                return {
                    split: lambda part=part: transforms.select(
                        self._find_splits(part), None, UNNAMED, str(part)
                    )
                    for split, part in parts.items()
                }
            return {UNNAMED: functools.partial(self._open_folder, path)}
        if not path.is_file():
            raise UserError(f"{path} is not a regular file; give a file or a folder")
        if path.suffix.lower() in folders.SUFFIXES:
            return {UNNAMED: functools.partial(self._open_folder, path)}
        # Other files are recognised by their content, whatever their names.
        with path.open("rb") as file:
            head = file.read(512)
        if head.startswith(b"\x93NUMPY"):
            return {UNNAMED: functools.partial(arrays.open_npy, path)}
        if head.startswith(b"PK"):
            return arrays.npz_splits(path)
        if spec := archives.recognise_file(path, head):
            return _archive_splits(path, spec)
        if head.startswith(_PICKLE_STARTS):
            return {UNNAMED: functools.partial(_open_pickle, path)}
        raise UserError(
            f"{path} is not a known source of images; give an official archive, .npz, "
            ".npy, a pickled batch, an image, or a folder"
        )


def _archive_splits(path: pathlib.Path, spec: ArchiveSpec) -> Splits:
    def open_split(split: str) -> Dataset:
        # The whole split at once, when it is needed: it is checked as a whole.
        examples = functools.cache(functools.partial(archives.read, path, spec, split))

        def read(start: int, stop: int) -> Batch:
            images, labels = examples()[split]
            return Batch(images[start:stop], labels["label"][start:stop])

        name, size = f"{path}:{split}", spec.num_records(split)
        return Dataset(name, spec.image_shape, size, read, spec.labels["label"])

    return {split: functools.partial(open_split, split) for split in spec.files}


def _open_pickle(path: pathlib.Path) -> Dataset:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes; pickles of at most "
            f"{MAX_PICKLE_BYTES:,} are read: save it as .npy"
        )
    batch = pickles.read_batch(path.read_bytes(), str(path))
    if "data" not in batch:
        keys = str(sorted(batch))[:200]  # str() escapes new lines within the keys
        raise UserError(f"{path} holds the keys {keys}; name its images data")
    labels = next((batch[key] for key in arrays.LABEL_KEYS if key in batch), None)
    return from_arrays(str(path), batch["data"], labels, batch.get("ids"))
