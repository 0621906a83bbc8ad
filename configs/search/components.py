"""What each part of the recipe of seconds.py is worth: one taken out, or put in.

A network of 266,050 parameters and its shape, on 8,000 images of CIFAR-10 for four
epochs; 2,000 others validate. Three seeds of each, a minute a run on one core.
Which parts help so small a network for so short a time is a hint, and no more, of what
helps 4.8 million parameters for longer.
Measured (results/studies/components): of 20 comparisons, corrected for their number,
one shows a difference: SGD at half the rate is worse by 0.054. TrivialAugment and
strides, both 0.056 below the base, come near.

small: 500 images, an epoch and one seed, to see that everything runs.
Command: python -m cifar_jax.search --config configs/search/components.py
"""

from cifar_jax import config as default

from ..records import seconds
from .small import is_small

CROP = dict(name="random_crop", padding=2, mode="reflect")
FLIP = dict(name="alternating_flip")

# What changes of the base, by name.
ITEMS = {
    "base": {},
    # the network
    "learned stem": {"model.stem": "conv"},
    "strides, as many parameters": {
        "model.downsample": "stride",
        "model.widths": (16, 56, 128),
    },
    "ReLU": {"model.activation": "relu"},
    "BatchNorm momentum 0.9": {"model.bn_momentum": 0.9},
    "BatchNorm without scale": {"model.bn_scale": False},
    # the start
    "no partial identity": {"model.dirac_init": False},
    "residual branches start at zero": {"model.zero_init": True},
    "zero branches instead of partial identity": {
        "model.zero_init": True,
        "model.dirac_init": False,
    },
    # the optimizer
    "one learning rate": {"optim.lr_multipliers": ()},
    "SGD": {"optim.name": "sgd"},
    "SGD at half the rate": {"optim.name": "sgd", "optim.learning_rate": 0.1},
    "no average of weights": {"train.ema_decay": 0.0},
    "SAM in the last fifth": {"optim.sam_rho": 0.05, "optim.sam_start": "80%"},
    # images and labels
    "no label smoothing": {"train.label_smoothing": 0.0},
    "random flip": {"augment": (CROP, dict(name="random_flip"))},
    "cutout": {"augment": (CROP, FLIP, dict(name="cutout", size=8))},
    "CutMix": {"augment": (CROP, FLIP, dict(name="cutmix", p=0.5, stop=0.9))},
    "RICAP": {"augment": (CROP, FLIP, dict(name="ricap", p=0.5, stop=0.9))},
    "TrivialAugment": {
        "augment": (CROP, FLIP, dict(name="trivial_augment_wide", stop=0.9))
    },
    "two repeats, as many steps": {"train.repeats": 2, "train.epochs": 2},
}


def base():
    """The recipe of seconds.py for a small network, a short time and a small batch."""
    config = seconds.get_config()
    config.data.train_split = "train[:20%]"
    config.data.validation = 2000
    config.model.widths = (16, 48, 96)
    config.optim.learning_rate = 0.2
    config.train.epochs = 4
    config.train.batch_size = 128
    config.train.cpu_devices = 1
    return config


def few_images(config):
    """Shrinks a study to 400 training images, an epoch and a seed; returns it."""
    config.base.data.train_split = "train[:1%]"
    config.base.data.validation = 100
    config.base.train.epochs = 1
    config.base.train.batch_size = 50
    config.study.seeds = 1
    return config


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = base()
    config.base.augment = (CROP, FLIP)  # as seconds.py had it when this was measured
    config.study.threads = 1  # so that the results do not depend on the workers
    config.study.space = tuple(
        dict(name=name, change=change) for name, change in ITEMS.items()
    )
    return few_images(config) if is_small(variant) else config
