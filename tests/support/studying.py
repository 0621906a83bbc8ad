"""Small studies on digits; a helper of tests."""

from cifar_jax import config as default
from cifar_jax.studies import study


def config_of(data_dir=None, **keys):
    """Returns the config of a study of two tiny networks on digits, of one epoch."""
    config = default.get_study_config()
    base = config.base
    base.data.name, base.data.dir = "digits", data_dir
    base.augment = ()
    base.model.update(stage_sizes=(1, 1), widths=(4, 8), stem_stride=2)
    base.train.epochs, base.train.batch_size = 1, 256
    base.optim.name, base.optim.learning_rate = "adam", 0.01
    config.study.kind = "grid"
    config.study.space = (dict(factor="C", values=(2, 4)),)
    config.study.seeds = 2
    config.study.threads = 1
    with config.ignore_type():
        config.update_from_flattened_dict(keys)
    return config


def make(data_dir=None, **keys):
    return study.make(config_of(data_dir, **keys))


SAMPLED = {
    "study.kind": "sample",
    "study.space": (
        dict(factor="C", low=1, high=8),
        dict(factor="optim.learning_rate", low=1e-4, high=1e-1, log=True),
    ),
    "study.trials": 5,
    "study.finalists": 2,
    "study.sampler": "random",
}
