"""CIFAR-10 as a TFDS data set, from the official binary archive."""

import pathlib

import tensorflow_datasets as tfds

from cifar_jax.data import archive_spec, archives
from cifar_jax.data.builders._base import LabelledImages


class Cifar10(LabelledImages, skip_registration=True):
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 images of 10 classes."""

    name = "cifar10"
    # The version of TFDS's own builder, so that `tfds.data_source` reads what is
    # prepared here, and what TFDS has prepared is found here.
    VERSION = tfds.core.Version("3.0.2")
    spec = archive_spec.CIFAR10
    image_shape = spec.image_shape
    labels = spec.labels

    def read(self, source: pathlib.Path):
        """Reads the archive, its unpacked folder, or a folder that holds either."""
        return archives.read(source, self.spec)
