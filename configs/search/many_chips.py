"""How the learning rate should grow with the batch: the rule of train.chips, measured.

Three optimizers, each with a batch of 64 at a rate and at twice that, and with a batch
of 512 at the same rate, at sqrt(8) times it and at 8 times it; a network of 68,098
parameters on 8,000 images of CIFAR-10 for five epochs, 2,000 others validate.
Measured (results/studies/many_chips): eight times the rate for SGD, but from a rate
below the best one; no difference for AdamW; for Muon not significant with three
seeds.

small: few images, an epoch and one seed, to see that everything runs.
Command: python -m cifar_jax.search --config configs/search/many_chips.py
"""

from cifar_jax import config as default

from . import components
from .small import is_small

# The learning rate with a batch of 64.
RATES = {"sgd": 0.05, "adamw": 0.004, "muon": 0.1}
FACTORS = {
    64: {"": 1.0, ", rate x 2": 2.0},
    512: {"": 1.0, ", rate x sqrt(8)": 8**0.5, ", rate x 8": 8.0},
}


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = components.base()
    config.base.model.widths = (8, 24, 48)
    config.base.optim.lr_multipliers = ()
    config.base.train.epochs = 5
    config.base.train.ema_decay = 0.0  # its span in epochs grows with the batch
    config.study.threads = 1  # so that the results do not depend on the workers
    config.study.space = tuple(
        dict(
            name=f"{optimizer}, batch {batch_size}{name}",
            change={
                "optim.name": optimizer,
                "optim.learning_rate": rate * factor,
                "train.batch_size": batch_size,
            },
        )
        for optimizer, rate in RATES.items()
        for batch_size, factors in FACTORS.items()
        for name, factor in factors.items()
    )
    if is_small(variant):
        components.few_images(config)
        config.base.data.train_split = "train[:1300]"  # more than two batches of 512
    return config
