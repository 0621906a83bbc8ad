"""The official CIFAR archives: what `archives.toml` says of them."""

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class ArchiveSpec:
    """An official archive of CIFAR-10 or CIFAR-100 (Krizhevsky, 2009).

    In the binary archives a record is one byte for each label, then the red, green and
    blue planes of an image, row by row. In the Python archives a file is a pickled
    dictionary whose `data` holds such planes.

    Attributes:
      url: Address that the archive is published at.
      size: Bytes of the archive.
      sha256: SHA-256 of the archive.
      mirrors: Addresses of folders that hold a copy, in the order they are tried.
      folder: Folder that the archive unpacks to.
      files: File names of each split, in order.
      records_per_file: Number of images in each file of a split.
      labels: Names of the classes, by kind of label, in the order of a record; networks
        are trained on the kind `label`.
      keys: Key of each kind of label in the pickled dictionaries; empty: binary.
      image_shape: Height, width and channels of the images.
    """

    url: str
    size: int
    sha256: str
    mirrors: Sequence[str]
    folder: str
    files: Mapping[str, Sequence[str]]
    records_per_file: Mapping[str, int]
    labels: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_shape: tuple[int, int, int] = (32, 32, 3)

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def addresses(self) -> list[str]:
        """Addresses that the archive can be downloaded from, the official one first."""
        return [self.url, *(f"{folder}/{self.archive}" for folder in self.mirrors)]

    @property
    def remedy(self) -> str:
        """End of the error about a damaged copy."""
        return f"copy it again from {self.url}"

    def num_records(self, split: str) -> int:
        """Returns the number of images in a split."""
        return self.records_per_file[split] * len(self.files[split])


_PATH = pathlib.Path(__file__).with_name("archives.toml")
_CONTENT = tomllib.loads(_PATH.read_text("utf-8"))
_CLASSES = {
    name: {kind: tuple(names.split()) for kind, names in kinds.items()}
    for name, kinds in _CONTENT["classes"].items()
}
SPECS = CIFAR10, CIFAR100, CIFAR10_PYTHON, CIFAR100_PYTHON = tuple(
    ArchiveSpec(labels=_CLASSES[facts.pop("classes")], **facts)
    for facts in _CONTENT["archive"]
)
