"""The optimizer's settings of seconds.py, one changed at a time: what may be nearby.

The learning rate, the momentum of the SGD that trains what Muon does not, the higher
rate of BatchNorm's biases, and the average of the weights; a network of 68,098
parameters on 8,000 images of CIFAR-10 for five epochs, 2,000 others validate.
Measured (results/studies/muon): no difference is shown.

small: 500 images, an epoch and one seed, to see that everything runs.
Command: python -m cifar_jax.search --config configs/search/muon.py
"""

from cifar_jax import config as default

from . import components
from .small import is_small

BIASES = ".*bn.?/bias"


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = components.base()
    config.base.model.widths = (8, 24, 48)
    config.base.train.epochs = 5
    config.study.kind = "one_at_a_time"
    config.study.threads = 1  # so that the results do not depend on the workers
    config.study.space = (
        dict(factor="optim.learning_rate", values=(0.1, 0.4)),
        dict(factor="optim.momentum", values=(0.6, 0.95)),
        dict(
            factor="optim.lr_multipliers",
            values=(((BIASES, 4.0),), ((BIASES, 64.0),)),
        ),
        dict(factor="train.ema_decay", values=(0.9, 0.99)),
    )
    return components.few_images(config) if is_small(variant) else config
