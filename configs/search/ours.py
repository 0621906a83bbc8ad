"""Our search under 5,000,000 parameters: depth, widths, kernel, SE and activation.

Every design takes the largest width, a multiple of 8, that fits, so the sampler (TPE)
weighs how a budget is spent, not how much. Hyperband ends hopeless runs early; the five
best designs are run with all three seeds, and the best of those is tested. The recipe
is the default one, shorter.

small: a hundredth of the budget, 2,500 images, four epochs.
Command: python -m cifar_jax.search --config configs/search/ours.py
"""

from cifar_jax import config as default

from .small import is_small, small


def get_config(variant="full"):
    config = default.get_study_config()
    base = config.base
    base.data.validation = 5000
    base.model.stage_sizes = (1, 1, 1)
    base.model.widths = (64, 128, 256)
    base.model.zero_init = True
    base.train.epochs = 30
    base.train.label_smoothing = 0.1
    study = config.study
    study.kind = "sample"
    study.space = (
        dict(factor="N", values=(2, 3, 4)),
        *(dict(factor=f"B{stage}", low=1, high=4) for stage in (1, 2, 3, 4)),
        dict(factor="growth", values=(1.25, 1.5, 2.0)),
        dict(factor="F", values=(3, 5)),
        dict(factor="model.se_ratio", values=(0, 8)),
        dict(factor="model.activation", values=("relu", "silu", "gelu", "mish")),
    )
    study.width = "widest"
    study.width_multiple = 8
    study.trials = 60
    study.pruner = "hyperband"
    study.min_epochs = 3
    if is_small(variant):
        small(config, limit=50_000)
        base.train.epochs = 4
        study.width_multiple = 1
        study.space = (
            dict(factor="N", values=(2, 3)),
            *(dict(factor=f"B{stage}", low=1, high=2) for stage in (1, 2, 3)),
            dict(factor="growth", values=(1.5, 2.0)),
            dict(factor="model.activation", values=("relu", "silu")),
        )
        study.trials = 8
        study.finalists = 2
        study.min_epochs = 1
        study.reduction_factor = 2
    return config
