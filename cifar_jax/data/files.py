"""What a path holds: which reader opens it, and which splits it has."""

import functools
import pathlib
import pickletools

from cifar_jax import UserError
from cifar_jax.data import archives, arrays, folders, pickles
from cifar_jax.data.arrays import UNNAMED
from cifar_jax.data.layouts import Layout
from cifar_jax.data.table import (
    Rows,
    Table,
    Tables,
    as_ids,
    as_images,
    as_labels,
    from_arrays,
)

MAX_PICKLE_BYTES = 2 << 30
LABEL_KEYS = ("labels", "fine_labels")

_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}
_SPLIT_SUFFIXES = {".npz", ".npy", ".pkl", ".pickle"}


def tables(
    path: pathlib.Path,
    *,
    image_shape: tuple[int, int, int] | None = None,
    resize: bool = False,
) -> Tables:
    """Returns what opens each split of a file or folder.

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
        return _folder_tables(path, options)
    if not path.is_file():
        raise UserError(f"{path} is no regular file; give a file or a folder")
    if folders.is_image(path):
        return {UNNAMED: functools.partial(folders.table, path, **options)}
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"\x93NUMPY"):
        return {UNNAMED: functools.partial(arrays.npy_table, path)}
    if head.startswith(b"PK"):
        return arrays.npz_tables(path)
    if archives.is_archive(path, head):
        return _archive_tables(path, archives.recognise(path))
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


def _folder_tables(path: pathlib.Path, options: dict) -> Tables:
    if layout := archives.recognise(path):
        return _archive_tables(path, layout)
    if found := arrays.corrupted_tables(path):
        return found
    if splits := _split_paths(path):
        return {
            name: functools.partial(_only_table, child, options)
            for name, child in splits.items()
        }
    return {UNNAMED: functools.partial(folders.table, path, **options)}


def _split_paths(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the folders or files that are called like splits, if all folders are."""
    children = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    inner = [p for p in children if p.is_dir()]
    if any(p.name not in _SPLIT_NAMES for p in inner):
        return {}
    outer = [p for p in children if p.is_file() and p.suffix in _SPLIT_SUFFIXES]
    return {p.stem: p for p in (*outer, *inner) if p.stem in _SPLIT_NAMES}


def _only_table(path: pathlib.Path, options: dict) -> Table:
    found = tables(path, **options)
    if set(found) != {UNNAMED}:
        raise UserError(
            f"{path} holds the splits {', '.join(found)}; give it as a source of its "
            "own"
        )
    return found[UNNAMED]()


def _archive_tables(path: pathlib.Path, layout: Layout) -> Tables:
    return {
        split: functools.partial(_archive_table, path, layout, split)
        for split in layout.files
    }


def _archive_table(path: pathlib.Path, layout: Layout, split: str) -> Table:
    @functools.cache
    def examples():  # the whole split at once: it is checked as a whole
        return archives.read(path, layout, split)[split]

    def fetch(start, stop):
        images, labels = examples()
        return Rows(images[start:stop], labels["label"][start:stop])

    size = layout.num_records(split)
    name = f"{path}:{split}"
    return Table(name, layout.image_shape, size, fetch, layout.label_names)


def _pickle_table(path: pathlib.Path) -> Table:
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
