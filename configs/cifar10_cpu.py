"""All of CIFAR-10 on two CPU cores: stages that pool before they normalise, and Muon.

1,060,426 parameters, 0.095 GFLOPs an image. With cifar10_cpu.py:full test accuracy
0.9007, with flip 0.9099, n = 3, in 8:46 to 9:56 minutes on two cores of an Intel Xeon
with AMX (results/records/cifar10_cpu-full.json).
Commands: python -m cifar_jax.main --config configs/cifar10_cpu.py
cifar10_cpu.py:full trains on all 50,000 images, and tests the last state;
cifar10_cpu.py:tiny runs everything, small, in a few seconds.
"""

from cifar_jax import config as default

from .records import forms


def get_config(form=None):
    config = default.get_config()
    config.augment = (
        dict(name="random_crop", padding=2, mode="reflect"),
        dict(name="alternating_flip"),
    )
    model = config.model
    model.stem = "whitening"
    model.stem_width = 48
    model.stem_stride = 2
    model.downsample = "pool"
    model.stage_sizes = (1, 1, 1)
    model.widths = (32, 96, 192)
    model.activation = "silu"
    model.dirac_init = True
    model.bn_momentum = 0.6
    model.conv_precision = "auto"
    config.optim.name = "muon"
    config.optim.learning_rate = 0.28
    config.optim.lr_multipliers = ((".*bn.?/bias", 16.0),)
    config.schedule.name = "linear"
    config.schedule.warmup = "20%"
    config.schedule.initial_factor = 0.2
    config.train.epochs = 6
    config.train.batch_size = 256
    config.train.cpu_devices = 1
    config.train.label_smoothing = 0.2
    config.train.ema_decay = 0.98
    config.evaluate.tta = "flip"
    return forms.apply(config, form, tiny={"model.widths": (8, 16, 32)})
