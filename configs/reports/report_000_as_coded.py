"""Report 000 as its code trains it: AutoAugment, and the epoch chosen on the test set.

Parameters: 4,964,266.
Claims, and a correct count of them: as in report_000.py; they come from this recipe.
Measured: not yet.

The test accuracy that this run ends with is no honest one, and its result says so.
Other than in PyTorch, as in all these configs: the biased variance in BatchNorm's
statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_000_as_coded.py
"""

from . import report_000


def get_config():
    config = report_000.get_config()
    config.augment = (
        dict(name="random_crop", padding=4),
        dict(name="random_flip"),
        dict(name="auto_augment", policy="cifar10"),
    )
    config.model.init = "pytorch"
    config.evaluate.select_on = "test"
    return config
