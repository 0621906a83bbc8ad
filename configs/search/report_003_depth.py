"""Report 003's step from one block in each stage to [2, 1, 1, 1].

4,903,242 and 4,977,226 parameters. Only the second was reported: 0.875, of the 16
images of a last batch; its README claims 0.906.

small: widths 8-16-32-64, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_003_depth.py
"""

from cifar_jax import config as default

from ..reports import report_003
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_003.get_config()
    config.base.model.pool = None  # a map of 4x4, as there
    config.study.space = (
        dict(name="1-1-1-1", change={"model.stage_sizes": (1, 1, 1, 1)}),
        dict(name="2-1-1-1", change={"model.stage_sizes": (2, 1, 1, 1)}),
    )
    config.study.reported = (("2-1-1-1", 0.906),)
    return small(config, narrower=8, limit=100_000) if is_small(variant) else config
