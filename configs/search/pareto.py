"""Accuracy against multiply-adds, under 5,000,000 parameters: what does speed cost?

The space of ours.py with two objectives, which NSGA-II (Deb et al., 2002) weighs; the
table says which designs no other one beats in both.

small: a hundredth of the budget, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/pareto.py
"""

from . import ours
from .small import is_small


def get_config(variant="full"):
    config = ours.get_config(variant)
    config.study.objectives = ("accuracy", "macs")
    config.study.sampler = "nsga2"
    config.study.pruner = "none"
    config.study.latency = not is_small(variant)
    if is_small(variant):
        config.base.train.epochs = 2
    return config
