"""Images in NumPy's files, .npy and .npz, mapped from disk where they can be.

No object is ever unpickled: the header of an array is checked, with the size that it
claims against the bytes that are there, before anything is read.
"""

import functools
import io
import math
import pathlib
import struct
import warnings
import zipfile
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.data.dataset import (
    Dataset,
    Splits,
    as_ids,
    as_images,
    as_labels,
    from_arrays,
)

# An array that is compressed is held whole: this is what it may grow to.
MAX_INFLATED = 4 << 30
_MOST_DEFLATE_GAINS = 1032

# What the arrays of an .npz may be called, alone or with train_ or _train beside it.
IMAGE_KEYS = ("images", "image", "imgs", "data", "x")
LABEL_KEYS = ("labels", "label", "targets", "y")
ID_KEYS = ("ids", "id")
SPLITS = ("train", "val", "test")
UNNAMED = "images"  # what a split is called that the file gives no name

SEVERITIES = (1, 2, 3, 4, 5)


def npz_splits(path: pathlib.Path) -> Splits:
    """Returns what opens each split of an .npz file; `images` where it has no name.

    Raises:
      UserError: If it is no .npz file, or holds no images.
    """
    members = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                members[info.filename.lower().removesuffix(".npy")] = info
    except Exception as error:  # zipfile raises many kinds
        raise _damaged(path, error) from error
    tables = {}
    for split in (*SPLITS, None):
        images = _member(members, IMAGE_KEYS, split)
        if images is not None:
            labels = _member(members, LABEL_KEYS, split)
            ids = _member(members, ID_KEYS, split)
            opened = functools.partial(_npz_table, path, images, labels, ids)
            tables[split or UNNAMED] = opened
    if not tables:
        raise UserError(
            f"{path} holds the arrays {str(sorted(members))[:200]}; name them images "
            "and labels"
        )
    return tables


def _member(members, keys: tuple[str, ...], split: str | None):
    for key in keys:
        for name in (key,) if split is None else (f"{split}_{key}", f"{key}_{split}"):
            if name in members:
                return members[name]
    return None


def _npz_table(path: pathlib.Path, images, labels, ids) -> Dataset:
    where = f"{path}: {images.filename}"
    images = as_images(_read_member(path, images), where)
    if labels is not None:
        where = f"{path}: {labels.filename}"
        labels = as_labels(_read_member(path, labels), len(images), where)
    if ids is not None:
        where = f"{path}: {ids.filename}"
        ids = as_ids(_read_member(path, ids), len(images), where)
    return from_arrays(str(path), images, labels, ids=ids)


def open_npy(path: pathlib.Path, labels_path: pathlib.Path | None = None) -> Dataset:
    """Returns the images of an .npy file, labelled by a file beside it.

    The labels of `NAME_data.npy` or `NAME_images.npy` are in `NAME_labels.npy` (as
    those of CIFAR-10.1 are), those of another `NAME.npy` in `NAME_labels.npy` or
    `labels.npy`.

    Raises:
      UserError: If a file is damaged or holds something else.
    """
    images = as_images(read_npy(path), str(path))
    labels_path = labels_path or _labels_beside(path)
    if labels_path is None:
        return from_arrays(str(path), images)
    labels = as_labels(read_npy(labels_path), len(images), str(labels_path))
    return from_arrays(str(path), images, labels)


def _labels_beside(path: pathlib.Path) -> pathlib.Path | None:
    stem = path.stem.removesuffix("_data").removesuffix("_images")
    names = (f"{stem}_labels.npy", "labels.npy")
    paths = (path.with_name(name) for name in names)
    return next((p for p in paths if p.is_file() and p != path), None)


def corruptions(folder: pathlib.Path) -> tuple[str, ...]:
    """Returns the corruptions of a folder laid out as CIFAR-10-C, or none.

    Hendrycks & Dietterich (2019): `labels.npy` and a file for each corruption, with all
    images at severity 1, then at severity 2, and so on to 5.
    """
    if not (folder / "labels.npy").is_file():
        return ()
    names = (path.stem for path in folder.glob("*.npy") if path.is_file())
    return tuple(sorted(name for name in names if name != "labels"))


