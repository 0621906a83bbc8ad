"""Report 004's Table 8: the joint choice of N, B and C under the budget, all 28 cells.

For each number of stages N and of blocks B the first stage has the largest number of
channels C that fits. The report has 22 of the cells, one run of each, 50 epochs, and
scores the last state on the test set; here each cell has three seeds, a tenth of the
training images chooses, and only the winner is tested. Best there: N=3, B=2 (C=85),
0.9104; then N=3, B=4, 0.907, and N=2, B=3, 0.9066.

small: a hundredth of the budget, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/table_8.py
"""

from cifar_jax import config as default

from ..reports import report_004
from .small import is_small, small

# Name of the cell, test accuracy. Rows 1, 2, 5, 6, 8, 11 and 19 of the report do not
# have the largest width that fits, but one to three channels fewer.
REPORTED = (
    *(("N2-B1", 0.8644), ("N2-B2", 0.8926), ("N2-B3", 0.9066), ("N2-B4", 0.9)),
    *(("N2-B5", 0.9009), ("N2-B6", 0.8988), ("N2-B7", 0.9019), ("N3-B1", 0.8943)),
    *(("N3-B2", 0.9104), ("N3-B3", 0.9041), ("N3-B4", 0.907), ("N3-B5", 0.8985)),
    *(("N4-B1", 0.8974), ("N4-B2", 0.8939), ("N4-B3", 0.8979), ("N4-B4", 0.89)),
    *(("N4-B5", 0.8828), ("N5-B1", 0.8772), ("N5-B2", 0.8633), ("N5-B3", 0.8656)),
    *(("N5-B4", 0.8617), ("N5-B5", 0.8614)),
)


def get_config(variant="full"):
    config = default.get_study_config()
    config.base = report_004.get_config()
    config.base.data.validation = 0.1
    config.base.model.pool = None  # P = 32 / 2**(N - 1)
    config.base.train.epochs = 50
    config.study.kind = "grid"
    config.study.space = (
        dict(factor="N", values=(2, 3, 4, 5)),
        dict(factor="B", values=(1, 2, 3, 4, 5, 6, 7)),
    )
    config.study.width = "widest"
    config.study.reported = REPORTED
    if is_small(variant):
        small(config, limit=50_000)
        config.base.augment = (
            dict(name="random_crop", padding=4),
            dict(name="random_flip"),
        )
        config.base.optim.learning_rate = 3e-3  # for so few steps
    return config
