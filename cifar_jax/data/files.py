"""What a path holds: which reader opens it, and which splits it has."""

import functools
import pathlib
import pickletools

from cifar_jax import UserError
from cifar_jax.data import archives, arrays, folders, pickles, transforms
from cifar_jax.data.archive_spec import ArchiveSpec
from cifar_jax.data.arrays import UNNAMED
from cifar_jax.data.dataset import (
    Batch,
    Dataset,
    ImageShape,
    Splits,
    as_ids,
    as_images,
    as_labels,
    from_arrays,
)

MAX_PICKLE_BYTES = 2 << 30
LABEL_KEYS = ("labels", "fine_labels")

_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
_SPLIT_SUFFIXES = {".npz", ".npy", ".pkl", ".pickle"}


class FileStore:
    """A file or folder of images, whose splits are opened when they are needed.

    Args:
      path: File or folder that `open_splits` knows.
      image_shape: Height, width and channels of images in files of their own; None:
        those of the first image.
      resize: Whether those images are resized to it.

    Attributes:
      path: The file or folder.

    Raises:
      UserError: If the path holds no images.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        image_shape: ImageShape | None = None,
        resize: bool = False,
    ):
        self.path = path
        self._splits = {
            name: functools.cache(open_split)
            for name, open_split in open_splits(
                path, image_shape=image_shape, resize=resize
            ).items()
        }

    def describe(self) -> tuple[ImageShape, tuple[str, ...] | None]:
        """Returns height, width and channels, and the classes; None: no labels."""
        names = list(self._splits)
        dataset = self._splits["train" if "train" in names else names[0]]()
        return dataset.image_shape, dataset.label_names

    def prepare(self, **options) -> pathlib.Path:
        """Returns the path: unlike a data set of TFDS, it is there already."""
        del options
        return self.path

    def check_split(self, split: str) -> None:
        """Refuses a split that the path lacks, or whose file is damaged."""
        self.open_split(split).read(0, 1)

    def open_split(self, split: str | None, default: str = "") -> Dataset:
        """Opens a split, part of one, or several; see `transforms.select`."""
        return transforms.select(self._splits, split, default, str(self.path))

    def release(self) -> None:
        """Closes all splits: some hold the content of a file in memory."""
        for open_split in self._splits.values():
            open_split.cache_clear()


def open_splits(
    path: pathlib.Path,
    *,
    image_shape: ImageShape | None = None,
    resize: bool = False,
) -> Splits:
    """Returns functions that open the splits of a file or folder.

    Args:
      path: An official archive or its folder, .npz, .npy, a pickled batch, an image, a
        folder of images, or a folder of such sources called train and test.
      image_shape: Of the images in a folder; None: of the first image.
      resize: Whether images in a folder are resized to it.

    Returns:
      Functions by split; a source that names no split has one called `images`.

    Raises:
      UserError: If the path is or holds none of these.
    """
    options = dict(image_shape=image_shape, resize=resize)
    if path.is_dir():
        return _folder_splits(path, options)
    if not path.is_file():
        raise UserError(f"{path} is no regular file; give a file or a folder")
    if folders.is_image(path):
        return {UNNAMED: functools.partial(folders.open_folder, path, **options)}
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"\x93NUMPY"):
        return {UNNAMED: functools.partial(arrays.open_npy, path)}
    if head.startswith(b"PK"):
        return arrays.npz_splits(path)
    if archives.is_archive(path, head):
        return _archive_splits(path, archives.recognise(path))
    if head[:1] in _PICKLE_STARTS:
        return {UNNAMED: functools.partial(_pickle_table, path)}
    raise UserError(
        f"{path} is no source of images that is known; give an official archive, .npz, "
        ".npy, a pickled batch, an image, or a folder"
    )


# The first instruction of a pickle: its protocol, or what builds a dictionary.
_PICKLE_STARTS = {
    opcode.code.encode("latin-1")
    for opcode in pickletools.opcodes
    if opcode.name in ("PROTO", "MARK", "EMPTY_DICT", "GLOBAL")
}


def _folder_splits(path: pathlib.Path, options: dict) -> Splits:
    if spec := archives.recognise(path):
        return _archive_splits(path, spec)
    if found := arrays.corrupted_splits(path):
        return found
    if splits := _split_paths(path):
        return {
            name: functools.partial(_only_table, child, options)
            for name, child in splits.items()
        }
    return {UNNAMED: functools.partial(folders.open_folder, path, **options)}


def _split_paths(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders or files that are called like splits, if all folders are."""
    children = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    inner = [p for p in children if p.is_dir()]
    if any(p.name not in _SPLIT_NAMES for p in inner):
        return {}
    outer = [p for p in children if p.is_file() and p.suffix in _SPLIT_SUFFIXES]
    return {p.stem: p for p in (*outer, *inner) if p.stem in _SPLIT_NAMES}


def _only_table(path: pathlib.Path, options: dict) -> Dataset:
    found = open_splits(path, **options)
    if set(found) != {UNNAMED}:
        raise UserError(
            f"{path} holds the splits {', '.join(found)}; give it as a source of its "
            "own"
        )
    return found[UNNAMED]()


def _archive_splits(path: pathlib.Path, spec: ArchiveSpec) -> Splits:
    return {
        split: functools.partial(_archive_table, path, spec, split)
        for split in spec.files
    }


def _archive_table(path: pathlib.Path, spec: ArchiveSpec, split: str) -> Dataset:
    @functools.cache
    def examples():  # the whole split at once: it is checked as a whole
        return archives.read(path, spec, split)[split]

    def read(start: int, stop: int) -> Batch:
        images, labels = examples()
        return Batch(images[start:stop], labels["label"][start:stop])

    size = spec.num_records(split)
    name = f"{path}:{split}"
    return Dataset(name, spec.image_shape, size, read, spec.label_names)


def _pickle_table(path: pathlib.Path) -> Dataset:
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes; pickles of at most "
            f"{MAX_PICKLE_BYTES:,} are read: save it as .npy"
        )
    batch = pickles.read_batch(path.read_bytes(), str(path))
    if "data" not in batch:
        keys = str(sorted(batch))[:200]  # escapes what they hold
        raise UserError(f"{path} holds the keys {keys}; name its images data")
    images = as_images(batch["data"], str(path))
    labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
    if labels is not None:
        labels = as_labels(labels, len(images), str(path))
    ids = batch.get("ids")
    if ids is not None:
        ids = as_ids(ids, len(images), str(path))
    return from_arrays(str(path), images, labels, ids=ids)
