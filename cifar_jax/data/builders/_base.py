"""What the TFDS builders of this package share."""

import io
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class LabelledImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of labelled images that needs no TensorFlow.

    It writes ArrayRecord with the features `id`, `image`, `label` and maybe others, in
    the order of the source: position k of a split is image k of the source.

    Attributes:
      image_shape: Height, width and channels of the images.
      labels: Names of the classes, by feature; `label` is one of the features.
    """

    image_shape: tuple[int, int, int]
    labels: Mapping[str, tuple[str, ...]]

    def __init__(self, *, source: pathlib.Path | None = None, **kwargs):
        self._source = source
        super().__init__(file_format="array_record", **kwargs)

    def read(
        self, source: pathlib.Path | None
    ) -> Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]]:
        """Returns images uint8 [N, H, W, C] and labels int32 [N] of each split.

        The labels come by feature.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=self.image_shape),
                **{
                    feature: tfds.features.ClassLabel(names=list(names))
                    for feature, names in self.labels.items()
                },
            }
        )
        return _Info(
            builder=self,
            description=self.__doc__,
            features=features,
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # the order of the source is the order on disk
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            split: self._generate_examples(split, images, labels)
            for split, (images, labels) in self.read(self._source).items()
        }

    def _generate_examples(
        self, split: str, images: np.ndarray, labels: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[int, dict]]:
        for index, image in enumerate(images):
            # A file object, because TFDS would encode an array with TensorFlow.
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "png", compress_level=1)
            encoded.seek(0)
            yield (
                index,
                {
                    "id": f"{split}_{index:05d}",
                    "image": encoded,
                    **{feature: int(labels[feature][index]) for feature in labels},
                },
            )


class _Info(tfds.core.DatasetInfo):
    """Facts of a data set that is in no bucket of Google's."""

    def initialize_from_bucket(self) -> None:
        """Does not look there, and leaves no temporary folder."""
