"""The official CIFAR archives, binary and Python: checking and reading them.

Nothing here unpacks to disk or unpickles: members are read by name, and their sizes,
labels and class counts are checked before anything is used. Of the tar format only what
these archives need is understood: `tarfile` obeys headers of any size.
"""

import bz2
import gzip
import lzma
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax._files import first_line
from cifar_jax.data import pickles
from cifar_jax.data.archive_spec import SPECS, ArchiveSpec
from cifar_jax.data.dataset import as_images, as_labels

Labels = Mapping[str, np.ndarray]  # int32 [N], by kind of label

# Bytes that an archive may unpack to; those of CIFAR unpack to 185 million.
MAX_UNPACKED = 1 << 29

_DAMAGE = (EOFError, OSError, ValueError, MemoryError, zlib.error, lzma.LZMAError)
_OPENERS: Mapping[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


def read(
    path: pathlib.Path, spec: ArchiveSpec, split: str | None = None
) -> dict[str, tuple[np.ndarray, Labels]]:
    """Reads and checks a copy of an archive.

    Args:
      path: The archive or its unpacked folder.
      spec: Content that it must have.
      split: Split to read; None: all.

    Returns:
      For each split, images uint8 [N, side, side, 3] and labels int32 [N] of each kind,
      in the official order.
    """
    splits = [split] if split else list(spec.files)
    names = {name: split for split in splits for name in spec.files[split]}
    contents = _read_files(path, names, spec)
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {spec.remedy}")
    examples: dict[str, tuple[np.ndarray, Labels]] = {}
    for split in splits:
        # Each file is dropped once it is parsed, and only its images are kept.
        parts = [
            _parse(contents.pop(name), f"{path}: {name}", spec, split)
            for name in spec.files[split]
        ]
        images = np.ascontiguousarray(np.concatenate([part[0] for part in parts]))
        labels = {}
        for kind, class_names in spec.labels.items():
            labels[kind] = np.concatenate([part[1][kind] for part in parts])
            # The official splits hold every class equally often.
            counts = np.bincount(labels[kind], minlength=len(class_names))
            if (counts != len(images) / len(class_names)).any():
                raise UserError(
                    f"{path}: split {split} does not hold every {kind} from 0 to "
                    f"{len(class_names) - 1} equally often; {spec.remedy}"
                )
        examples[split] = images, labels
    return examples


def locate(
    source: str | os.PathLike, specs: Sequence[ArchiveSpec]
) -> tuple[pathlib.Path, ArchiveSpec]:
    """Returns the archive or unpacked folder that `source` is or holds, and its spec.

    A file that is none of the archives is taken for the first of them.
    """
    source = pathlib.Path(os.path.expanduser(source))
    if not source.exists():
        raise UserError(f"{source} does not exist; give a copy of {specs[0].archive}")
    if source.is_file():
        with source.open("rb") as file:
            found = recognise_file(source, file.read(512)) or specs[0]
        same = (spec for spec in specs if spec.folder == found.folder)
        return source, next(same, specs[0])
    if found := find(source, specs):
        return found
    raise UserError(
        f"{source} holds neither {specs[0].archive} nor the folder {specs[0].folder}; "
        "give the archive, its unpacked folder, or the folder that holds one of them"
    )


def find(
    folder: pathlib.Path, specs: Sequence[ArchiveSpec]
) -> tuple[pathlib.Path, ArchiveSpec] | None:
    """Returns the archive or unpacked folder that `folder` is or holds, if any."""
    for spec in specs:
        if any((folder / files[0]).is_file() for files in spec.files.values()):
            return folder, spec
        if (folder / spec.folder).is_dir():
            return folder / spec.folder, spec
        if (folder / spec.archive).is_file():
            return folder / spec.archive, spec
    return None


def recognise_file(path: pathlib.Path, head: bytes) -> ArchiveSpec | None:
    """Returns the spec of an archive; None: the file is not a tar archive.

    Args:
      path: The file.
      head: Its first 512 bytes.
    """
    is_compressed = head.startswith(tuple(_OPENERS))
    if not is_compressed and head[257:262] != b"ustar" and ".tar" not in path.suffixes:
        return None
    by_folder = {spec.folder: spec for spec in SPECS}
    try:
        for _, (name, _, _) in zip(range(100), _members(path), strict=False):
            if (folder := name.partition("/")[0]) in by_folder:
                return by_folder[folder]
    except _DAMAGE as error:
        raise _damaged(path, error, "copy it again") from error
    archives = ", ".join(spec.archive for spec in SPECS)
    raise UserError(f"{path} is none of the archives {archives}; unpack it first")


def _read_files(
    path: pathlib.Path, names: Mapping[str, str], spec: ArchiveSpec
) -> dict[str, bytes]:
    """Reads the regular files of a folder or archive that have one of the names."""
    contents = {}
    if path.is_dir():
        for name, split in names.items():
            if (path / name).is_file():
                size = (path / name).stat().st_size
                _check_size(size, f"{path}: {name}", spec, split)
                contents[name] = (path / name).read_bytes()
        return contents
    expected = {f"{spec.folder}/{name}": name for name in names}
    try:
        for member, size, read in _members(path):
            if name := expected.get(member):
                # Before reading: a small archive may claim to hold huge files.
                _check_size(size, f"{path}: {name}", spec, names[name])
                contents[name] = read(size)
    except UserError:
        raise
    except _DAMAGE as error:
        raise _damaged(path, error, spec.remedy) from error
    return contents


def _members(path: pathlib.Path) -> Iterator[tuple[str, int, Callable[[int], bytes]]]:
    """Yields the name and size of each regular file in a tar archive, and its reader.

    Members with names of more than 100 bytes are skipped, as are links and the like.
    """
    with path.open("rb") as file:
        head = file.read(6)
    opener = next((o for magic, o in _OPENERS.items() if head.startswith(magic)), open)
    with opener(path, "rb") as file:
        end = 0
        while (header := file.read(512)).strip(b"\0") or len(header) < 512:
            fields = header[124:136], header[148:156]
            size, checksum = (int(field.strip(b" \0") or b"0", 8) for field in fields)
            # The checksum counts its own field as spaces.
            found = sum(header) - sum(fields[1]) + 8 * ord(" ")
            if len(header) < 512 or found != checksum or size < 0:
                raise ValueError("a header is damaged")
            end = file.tell() + size + -size % 512
            if end > MAX_UNPACKED:
                break
            is_long = header[257:263] == b"ustar\0" and header[345] != 0
            if header[156:157] in b"0\0" and not is_long:
                name = header[:100].partition(b"\0")[0].decode(errors="replace")
                yield name.removeprefix("./"), size, file.read
            while 0 < (rest := end - file.tell()):
                if not file.read(min(1 << 20, rest)):
                    raise EOFError("it is truncated")
        while end <= MAX_UNPACKED and file.read(1 << 20):
            end = file.tell()  # gzip checks its sum at the end of the file only
        if end > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")


def _damaged(path: pathlib.Path, error: Exception, remedy: str) -> UserError:
    return UserError(
        f"{path} is damaged or not a tar archive ({first_line(error)}); {remedy}"
    )


def _parse(
    content: bytes, where: str, spec: ArchiveSpec, split: str
) -> tuple[np.ndarray, Labels]:
    """Returns the images and labels of a file, checked against the spec."""
    count = spec.records_per_file[split]
    if spec.keys:  # a Python archive
        batch = pickles.read_batch(content, where)
        missing = [key for key in ("data", *spec.keys.values()) if key not in batch]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; {spec.remedy}")
        images = as_images(batch["data"], where)
        if images.shape != (count, *spec.image_shape):
            raise UserError(
                f"{where} holds images {images.shape} instead of "
                f"{(count, *spec.image_shape)}; {spec.remedy}"
            )
        return images, {
            kind: as_labels(batch[key], count, where) for kind, key in spec.keys.items()
        }
    _check_size(len(content), where, spec, split)
    records = np.frombuffer(content, np.uint8).reshape(count, -1)
    return as_images(records[:, len(spec.labels) :], where), {
        kind: records[:, column].astype(np.int32)
        for column, kind in enumerate(spec.labels)
    }


def _check_size(size: int, where: str, spec: ArchiveSpec, split: str) -> None:
    record_bytes = len(spec.labels) + math.prod(spec.image_shape)
    expected = spec.records_per_file[split] * record_bytes
    if not spec.keys and size != expected:
        raise UserError(
            f"{where} has {size:,} bytes instead of {expected:,}; {spec.remedy}"
        )
    # A pickle also holds the names of its images, in any protocol.
    if spec.keys and size > 2 * expected + (1 << 20):
        raise UserError(f"{where} has {size:,} bytes, far too many; {spec.remedy}")
