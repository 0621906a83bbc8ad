"""Report 002's way to its recipe: Adam, SGD at two rates, then dropout and more decay.

Each row keeps what the one before it has. Reported, on a Kaggle set that is not
available: 0.74, 0.77, 0.78, 0.824; compare their order alone. Adam's settings are not
given: 0.001 and no decay here.

small: widths 8-16-64-64, SE/8, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_002_ladder.py
"""

from cifar_jax import config as default

from ..reports import report_002
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_002.get_config()
    config.base.data.validation = 0.1
    config.base.model.dropout = 0.0
    config.base.optim.weight_decay = 5e-4
    adam = {
        "optim.name": "adam",
        "optim.learning_rate": 1e-3,
        "optim.weight_decay": 0.0,
    }
    last = {"model.dropout": 0.5, "optim.weight_decay": 1e-3}
    config.study.space = (
        dict(name="adam", change=adam),
        dict(name="sgd-0.1", change={"optim.learning_rate": 0.1}),
        dict(name="sgd-0.05", change={"optim.learning_rate": 0.05}),
        dict(
            name="sgd-0.05-dropout-decay",
            change={"optim.learning_rate": 0.05, **last},
        ),
    )
    config.study.reported = (
        *(("adam", 0.74), ("sgd-0.1", 0.77), ("sgd-0.05", 0.78)),
        ("sgd-0.05-dropout-decay", 0.82417),
    )
    if is_small(variant):
        small(config, narrower=4, limit=400_000)
        config.base.model.se_ratio = 8  # a single hidden unit in the first stage
    return config
