"""Report 004's figure 2: Adam against SGD, 20 epochs of its base without augmentation.

The settings of its SGD are not given; these are the usual ones, at two learning rates.
Read off the figure: about 0.84 with Adam, and 0.64 to 0.67 with SGD.

small: C=8, 2,500 images, two epochs.
Command: python -m cifar_jax.search --config configs/search/report_004_optimizer.py
"""

from . import report_004_base
from .small import is_small, small


def get_config(variant="full"):
    config = report_004_base.get_config()
    config.base.train.epochs = 20
    config.base.optim.nesterov = False
    config.study.space = (
        dict(name="adam-0.001", change={}),
        *(
            dict(
                name=f"sgd-{rate:g}",
                change={"optim.name": "sgd", "optim.learning_rate": rate},
            )
            for rate in (0.1, 0.01)
        ),
    )
    return small(config, narrower=8) if is_small(variant) else config
