"""Augmentation on the device: pure functions of (key, images), and chains of them.

A transform's first argument is a PRNG key, from which all of its randomness comes.
"""

from cifar_jax.data.augment.pipeline import TRANSFORMS, Pipeline, Window, make_pipeline

__all__ = ["TRANSFORMS", "Pipeline", "Window", "make_pipeline"]
