"""CIFAR-10 and CIFAR-100 as TFDS data sets, from the official archives."""

import tensorflow_datasets as tfds

from cifar_jax.data import archive_spec
from cifar_jax.data.builders._base import LabelledImages

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
