"""The official CIFAR archives, binary and Python: checking and reading them.

Nothing here unpacks to disk or unpickles: members are read by name, and their sizes,
labels and class counts are checked before anything is used.
"""

import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from cifar_jax import UserError
from cifar_jax.data import pickles
from cifar_jax.data.archive_spec import SPECS, ArchiveSpec
from cifar_jax.data.dataset import as_images, as_labels

Labels = Mapping[str, np.ndarray]  # int32 [N], by kind of label

_DAMAGE = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


def read(
    source: os.PathLike, spec: ArchiveSpec, split: str | None = None
) -> dict[str, tuple[np.ndarray, Labels]]:
    """Reads and checks a copy of an archive.

    Args:
      source: The archive, its unpacked folder, or a folder that holds either.
      spec: What the archive must contain.
      split: The only one to read; None: all.

    Returns:
      For each split, images uint8 [N, side, side, 3] and labels int32 [N] of each kind,
      in the official order.

    Raises:
      UserError: If a file is missing, damaged, or not what the spec says.
    """
    path = locate(source, spec)
    splits = [split] if split else list(spec.files)
    names = {name: split for split in splits for name in spec.files[split]}
    read_members = _folder_members if path.is_dir() else _tar_members
    members = read_members(path, names, spec)
    missing = [name for name in names if name not in members]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {_remedy(spec)}")
    parse = _parse_pickle if spec.keys else _parse_binary
    examples = {}
    for split in splits:
        parts = [
            parse(members.pop(name), f"{path}: {name}", spec, split)
            for name in spec.files[split]
        ]
        images = np.concatenate([images for images, _ in parts])
        images = np.ascontiguousarray(images)
        labels = {
            kind: np.concatenate([labels[kind] for _, labels in parts])
            for kind in spec.labels
        }
        for kind in spec.labels:
            _check_class_counts(labels[kind], f"{path}: split {split}", kind, spec)
        examples[split] = images, labels
    return examples


def locate(source: os.PathLike, spec: ArchiveSpec) -> pathlib.Path:
    """Returns the archive or the unpacked folder that `source` is or holds.

    Raises:
      UserError: If it does not exist, or is and holds neither.
    """
    source = pathlib.Path(source).expanduser()
    if not source.exists():
        raise UserError(f"{source} does not exist; give a copy of {spec.archive}")
    if path := _held(source, spec):
        return path
    raise UserError(
        f"{source} holds neither {spec.archive} nor the folder {spec.folder}; "
        "give the archive, its unpacked folder, or the folder that holds one of them"
    )


def is_archive(path: pathlib.Path, head: bytes) -> bool:
    """Whether a file is a tar archive, by its name and its first 512 bytes."""
    packed = head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))
    return packed or head[257:262] == b"ustar" or ".tar" in path.suffixes


def recognise(source: pathlib.Path) -> ArchiveSpec | None:
    """Returns the spec of an archive, its unpacked folder, or what holds either.

    Raises:
      UserError: If it is a file, and no such archive.
    """
    if source.is_dir():
        return next((spec for spec in SPECS if _held(source, spec)), None)
    by_folder = {spec.folder: spec for spec in SPECS}
    for folder in _top_folders(source):
        if folder in by_folder:
            return by_folder[folder]
    known = ", ".join(spec.archive for spec in SPECS)
    raise UserError(f"{source} is none of the archives {known}; unpack it first")


def _held(source: pathlib.Path, spec: ArchiveSpec) -> pathlib.Path | None:
    first_files = [files[0] for files in spec.files.values()]
    if source.is_file() or any((source / name).is_file() for name in first_files):
        return source
    folder, archive = source / spec.folder, source / spec.archive
    if folder.is_dir():
        return folder
    return archive if archive.is_file() else None


