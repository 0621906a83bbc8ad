"""All of CIFAR-10 on two CPU cores in about a quarter of an hour.

661,618 parameters; test accuracy 0.8904, validation 0.8920, n = 1; 24 minutes on two
cores of an AMD EPYC beside other work (results/cifar10_cpu.json).
Command: python -m cifar_jax.main --config configs/cifar10_cpu.py
"""

from cifar_jax import config as default


def get_config():
    config = default.get_config()
    config.augment = (
        dict(name="random_crop", padding=2, mode="reflect"),
        dict(name="alternating_flip"),
    )
    model = config.model
    model.stem = "whitening"
    model.stem_width = 54
    model.stem_stride = 2
    model.stage_sizes = (1, 1, 1)
    model.widths = (32, 96, 192)
    model.zero_init = True
    config.optim.name = "muon"
    config.optim.learning_rate = 0.2
    config.schedule.name = "linear"
    config.schedule.warmup = "20%"
    config.schedule.initial_factor = 0.2
    config.train.epochs = 14
    config.train.batch_size = 128  # more would fall out of the cache
    config.train.cpu_devices = 2
    config.train.label_smoothing = 0.1
    return config
