"""Report 004 as its final notebook trains it: a learning rate of 0.01, not 0.001.

Parameters: 4,895,755.
Claims, and a correct count of them: as in report_004.py; they come from this recipe.
Measured: not yet.

The run was made in two parts, of 300 and 200 epochs. Its test in training mode is not
offered: it scores another network.
Other than in PyTorch, as in all these configs: the biased variance in BatchNorm's
statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_004_as_coded.py
"""

from . import report_004


def get_config():
    config = report_004.get_config()
    config.model.init = "pytorch"
    config.optim.learning_rate = 1e-2
    return config
