"""The official CIFAR archives: downloading, checking and reading them.

Nothing here unpacks to disk or unpickles: members are read by name, and their sizes,
labels and class counts are checked before anything is used.
"""

import dataclasses
import hashlib
import lzma
import os
import pathlib
import tarfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import requests

from cifar_jax import UserError

Progress = Callable[[int, int], None]  # done, total


@dataclasses.dataclass(frozen=True)
class BinaryLayout:
    """The official binary layout of CIFAR-10 (Krizhevsky, 2009).

    A record is one label byte, then the red, green and blue planes of an image, row by
    row.

    Attributes:
      url: Where the archive is published.
      size: Bytes of the archive.
      sha256: SHA-256 of the archive.
      folder: Folder that the archive unpacks to.
      files: File names of each split, in order.
      records_per_file: Images in each file.
      label_names: Classes, by label.
      side: Height and width of the images in pixels.
    """

    url: str
    size: int
    sha256: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    records_per_file: int
    label_names: tuple[str, ...]
    side: int = 32

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def record_bytes(self) -> int:
        """Bytes of one label and its image."""
        return 1 + 3 * self.side**2


CIFAR10 = BinaryLayout(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
    files={
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    records_per_file=10_000,
    label_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)


def read_binary(
    source: os.PathLike, layout: BinaryLayout
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads and checks a copy of the archive.

    Args:
      source: The archive, its unpacked folder, or a folder that holds either.
      layout: What the archive must contain.

    Returns:
      For each split, images uint8 [N, side, side, 3] and labels int32 [N], in the
      official order.

    Raises:
      UserError: If a file is missing, damaged, or not what the layout says.
    """
    path = locate(source, layout)
    names = [name for files in layout.files.values() for name in files]
    members = (_folder_members if path.is_dir() else _tar_members)(path, names, layout)
    missing = [name for name in names if name not in members]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {_remedy(layout)}")
    splits = {}
    for split, files in layout.files.items():
        parts = [_parse(members[name], f"{path}: {name}", layout) for name in files]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        _check_class_counts(labels, f"{path}: split {split}", layout)
        splits[split] = images, labels
    return splits


def locate(source: os.PathLike, layout: BinaryLayout) -> pathlib.Path:
    """Returns the archive or the unpacked folder that `source` is or holds.

    Raises:
      UserError: If it does not exist, or is and holds neither.
    """
    source = pathlib.Path(source).expanduser()
    if not source.exists():
        raise UserError(f"{source} does not exist; give a copy of {layout.archive}")
    first_file = next(iter(layout.files.values()))[0]
    if source.is_file() or (source / first_file).exists():
        return source
    for path in (source / layout.folder, source / layout.archive):
        if path.exists():
            return path
    raise UserError(
        f"{source} holds neither {layout.archive} nor the folder {layout.folder}; "
        "give the archive, its unpacked folder, or the folder that holds one of them"
    )


def _folder_members(
    path: pathlib.Path, names: list[str], layout: BinaryLayout
) -> dict[str, bytes]:
    """The files of an unpacked folder, refused before reading if their size is off."""
    members = {}
    for name in names:
        if (path / name).is_file():
            _check_size((path / name).stat().st_size, f"{path}: {name}", layout)
            members[name] = (path / name).read_bytes()
    return members


def _tar_members(
    path: pathlib.Path, names: list[str], layout: BinaryLayout
) -> dict[str, bytes]:
    """The expected regular files of an archive; all else in it is passed over."""
    expected = {f"{layout.folder}/{name}": name for name in names}
    members = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = expected.get(member.name.removeprefix("./"))
                if name is None or not member.isreg():
                    continue
                _check_size(member.size, f"{path}: {name}", layout)
                members[name] = archive.extractfile(member).read()
            while archive.fileobj.read(1 << 20):
                pass  # gzip checks its sum at the end of the file only
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile may list more
        raise UserError(
            f"{path} is damaged, truncated or not a tar archive ({reason}); "
            f"{_remedy(layout)}"
        ) from error
    return members


def _parse(
    content: bytes, where: str, layout: BinaryLayout
) -> tuple[np.ndarray, np.ndarray]:
    _check_size(len(content), where, layout)
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record_bytes)
    labels = records[:, 0].astype(np.int32)
    num_classes = len(layout.label_names)
    if labels.max() >= num_classes:
        index = int(np.argmax(labels >= num_classes))
        raise UserError(
            f"{where}: record {index} has label {labels[index]}, but the labels are "
            f"0 to {num_classes - 1}; {_remedy(layout)}"
        )
    planes = records[:, 1:].reshape(-1, 3, layout.side, layout.side)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _check_size(size: int, where: str, layout: BinaryLayout) -> None:
    expected = layout.records_per_file * layout.record_bytes
    if size != expected:
        raise UserError(
            f"{where} has {size:,} bytes instead of {expected:,}; {_remedy(layout)}"
        )


def _check_class_counts(labels: np.ndarray, where: str, layout: BinaryLayout) -> None:
    """The official splits hold every class equally often."""
    num_classes = len(layout.label_names)
    counts = np.bincount(labels, minlength=num_classes)
    if (counts != len(labels) / num_classes).any():
        raise UserError(
            f"{where} holds {counts.tolist()} images of the classes instead of "
            f"{len(labels) // num_classes} of each; {_remedy(layout)}"
        )


def _remedy(layout: BinaryLayout) -> str:
    return f"copy it again from {layout.url}"


def download(
    layout: BinaryLayout, folder: pathlib.Path, *, progress: Progress | None = None
) -> pathlib.Path:
    """Downloads the archive unless a good copy is already there.

    Args:
      layout: What to download, with its size and SHA-256.
      folder: Where the archive is put, under its own name.
      progress: Called with the bytes so far and in all.

    Returns:
      The path of the archive, its size and SHA-256 verified.

    Raises:
      UserError: If there is no connection, or what came is not the archive.
    """
    path = folder / layout.archive
    if path.exists() and _sha256(path) == layout.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    try:
        with requests.get(layout.url, stream=True, timeout=10) as response:
            response.raise_for_status()
            with partial.open("wb") as file:
                for chunk in response.iter_content(1 << 20):
                    file.write(chunk)
                    if progress:
                        progress(file.tell(), layout.size)
        digest = _sha256(partial)
        if digest != layout.sha256:
            raise UserError(
                f"{layout.url} sent {partial.stat().st_size:,} bytes with SHA-256 "
                f"{digest} instead of {layout.size:,} bytes with {layout.sha256}; "
                "try again, or give a copy of the archive"
            )
        partial.replace(path)
    except requests.RequestException as error:
        raise UserError(
            f"{layout.url} cannot be downloaded ({type(error).__name__})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
