"""Images in NumPy's files, .npy and .npz.

No object is ever unpickled: the header of an array is checked, with the size that it
claims against the bytes that are there, before anything is read. The array of an .npy
file is mapped from disk, so it may be larger than the memory; that of an .npz file is
read as a whole.
"""

import functools
import io
import math
import pathlib
import warnings
import zipfile
from typing import IO, Literal

import numpy as np

from cifar_jax import UserError
from cifar_jax._files import first_line
from cifar_jax.data.dataset import Dataset, Splits, from_arrays

# An array that is compressed is held whole: this is what it may grow to, all in all
# and as a multiple. Images of few colours shrink to a tenth.
MAX_INFLATED = 4 << 30
_MAX_RATIO = 50

# Names of the arrays of an .npz, alone or with train_ or _train beside them; labels
# have these names in pickled batches, too.
IMAGE_KEYS = ("images", "image", "imgs", "data", "x")
LABEL_KEYS = ("labels", "label", "fine_labels", "targets", "y")
ID_KEYS = ("ids", "id")
SPLITS = ("train", "val", "test")
UNNAMED = "images"  # name of a split that has none in its file

SEVERITIES = (1, 2, 3, 4, 5)

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def npz_splits(path: pathlib.Path) -> Splits:
    """Returns functions that open the splits of an .npz file.

    A split that has no name in the file is named `images`.
    """
    members, splits = _members(path), {}
    for split in (*SPLITS, None):
        forms = (f"{split}_{{}}", f"{{}}_{split}") if split else ("{}",)
        infos: list[zipfile.ZipInfo | None] = []
        for keys in (IMAGE_KEYS, LABEL_KEYS, ID_KEYS):
            names = [form.format(key) for key in keys for form in forms]
            infos.append(next((members[n] for n in names if n in members), None))
        if infos[0]:
            splits[split or UNNAMED] = lambda infos=infos: from_arrays(
                str(path), *(info and _read_member(path, info) for info in infos)
            )
    if not splits:
        raise UserError(
            f"{path} holds the arrays {str(sorted(members))[:200]}; name them images "
            "and labels; a zip of another kind has to be unzipped first"
        )
    return splits


def read_npz(path: pathlib.Path, *names: str) -> list[np.ndarray]:
    """Returns the arrays of an .npz file that have these names, whatever they hold."""
    members = _members(path)
    for name in names:
        if name not in members:
            raise UserError(f"{path} lacks {name}; save it with numpy.savez")
    return [_read_member(path, members[name]) for name in names]


def _members(path: pathlib.Path) -> dict[str, zipfile.ZipInfo]:
    """Returns the arrays of an .npz file by name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                info.filename.lower().removesuffix(".npy"): info
                for info in archive.infolist()
            }
    except Exception as error:  # zipfile raises many kinds
        raise _damaged(path, error) from error


def _read_member(path: pathlib.Path, info: zipfile.ZipInfo) -> np.ndarray:
    is_stored = info.compress_type == zipfile.ZIP_STORED
    limit = min(MAX_INFLATED, max(1 << 26, info.compress_size * _MAX_RATIO))
    try:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"it is compressed by method {info.compress_type}")
        if not is_stored and info.file_size > limit:
            raise ValueError(
                f"{info.compress_size:,} bytes are said to inflate to "
                f"{info.file_size:,}; at most {limit:,} are read"
            )
        with zipfile.ZipFile(path) as archive:
            content = archive.read(info)  # and checks its checksum
        file = io.BytesIO(content)
        shape, order, dtype = _read_header(file, len(content))
        array = np.frombuffer(content, dtype, math.prod(shape), offset=file.tell())
        return array.reshape(shape, order=order)
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise _damaged(f"{path}: {info.filename}", error) from error


def open_npy(path: pathlib.Path) -> Dataset:
    """Opens the images of an .npy file, labelled by a file beside it.

    The labels of `NAME_data.npy` or `NAME_images.npy` are in `NAME_labels.npy` (as
    those of CIFAR-10.1 are), those of another `NAME.npy` in `NAME_labels.npy` or
    `labels.npy`.
    """
    stem = path.stem.removesuffix("_data").removesuffix("_images")
    beside = [path.with_name(name) for name in (f"{stem}_labels.npy", "labels.npy")]
    labels = [other for other in beside if other.is_file() and other != path][:1]
    return from_arrays(str(path), *map(read_npy, (path, *labels)))


def corrupted_splits(folder: pathlib.Path) -> Splits:
    """Returns functions that open each corruption in a folder laid out as CIFAR-10-C.

    Hendrycks & Dietterich (2019): `labels.npy` and a file for each corruption, with all
    images at severity 1, then 2, and so on to 5. The split `NAME` holds all severities
    of a corruption, and `NAME/3` only one. Other folders have none.
    """
    if not (folder / "labels.npy").is_file():
        return {}
    names = (path.stem for path in folder.glob("[!.]*.npy") if path.is_file())

    def open_split(name: str, severity: int | None) -> Dataset:
        path = folder / f"{name}.npy"
        images, labels = read_npy(path), read_npy(folder / "labels.npy")
        if severity is None:
            return from_arrays(str(path), images, labels)
        size, rest = divmod(len(images), len(SEVERITIES))
        if rest:
            raise UserError(
                f"{path} holds {len(images):,} images, which are not "
                f"{len(SEVERITIES)} severities; ask for {name} as a whole"
            )
        rows = slice((severity - 1) * size, severity * size)
        return from_arrays(f"{path} at severity {severity}", images[rows], labels[rows])

    return {
        f"{name}/{level}" if level else name: functools.partial(open_split, name, level)
        for name in sorted(names)
        if name != "labels"
        for level in (None, *SEVERITIES)
    }


def read_npy(path: pathlib.Path) -> np.ndarray:
    """Maps the array of an .npy file, read-only."""
    try:
        with path.open("rb") as file:
            shape, order, dtype = _read_header(file, path.stat().st_size)
            start = file.tell()
        if not math.prod(shape):  # nothing, which cannot be mapped
            return np.empty(shape, dtype, order)
        return np.memmap(path, dtype, "r", offset=start, shape=shape, order=order)
    except Exception as error:  # NumPy raises many kinds
        raise _damaged(path, error) from error


def _read_header(
    file: IO[bytes], size: int
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """Reads shape, order and dtype, and leaves the file where the content starts.

    Args:
      file: An .npy file, at its start.
      size: Size of the file, which must be that of the array.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"it has version {version} of the format")
    with warnings.catch_warnings(action="ignore"):  # on files that Python 2 wrote
        shape, is_fortran, dtype = _HEADER_READERS[version](file)
    if dtype.kind not in "biufSU":  # no objects: these would be pickled
        raise ValueError(f"it has the dtype {str(dtype)[:40]}; numbers are needed")
    if not 0 < len(shape) <= 4 or any(n < 0 for n in shape):
        raise ValueError(f"it has the shape {str(shape)[:40]}")
    expected, rest = math.prod(shape) * dtype.itemsize, size - file.tell()
    if rest != expected:
        raise ValueError(f"{rest:,} bytes for an array of {expected:,}")
    return shape, "F" if is_fortran else "C", dtype


def _damaged(where: object, error: Exception) -> UserError:
    reason = first_line(error)[:150]  # which may quote what is in the file
    return UserError(
        f"{where} is damaged or not an array of numbers ({reason}); save it again, "
        "without objects in it"
    )
