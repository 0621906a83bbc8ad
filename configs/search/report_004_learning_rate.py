"""Report 004's text: a fixed rate of 0.0001 against 0.001 that decays, 50 epochs.

On its final network, with its augmentation. "Around 0.88" against "above 0.90"; the two
that the text does not have are here to tell the rate from its decay.

small: C=10, 2,500 images, two epochs; the decay comes after the first.
Command: python -m cifar_jax.search --config configs/search/report_004_learning_rate.py
"""

from cifar_jax import config as default

from ..reports import report_004
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_004.get_config()
    config.base.data.validation = 0.1
    config.base.model.pool = None
    config.base.train.epochs = 50
    config.study.kind = "grid"
    config.study.space = (
        dict(factor="optim.learning_rate", values=(1e-4, 1e-3)),
        dict(factor="schedule.name", values=("constant", "step")),
    )
    config.study.reported = (
        ("learning_rate0.0001-constant", 0.88),
        ("learning_rate0.001-step", 0.90),
    )
    if is_small(variant):
        small(config, narrower=8, limit=100_000)
        config.base.schedule.decay_every = "1 epochs"
    return config
