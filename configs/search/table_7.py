"""Report 004's Table 7: with its augmentation and without, 20 and 40 epochs.

The network and the schedule are not stated there; these are those of its first tables
(report_004_base.py), over the budget, which is lifted.

small: C=8, 2,500 images, two and four epochs.
Command: python -m cifar_jax.search --config configs/search/table_7.py
"""

from ..reports import report_004
from . import report_004_base
from .small import is_small, small

REPORTED = (
    *(("plain-short", 0.8463), ("augmented-short", 0.8664)),
    *(("plain-long", 0.8549), ("augmented-long", 0.8892)),
)


def get_config(variant="full"):
    config = report_004_base.get_config()
    config.study.reported = REPORTED
    short, long = 20, 40
    if is_small(variant):
        small(config, narrower=8)
        short, long = 2, 4
    augment = report_004.get_config().augment
    config.study.space = (
        dict(name="plain-short", change={"train.epochs": short}),
        dict(
            name="augmented-short", change={"train.epochs": short, "augment": augment}
        ),
        dict(name="plain-long", change={"train.epochs": long}),
        dict(name="augmented-long", change={"train.epochs": long, "augment": augment}),
    )
    return config
