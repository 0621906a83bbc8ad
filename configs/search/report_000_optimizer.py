"""Report 000's choice of AdamW over Adam, which it argues without numbers.

Its network and recipe (report_000.py); Adam's weight decay is the coupled one.

small: blocks [2, 2, 2], widths 8-16-32, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_000_optimizer.py
"""

from cifar_jax import config as default

from ..reports import report_000
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_000.get_config()
    config.base.data.validation = 0.1
    config.study.kind = "grid"
    config.study.space = (dict(factor="optim.name", values=("adamw", "adam")),)
    if is_small(variant):
        config.base.model.stage_sizes = (2, 2, 2)
        small(config, narrower=4, limit=100_000)
    return config
