"""What Mish, SE and dropout are worth in report 002, which never measures them.

small: widths 8-16-64-64, SE/8, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_002_components.py
"""

from cifar_jax import config as default

from ..reports import report_002
from .small import is_small, small

WITHOUT = {
    "mish": {"model.activation": "relu"},
    "se": {"model.se_ratio": 0},
    "dropout": {"model.dropout": 0.0},
}


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_002.get_config()
    config.base.data.validation = 0.1
    none = {key: value for each in WITHOUT.values() for key, value in each.items()}
    config.study.space = (
        dict(name="report_002", change={}),
        *(dict(name=f"no-{name}", change=change) for name, change in WITHOUT.items()),
        dict(name="none", change=none),
    )
    if is_small(variant):
        small(config, narrower=4, limit=400_000)
        config.base.model.se_ratio = 8  # a single hidden unit in the first stage
    return config
