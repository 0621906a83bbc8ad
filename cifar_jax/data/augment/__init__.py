"""Augmentation on the device: pure functions of (key, images), and chains of them."""

from cifar_jax.data.augment.color import as_levels, color_jitter
from cifar_jax.data.augment.erasing import cutout, random_erasing
from cifar_jax.data.augment.geometry import (
    alternating_flip,
    random_affine,
    random_crop,
    random_flip,
    random_rotation,
)
from cifar_jax.data.augment.mixing import cutmix, mixup, ricap
from cifar_jax.data.augment.pipeline import TRANSFORMS, Pipeline, Window, make_pipeline
from cifar_jax.data.augment.policies import (
    auto_augment,
    rand_augment,
    trivial_augment_wide,
)

__all__ = [
    "TRANSFORMS",
    "Pipeline",
    "Window",
    "alternating_flip",
    "as_levels",
    "auto_augment",
    "color_jitter",
    "cutmix",
    "cutout",
    "make_pipeline",
    "mixup",
    "rand_augment",
    "random_affine",
    "random_crop",
    "random_erasing",
    "random_flip",
    "random_rotation",
    "ricap",
    "trivial_augment_wide",
]
