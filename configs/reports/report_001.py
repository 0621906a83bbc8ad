"""Report 001 (Zhou, Edme, Khan): one block a stage, 64-128-256-512 channels.

Parameters: 4,903,242 (claimed: 4,903,242).
Claims: train accuracy 97 %, test accuracy 92 %, after 100 epochs ("more than 100"
elsewhere). No code was found, so a correct count cannot be made.
Measured: five epochs, as configs/search/five_systems.py shortens it: validation
accuracy 0.7468 (results/studies/five_systems); not yet in full.

The weight decay was tuned but is not given: 5e-4 here. The learning rate is constant by
the name of its file of weights; normalisation is by the training images. The report
saves each best state by an accuracy of unknown data and goes on from its weights; here
that is the accuracy of a tenth of the training images.
Other than in PyTorch, as in all these configs: He's initialisation, the biased variance
in BatchNorm's statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_001.py
"""

from cifar_jax import config as default
from cifar_jax.models.presets import PRESETS


def get_config():
    config = default.get_config()
    config.augment = (
        dict(name="random_crop", padding=4),
        dict(name="random_flip"),
        dict(name="random_rotation", degrees=10.0),
    )
    config.model.update(PRESETS["report_001"])
    config.optim.learning_rate = 0.01
    config.optim.nesterov = False
    config.schedule.name = "constant"
    config.optim.weight_decay_mask = "all"
    config.schedule.warmup = "0%"
    config.train.reload_best = True
    config.train.epochs = 100
    config.train.batch_size = 64
    return config
