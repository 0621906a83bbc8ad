"""Report 000's network against its baseline, ResNet-56 with projections, one recipe.

Reported: 95.52 % and 92.83 % (as counted correctly), the epochs chosen on the test set;
the baseline's weights came from elsewhere.

small: blocks [2, 2, 2] and widths 8-16-32 against [1, 1, 1] and 4-8-16.
Command: python -m cifar_jax.search --config configs/search/report_000_baseline.py
"""

from cifar_jax import config as default
from cifar_jax.models.presets import PRESETS

from ..reports import report_000
from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_000.get_config()
    config.base.data.validation = 0.1
    baseline = PRESETS["report_000_baseline"]
    config.study.reported = (("report_000", 0.9552), ("resnet56", 0.9283))
    if is_small(variant):
        config.base.model.stage_sizes = (2, 2, 2)
        small(config, narrower=4, limit=100_000)
        baseline = dict(stage_sizes=(1, 1, 1), widths=(4, 8, 16))
    config.study.space = (
        dict(name="report_000", change={}),
        dict(name="resnet56", change={f"model.{k}": v for k, v in baseline.items()}),
    )
    return config
