"""Report 002 as its code trains it: batch 256, AutoAugment and random erasing.

Parameters: 4,570,934.
Claims, and a correct count of them: as in report_002.py; these come from this recipe.
Measured: not yet.

The learning rate restarts from 0.05 after 10, 30, 70 and 150 epochs. The logged run was
broken off after 84 epochs and resumed from its weights with a fresh optimizer, weight
decay 1e-4 and fresh restarts, to epoch 192; here it is one run of 200. The last state
is scored.
Other than in PyTorch, as in all these configs: the biased variance in BatchNorm's
statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_002_as_coded.py
"""

from . import report_002


def get_config():
    config = report_002.get_config()
    config.train.label_smoothing = 0.1
    config.augment = (
        dict(name="random_crop", padding=4),
        dict(name="random_flip"),
        dict(name="auto_augment", policy="imagenet"),  # torchvision's default
        dict(name="random_erasing"),
    )
    config.model.init = "pytorch"
    config.schedule.name = "cosine_restarts"
    config.schedule.period = "10 epochs"
    config.schedule.period_factor = 2
    config.train.batch_size = 256
    return config
