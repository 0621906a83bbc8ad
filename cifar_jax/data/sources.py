"""The front door of all data: TFDS data sets, archives, arrays, pickles, folders.

`open` is for training: it opens a labelled data set once, and its splits are read when
they are needed. `open_split` is for evaluation and prediction: it opens one split of
anything, labelled or not.

Sources are named by strings, `NAME`, `NAME:SPLIT`, `PATH` or `PATH:SPLIT`. A data set
of TFDS that is on disk, or that this package can prepare, precedes a path of its name.
"""

import os
import pathlib
import re
from collections.abc import Sequence

from cifar_jax import UserError
from cifar_jax.data import arrays, transforms
from cifar_jax.data.builders import BUILDERS
from cifar_jax.data.dataset import Dataset, Examples, ImageShape
from cifar_jax.data.download import Report
from cifar_jax.data.files import FileStore
from cifar_jax.data.tfds_store import TfdsStore

# Groups: the data set, with its config and version if need be; its split.
_TFDS_NAME = re.compile(r"([a-z]\w*(?:/[\w-]+)?(?::\d+\.\d+\.\d+)?)(?::(.+))?")


class Source:
    """A labelled data set, opened once; it is prepared and read on demand.

    Args:
      name: A TFDS data set, such as `cifar10`, or a path.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: Height and width that the images are resized to (bicubic); None: all
        images have the same size.
      local: Copy of the archive to prepare the data set from; None: it is downloaded.
      report: Called with a line before each slow part.

    Attributes:
      name: Name of the TFDS data set, or path.
      image_shape: Height, width and channels of the images.
      label_names: Names of the classes, by label.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None = None,
        *,
        image_size: Sequence[int] | None = None,
        local: str | None = None,
        report: Report = print,
    ):
        """Opens the data set; prepares nothing, and reads as little as possible."""
        size = None
        if image_size is not None:
            if not [isinstance(n, int) and n > 0 for n in image_size] == [True, True]:
                raise UserError(
                    f"data.image_size is {tuple(image_size)}; use a height and a width "
                    "such as (32, 32)"
                )
            size = image_size[0], image_size[1]
        store, split = _resolve(name, data_dir)
        if split is not None:
            raise UserError(
                f"data set {name} ends in the split {split}; name the data set alone, "
                "and its splits in data.train_split and data.test_split"
            )
        if isinstance(store, pathlib.Path):
            wanted = None if size is None else (*size, 3)
            store = FileStore(store, wanted, resize=size is not None)
        shape, label_names = store.describe()
        if label_names is None:
            raise UserError(
                f"{name} has no labels; image and label are needed in a data set, and "
                "in a folder one sub-folder for each class"
            )
        if len(label_names) < 2:
            found = ", ".join(label_names) or "none"
            raise UserError(f"{name} has fewer than two classes ({found}); give two")
        self.name, self.label_names = name, label_names
        self.image_shape: ImageShape = (*size, shape[2]) if size else shape
        self._store, self._resize = store, size is not None
        self._local, self._report = local, report
        self._opened: dict[str, Dataset] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    @property
    def path(self) -> pathlib.Path | None:
        """Where the data lies; None: it has yet to be prepared."""
        return self._store.path

    def prepare(self) -> pathlib.Path:
        """Prepares a TFDS data set unless it is on disk; returns where its data lie."""
        return self._store.prepare(self._local, self._report)

    def open_split(self, split: str) -> Dataset:
        """Opens a split, whose images are then read in pieces, in the order on disk.

        Args:
          split: Split string of TFDS, such as `train[:80%]`.
        """
        if split not in self._opened:
            self.prepare()
            data = transforms.select(self._store.splits, split, split, self.name)
            data = transforms.resized(data, self.image_shape, resize=self._resize)
            self._opened[split] = transforms.relabelled(data, self.label_names)
        return self._opened[split]

    def check_split(self, split: str) -> None:
        """Refuses a split that `read` would refuse, and reads as little as possible."""
        self.open_split(split).examples(1)

    def read(self, split: str) -> Examples:
        """Reads a split into memory, in the order on disk.

        Args:
          split: Split string of TFDS, such as `train[:80%]`.
        """
        dataset = self.open_split(split)
        # Some data sets hold a whole file, of which the caller now gets a copy.
        self._opened.pop(split, None)
        return dataset.examples()


open = Source  # so that callers read `sources.open(name)`


def open_split(
    spec: str,
    data_dir: str | None = None,
    *,
    split: str = "test",
    label_names: tuple[str, ...] | None = None,
    image_shape: ImageShape | None = None,
    resize: bool = False,
) -> Dataset:
    """Opens a split of any source, labelled or not, for evaluation or prediction.

    Args:
      spec: `NAME`, `NAME:SPLIT`, `PATH` or `PATH:SPLIT`. A split string is one of TFDS,
        such as `test[:50%]`; CIFAR-10-C has the splits `fog` and `fog/3` for each of
        its corruptions; what has no splits needs none, or has the split `images`.
      data_dir: Folder of TFDS data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets.
      split: Split that is read where the spec names none and the source has several.
      label_names: Classes of the network, which the labels are matched to by name;
        None: the labels stay as they are.
      image_shape: Height, width and channels of the network's images; None: those of
        the source.
      resize: Whether images of another size are resized (bicubic); otherwise they are
        errors.

    Returns:
      The images, read in pieces. They have labels if the source has.
    """
    place, selector = _resolve(spec, data_dir)
    if isinstance(place, pathlib.Path):
        place, name = FileStore(place, image_shape, resize=resize), str(place)
    else:
        place.prepare()
        name = place.name
    dataset = transforms.select(place.splits, selector, split, name)
    if image_shape is not None:
        dataset = transforms.resized(dataset, image_shape, resize=resize)
    return transforms.relabelled(dataset, label_names) if label_names else dataset


def check(spec: str) -> None:
    """Refuses a path that is not there, and needs no JAX for it.

    What may be the name of a data set passes: only the run may know its folder.
    """
    if not _TFDS_NAME.fullmatch(spec):
        _resolve(spec, None)


def corruptions(spec: str) -> dict[str, tuple[str, ...]]:
    """Returns the sources in a folder laid out as CIFAR-10-C.

    Returns:
      For each corruption, a spec for `open_split` of each severity, 1 to 5; empty if
      the source is laid out in another way.
    """
    splits = arrays.corrupted_splits(pathlib.Path(os.path.expanduser(spec)))
    return {
        name: tuple(f"{spec}:{name}/{severity}" for severity in arrays.SEVERITIES)
        for name in splits
        if "/" not in name  # all severities at once
    }


def _resolve(
    spec: str, data_dir: str | None
) -> tuple[TfdsStore | pathlib.Path, str | None]:
    """Returns the data set or the path that a spec names, and its split if any."""
    store = None
    if match := _TFDS_NAME.fullmatch(spec):
        store = TfdsStore(match[1], data_dir)
        if store.path or store.name in BUILDERS:
            return store, match[2]
    # A path may hold colons itself: the longest one that exists counts.
    end = len(spec)
    while end > 0:
        path = pathlib.Path(os.path.expanduser(spec[:end]))
        if path.exists():
            return path, spec[end + 1 :] or None
        end = spec.rfind(":", 0, end)
    if store and not pathlib.PurePath(spec).suffix:
        raise UserError(
            f"{spec} is neither a path nor a data set in {store.folder}; use "
            f"{', '.join(BUILDERS)}, a path, or another data.dir (--data_dir)"
        )
    raise UserError(
        f"source {spec} does not exist; give a path, or a data set such as cifar10:test"
    )