def corrupted_splits(folder: pathlib.Path) -> Splits:
    """Returns what opens each corruption: `NAME` whole, `NAME/3` at one severity."""
    return {
        name if severity is None else f"{name}/{severity}": functools.partial(
            _corrupted, folder, name, severity
        )
        for name in corruptions(folder)
        for severity in (None, *SEVERITIES)
    }


def _corrupted(folder: pathlib.Path, name: str, severity: int | None) -> Dataset:
    path, labels_path = folder / f"{name}.npy", folder / "labels.npy"
    images = as_images(read_npy(path), str(path))
    labels = as_labels(read_npy(labels_path), len(images), str(labels_path))
    if severity is None:
        return from_arrays(str(path), images, labels)
    if len(images) % len(SEVERITIES):
        raise UserError(
            f"{path} holds {len(images):,} images, which are not {len(SEVERITIES)} "
            f"severities; ask for {name} as a whole"
        )
    size = len(images) // len(SEVERITIES)
    rows = slice((severity - 1) * size, severity * size)
    return from_arrays(f"{path} at severity {severity}", images[rows], labels[rows])


def read_npy(path: pathlib.Path) -> np.ndarray:
    """Maps the array of an .npy file, read-only.

    Raises:
      UserError: If it is damaged, truncated, or holds objects.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            start = file.tell()
        _check_length(header, path.stat().st_size - start)
        return _map(path, start, header)
    except Exception as error:  # NumPy raises many kinds
        raise _damaged(path, error) from error


def _read_member(path: pathlib.Path, info: zipfile.ZipInfo) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            if info.compress_type == zipfile.ZIP_STORED:
                return _map_member(path, info, file)
            return _inflate(info, file)
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise _damaged(f"{path}: {info.filename}", error) from error


def _map_member(path: pathlib.Path, info: zipfile.ZipInfo, file) -> np.ndarray:
    header = _read_header(file)
    length = file.tell()
    _check_length(header, info.file_size - length)
    while file.read(1 << 20):
        pass  # the checksum is checked at the end
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", raw.read(4))
    start = info.header_offset + 30 + name_length + extra_length
    return _map(path, start + length, header)


def _inflate(info: zipfile.ZipInfo, file) -> np.ndarray:
    most = min(MAX_INFLATED, info.compress_size * _MOST_DEFLATE_GAINS)
    if info.compress_type != zipfile.ZIP_DEFLATED or info.file_size > most:
        raise ValueError(
            f"{info.compress_size:,} bytes are said to inflate to {info.file_size:,}; "
            f"at most {most:,} are read"
        )
    content = file.read()
    head = io.BytesIO(content)
    shape, order, dtype = header = _read_header(head)
    _check_length(header, len(content) - head.tell())
    array = np.frombuffer(content, dtype, offset=head.tell(), count=math.prod(shape))
    return array.reshape(shape, order=order)


def _read_header(file) -> tuple[tuple[int, ...], str, np.dtype]:
    """Reads shape, order and dtype, and leaves the file where the content starts."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        read: Any = np.lib.format.read_array_header_1_0
    elif version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    else:
        raise ValueError(f"it has version {version} of the format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on files that Python 2 wrote
        shape, is_fortran, dtype = read(file)
    if dtype.kind not in "biufSU":
        raise ValueError(f"it has the dtype {str(dtype)[:40]}; numbers are needed")
    if len(shape) > 4 or any(n < 0 for n in shape):
        raise ValueError(f"it has the shape {str(shape)[:40]}")
    return shape, "F" if is_fortran else "C", dtype


def _check_length(header, found: int) -> None:
    shape, _, dtype = header
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ValueError(f"{found:,} bytes for an array of {expected:,}")


def _map(path: pathlib.Path, start: int, header) -> np.ndarray:
    shape, order, dtype = header
    if not math.prod(shape) * dtype.itemsize:
        return np.empty(shape, dtype, order)
    return np.memmap(path, dtype, "r", offset=start, shape=shape, order=order)


def _damaged(where, error: Exception) -> UserError:
    reason = (str(error) or type(error).__name__).partition("\n")[0][:150]
    return UserError(
        f"{where} is damaged or no array of numbers ({reason}); save it again, without "
        "objects in it"
    )
