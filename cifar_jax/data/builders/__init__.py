"""TFDS builders that this package brings, by the name of their data set."""

from cifar_jax.data.builders._base import LabelledImages
from cifar_jax.data.builders.cifar10 import Cifar10
from cifar_jax.data.builders.cifar100 import Cifar100
from cifar_jax.data.builders.digits import Digits

__all__ = ["BUILDERS", "LabelledImages"]

BUILDERS = {builder.name: builder for builder in (Cifar10, Cifar100, Digits)}
