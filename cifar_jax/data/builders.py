"""TFDS builders of the data sets that this package prepares."""

import io
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_jax.data import archive_spec, archives
from cifar_jax.data.archive_spec import ArchiveSpec
from cifar_jax.data.dataset import ImageShape

# By split: images uint8 [N, H, W, C], and labels int32 [N] by feature.
LabelledSplits = Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]]


class LabelledImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of labelled images that needs no TensorFlow.

    It writes ArrayRecord with the features `id`, `image`, `label` and maybe others, in
    the order of the source: position k of a split is image k of the source.

    Attributes:
      image_shape: Height, width and channels of the images.
      labels: Names of the classes, by feature; `label` is one of the features.
      specs: Archives that the data set can be made from; empty: it needs none.
      source: Local copy of one of them: the archive, its unpacked folder, or a folder
        that holds either.
    """

    image_shape: ImageShape
    labels: Mapping[str, tuple[str, ...]]
    specs: tuple[ArchiveSpec, ...] = ()

    def __init__(self, *, source: str | os.PathLike | None = None, **kwargs):
        self.source = source
        super().__init__(file_format="array_record", **kwargs)

    def read(self) -> LabelledSplits:
        """Returns the images and labels of each split; here, those of the archive."""
        assert self.source is not None
        return archives.read(*archives.locate(self.source, self.specs))

    def _info(self) -> tfds.core.DatasetInfo:
        features: dict[str, tfds.features.FeatureConnector] = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=self.image_shape),
        }
        for feature, names in self.labels.items():
            features[feature] = tfds.features.ClassLabel(names=list(names))
        return _Info(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order of the source is the order on disk
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            split: self._generate_examples(split, images, labels)
            for split, (images, labels) in self.read().items()
        }

    def _generate_examples(
        self, split: str, images: np.ndarray, labels: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, dict]]:
        for index, image in enumerate(images):
            # A file object, because TFDS would encode an array with TensorFlow.
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "png", compress_level=1)
            encoded.seek(0)
            row = {"id": f"{split}_{index:05d}", "image": encoded}
            row |= {feature: int(labels[feature][index]) for feature in labels}
            yield index, row


class _Info(tfds.core.DatasetInfo):
    """Description of a data set that is not in Google's bucket."""

    def initialize_from_bucket(self) -> None:
        """Does not look there, and leaves no temporary folder."""


# The versions are those of TFDS's own builders. So `tfds.data_source` reads what is
# prepared here, and what TFDS has prepared is found here.


class Cifar10(LabelledImages, skip_registration=True):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images of 10 classes."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")
    specs = (archive_spec.CIFAR10, archive_spec.CIFAR10_PYTHON)
    image_shape = specs[0].image_shape
    labels = specs[0].labels


class Cifar100(LabelledImages, skip_registration=True):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 images of 100 classes."""

    name = "cifar100"
    VERSION = tfds.core.Version("3.0.2")
    specs = (archive_spec.CIFAR100, archive_spec.CIFAR100_PYTHON)
    image_shape = specs[0].image_shape
    labels = specs[0].labels


class Digits(LabelledImages, skip_registration=True):
    """Handwritten digits (Alpaydin & Kaynak, 1998) of scikit-learn, as 32x32 RGB.

    1,437 images for training and 360 for the test, stratified.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    image_shape = (32, 32, 3)
    labels = {"label": tuple("0123456789")}

    def read(self) -> LabelledSplits:
        """Enlarges the 8x8 digits to 32x32 (bicubic) and splits them 80:20."""
        from sklearn import datasets, model_selection  # slow, and used only here

        pixels, labels = datasets.load_digits(return_X_y=True)
        images = np.empty((len(pixels), *self.image_shape), np.uint8)
        for k, row in enumerate(pixels):  # float [64] from 0 to 16
            gray = np.round(row.reshape(8, 8) * (255 / 16)).astype(np.uint8)
            gray = Image.fromarray(gray)
            gray = gray.resize((32, 32), Image.Resampling.BICUBIC)
            images[k] = np.asarray(gray.convert("RGB"))
        labels = np.asarray(labels, np.int32)
        train, test = model_selection.train_test_split(
            np.arange(len(images)), test_size=0.2, stratify=labels, random_state=0
        )
        return {
            "train": (images[train], {"label": labels[train]}),
            "test": (images[test], {"label": labels[test]}),
        }


BUILDERS: dict[str, type[LabelledImages]] = {
    builder.name: builder for builder in (Cifar10, Cifar100, Digits)
}
