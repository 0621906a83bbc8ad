"""The baseline of report 000: ResNet-56 with projection shortcuts.

Parameters: 855,770 (He et al. pad their shortcuts and have 853,018: preset resnet56).
Claims: "close to 91 %"; its notebook prints 91.80 %, which is 9,283 images of 10,112: a
correct count gives 92.83 %.
Measured: five epochs, as configs/search/five_systems.py shortens it: validation
accuracy 0.7130 (results/studies/five_systems); not yet in full.

Its training is not in the repository (weights from an external file), so this is the
recipe of report_000.py.
Other than in PyTorch, as in all these configs: He's initialisation, the biased variance
in BatchNorm's statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_000_baseline.py
"""

from cifar_jax.models.presets import PRESETS

from . import report_000


def get_config():
    config = report_000.get_config()
    config.model.update(PRESETS["report_000_baseline"])
    config.model.dropout = 0.5  # of the same class in its code
    return config
