"""The five reported systems side by side, each with its own recipe, for five epochs.

Network, optimizer, augmentation and state that is scored are those of
configs/reports/; the ResNet-56 that report 000 starts from is the baseline. Schedules
that depend on the length of a run are shortened with it. Every design trains on 45,000
images and validates on the same 5,000. CPUs with AMX round the operands of convolutions
to bfloat16, as TPUs do; by an estimate, report_004 then takes a third of the time.
Measured on two CPU cores (results/studies/five_systems): validation accuracy from
0.6810 (report_002, which takes the fewest steps) to 0.7664 (report_000).
The reports train for 175, 100, 200, 20 and 500 epochs. So this shows that each system
learns, how fast, and in what time; not what it reaches in the end.

small: an eighth of the widths but at least 16, 500 images, one epoch.
Command: python -m cifar_jax.search --config configs/search/five_systems.py --workers 2
"""

from cifar_jax import config as default

from ..reports import (
    report_000,
    report_000_baseline,
    report_001,
    report_002,
    report_003,
    report_004,
)
from .small import is_small

# From the cheapest to the dearest by operations, as they are started.
SYSTEMS = {
    "report_000_baseline": report_000_baseline,
    "report_002": report_002,
    "report_001": report_001,
    "report_003": report_003,
    "report_000": report_000,
    "report_004": report_004,
}
# Of the reports, in test accuracy; where their code miscounts, counted correctly.
REPORTED = (
    *(("report_000_baseline", 0.9283), ("report_002", 0.9272), ("report_001", 0.92)),
    *(("report_003", 0.875), ("report_000", 0.9552), ("report_004", 0.9252)),
)
EPOCHS = 5


def recipe(system, epochs):
    """Returns the config of a report, shortened, as its keys with their values."""
    config = system.get_config()
    if config.data.validation == 0:  # its last state is scored
        config.evaluate.best_by = "last"
    if config.schedule.name == "step":  # each 10 of 500 epochs
        config.schedule.decay_every = "2%"
    config.model.conv_precision = "auto"
    config.data.validation = 0.1
    config.data.stratified = True
    config.train.epochs = epochs
    return config


def get_config(variant="full"):
    config = default.get_study_config()
    small = is_small(variant)
    recipes = {name: recipe(s, 1 if small else EPOCHS) for name, s in SYSTEMS.items()}
    if small:
        for each in recipes.values():
            each.data.train_split = "train[:1%]"
            each.model.widths = tuple(max(16, w // 8) for w in each.model.widths)
            each.schedule.decay_every = "20%"
            each.train.batch_size = 50
    config.base = recipes["report_000_baseline"]
    base = default.flatten(config.base.to_dict())
    space = []
    for name, each in recipes.items():
        keys = default.flatten(each.to_dict())
        change = {key: value for key, value in keys.items() if value != base[key]}
        space.append(dict(name=name, change=change))
    config.study.space = tuple(space)
    config.study.seeds = 1
    config.study.threads = 1  # so that the results do not depend on the workers
    config.study.reported = REPORTED
    return config
