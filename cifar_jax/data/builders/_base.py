"""Base class of the TFDS builders of this package."""

import io
import os
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_jax.data import archives
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
