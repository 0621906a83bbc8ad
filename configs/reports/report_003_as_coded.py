"""Report 003 as its code trains it: no augmentation, images in [0, 1].

Parameters: 4,977,226.
Claims, and a correct count of them: as in report_003.py.
Measured: not yet.

Its loaders read the data sets that were made before augmentation and normalisation were
declared. Its cosine over 200 epochs is cut off after 20, at 0.98 of the peak. Its
figure 4 suggests that the printed run held out 10 % and not 20 %.
Other than in PyTorch, as in all these configs: the biased variance in BatchNorm's
statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_003_as_coded.py
"""

from . import report_003


def get_config():
    config = report_003.get_config()
    config.data.mean = (0.0, 0.0, 0.0)
    config.data.std = (1.0, 1.0, 1.0)
    config.augment = ()
    config.model.init = "pytorch"
    config.schedule.name = "warmup_cosine"
    config.schedule.length = "200 epochs"
    config.schedule.per_epoch = True
    return config