def _top_folders(path: pathlib.Path) -> Iterator[str]:
    """Yields the top folders of the first members of an archive."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member, _ in zip(archive, range(100), strict=False):
                yield member.name.removeprefix("./").partition("/")[0]
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"{path} is damaged, truncated or not a tar archive ({reason}); copy it "
            "again"
        ) from error


def _folder_members(
    path: pathlib.Path, names: Mapping[str, str], spec: ArchiveSpec
) -> dict[str, bytes]:
    """The files of an unpacked folder, refused before reading if their size is off."""
    members = {}
    for name, split in names.items():
        if (path / name).is_file():
            size = (path / name).stat().st_size
            _check_size(size, f"{path}: {name}", spec, split)
            members[name] = (path / name).read_bytes()
    return members


def _tar_members(
    path: pathlib.Path, names: Mapping[str, str], spec: ArchiveSpec
) -> dict[str, bytes]:
    """The expected regular files of an archive; all else in it is passed over."""
    expected = {f"{spec.folder}/{name}": name for name in names}
    members = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = expected.get(member.name.removeprefix("./"))
                if name is None or not member.isreg():
                    continue
                _check_size(member.size, f"{path}: {name}", spec, names[name])
                members[name] = archive.extractfile(member).read()
            while archive.fileobj.read(1 << 20):
                pass  # gzip checks its sum at the end of the file only
    except UserError:
        raise
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile may list more
        raise UserError(
            f"{path} is damaged, truncated or not a tar archive ({reason}); "
            f"{_remedy(spec)}"
        ) from error
    return members


def _parse_binary(
    content: bytes, where: str, spec: ArchiveSpec, split: str
) -> tuple[np.ndarray, Labels]:
    _check_size(len(content), where, spec, split)
    records = np.frombuffer(content, np.uint8).reshape(-1, spec.record_bytes)
    labels = {
        kind: _checked(records[:, column].astype(np.int32), where, kind, spec)
        for column, kind in enumerate(spec.labels)
    }
    return as_images(records[:, len(spec.labels) :], where), labels


def _parse_pickle(
    content: bytes, where: str, spec: ArchiveSpec, split: str
) -> tuple[np.ndarray, Labels]:
    batch = pickles.read_batch(content, where)
    missing = [key for key in ("data", *spec.keys.values()) if key not in batch]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; {_remedy(spec)}")
    count = spec.records_per_file[split]
    images = as_images(batch["data"], where)
    if images.shape != (count, *spec.image_shape):
        expected = (count, *spec.image_shape)
        raise UserError(
            f"{where} holds images {images.shape} instead of {expected}; "
            f"{_remedy(spec)}"
        )
    labels = {}
    for kind, key in spec.keys.items():
        values = as_labels(batch[key], count, where)
        labels[kind] = _checked(values, where, kind, spec)
    return images, labels


def _checked(
    labels: np.ndarray, where: str, kind: str, spec: ArchiveSpec
) -> np.ndarray:
    num_classes = len(spec.labels[kind])
    if labels.max() >= num_classes:
        index = int(np.argmax(labels >= num_classes))
        raise UserError(
            f"{where}: record {index} has {kind} {labels[index]}, but the labels are "
            f"0 to {num_classes - 1}; {_remedy(spec)}"
        )
    return labels


def _check_size(size: int, where: str, spec: ArchiveSpec, split: str) -> None:
    expected = spec.records_per_file[split] * spec.record_bytes
    if spec.keys and size > 2 * expected + (1 << 20):  # with names, in any protocol
        raise UserError(f"{where} has {size:,} bytes, far too many; {_remedy(spec)}")
    if not spec.keys and size != expected:
        raise UserError(
            f"{where} has {size:,} bytes instead of {expected:,}; {_remedy(spec)}"
        )


def _check_class_counts(
    labels: np.ndarray, where: str, kind: str, spec: ArchiveSpec
) -> None:
    """The official splits hold every class equally often."""
    num_classes = len(spec.labels[kind])
    counts = np.bincount(labels, minlength=num_classes)
    if (counts != len(labels) / num_classes).any():
        raise UserError(
            f"{where} holds {counts.tolist()} images of the classes instead of "
            f"{len(labels) // num_classes} of each; {_remedy(spec)}"
        )


def _remedy(spec: ArchiveSpec) -> str:
    return f"copy it again from {spec.url}"
