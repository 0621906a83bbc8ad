"""A residual network of 4,903,242 parameters on CIFAR-10: stages [1, 1, 1, 1].

The network of report 001, at 64-128-256-512 channels, with a standard recipe.
Command: python -m cifar_jax.main --config configs/resnet_4p9m.py
"""

from cifar_jax import config as default


def get_config():
    config = default.get_config()
    config.augment = (
        dict(name="random_crop", padding=4),
        dict(name="random_flip"),
        dict(name="random_rotation", degrees=10.0),
    )
    return config
