"""TFDS builders of the data sets that this package prepares, by name."""

from cifar_jax.data.builders._base import LabelledImages
from cifar_jax.data.builders.cifar import Cifar10, Cifar100
from cifar_jax.data.builders.digits import Digits

__all__ = ["BUILDERS", "LabelledImages"]

BUILDERS: dict[str, type[LabelledImages]] = {
    builder.name: builder for builder in (Cifar10, Cifar100, Digits)
}
