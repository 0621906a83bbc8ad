"""The network and the training that report 004 starts from, for its first tables.

N=4, B=2, C=64, F=3, K=1 and the pool of the whole map: 11,173,962 parameters, over the
budget, which the report looks at only later. Adam at a constant 0.001, batches of 64,
no augmentation. Not a study itself.
"""

from cifar_jax import config as default

from ..reports import report_004


def get_config():
    config = default.get_study_config()
    base = report_004.get_config()
    base.data.validation = 0.1
    base.augment = ()
    base.model.stage_sizes = (2, 2, 2, 2)
    base.model.widths = (64, 128, 256, 512)
    base.model.pool = None
    base.budget.limit = None
    base.schedule.name = "constant"
    base.train.epochs = 10
    config.base = base
    return config
