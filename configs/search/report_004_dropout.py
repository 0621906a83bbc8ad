"""Report 004's dropout on its final network: none, before the classifier, in blocks.

"Significantly worse" with 0.5 before the classifier, and no gain from 0.2 between the
convolutions of each block; no numbers. 500 epochs there; 100 here, with its decay
five times as often.

small: C=10, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_004_dropout.py
"""

from cifar_jax import config as default

from ..reports import report_004
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_004.get_config()
    config.base.data.validation = 0.1
    config.base.model.pool = None
    config.base.schedule.decay_every = "2 epochs"
    config.base.train.epochs = 100
    config.study.space = (
        dict(name="none", change={}),
        dict(name="classifier-0.5", change={"model.dropout": 0.5}),
        dict(name="blocks-0.2", change={"model.block_dropout": 0.2}),
    )
    return small(config, narrower=8, limit=100_000) if is_small(variant) else config
