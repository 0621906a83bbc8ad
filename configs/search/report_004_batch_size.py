"""Report 004's figure 3: batches of 16 and of 64 images, 40 epochs of its base.

Read off the figure: about 0.86 with both.

small: C=8, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_004_batch_size.py
"""

from . import report_004_base
from .small import is_small, small


def get_config(variant="full"):
    config = report_004_base.get_config()
    config.base.train.epochs = 40
    config.study.kind = "grid"
    config.study.space = (dict(factor="train.batch_size", values=(16, 64)),)
    return small(config, narrower=8) if is_small(variant) else config
