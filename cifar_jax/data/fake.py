"""A data set of noise in the place of a real one."""

import os

import numpy as np
import tensorflow_datasets as tfds

from cifar_jax.data import sources, tfds_store
from cifar_jax.data.builders import LabelledImages

NAME = "fake"


def write(
    source: sources.Source, data_dir: os.PathLike, *, num_train: int, num_test: int
) -> None:
    """Writes a TFDS data set of the same shape and classes, with random images.

    Args:
      source: What it stands in for.
      data_dir: Folder for TFDS data sets.
      num_train: Images in the split "train".
      num_test: Images in the split "test".
    """

    class Fake(LabelledImages, skip_registration=True):
        """Noise."""

        name = NAME
        VERSION = tfds.core.Version("1.0.0")
        image_shape = source.image_shape
        labels = {"label": source.label_names}

        def read(self, source):
            """Makes the images and labels up."""
            del source
            return {
                "train": _examples(
                    num_train, self.image_shape, len(self.labels["label"])
                ),
                "test": _examples(
                    num_test, self.image_shape, len(self.labels["label"])
                ),
            }

    with tfds_store.quiet_tfds():
        Fake(data_dir=os.fspath(data_dir)).download_and_prepare()


def _examples(num_examples: int, image_shape: tuple[int, int, int], num_classes: int):
    random = np.random.default_rng(num_examples)
    images = random.integers(0, 256, (num_examples, *image_shape), dtype=np.uint8)
    labels = np.arange(num_examples, dtype=np.int32) % num_classes
    return images, {"label": labels}
