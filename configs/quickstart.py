"""Handwritten digits on a CPU in about a minute, without a download.

78,042 parameters. Command: python -m cifar_jax.main --config configs/quickstart.py
"""

from cifar_jax import config as default


def get_config():
    config = default.get_config()
    config.data.name = "digits"
    config.augment = (
        dict(name="random_crop", padding=3),
        dict(name="random_rotation", degrees=10.0),
    )  # a mirrored digit is another digit, or none
    config.model.widths = (16, 32, 64)
    config.model.stage_sizes = (1, 1, 1)
    config.model.strides = (1, 2, 2)
    config.model.stem_stride = 2
    config.model.zero_init = True
    config.optim.name = "adamw"
    config.optim.learning_rate = 2e-3
    config.optim.weight_decay = 0.02
    config.train.batch_size = 64
    config.train.epochs = 15
    config.train.label_smoothing = 0.1
    config.schedule.warmup = "15%"
    return config
