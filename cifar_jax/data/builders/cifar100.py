"""CIFAR-100 as a TFDS data set, from the official binary archive."""

import pathlib

import tensorflow_datasets as tfds

from cifar_jax.data import archive_spec, archives
from cifar_jax.data.builders._base import LabelledImages


class Cifar100(LabelledImages, skip_registration=True):
    """CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 images of 100 classes."""

    name = "cifar100"
    VERSION = tfds.core.Version("3.0.2")  # of TFDS's own builder, as with cifar10
    spec = archive_spec.CIFAR100
    image_shape = spec.image_shape
    labels = spec.labels

    def read(self, source: pathlib.Path):
        """Reads the archive, its unpacked folder, or a folder that holds either."""
        return archives.read(source, self.spec)
