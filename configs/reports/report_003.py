"""Report 003 (Shamooun, Deshmukh, Alamuru), as reported: stages [2, 1, 1, 1].

Parameters: 4,977,226 (its table: 4,977,226). The text's 4.7 million for one block in
each stage is 4,903,242.
Claims: test accuracy 87.5 %, test loss 0.5639, validation accuracy 86.55 %. Its code
scores the last test batch alone, 16 images: 87.5 % is 14 of them, and no correct count
can be made. Its README claims 90.6 % of the whole test set.
Measured: five epochs, as configs/search/five_systems.py shortens it: validation
accuracy 0.7350 (results/studies/five_systems); not yet in full.

The dropout is on the logits, as its code and its curves (train loss above validation
loss) have it; the report says "in the fully connected layer".
The state of the least validation loss is scored.
Other than in PyTorch, as in all these configs: He's initialisation, the biased variance
in BatchNorm's statistics, and the last incomplete batch is dropped.
Command: python -m cifar_jax.main --config configs/reports/report_003.py
"""

from cifar_jax import config as default
from cifar_jax.models.presets import PRESETS


def get_config():
    config = default.get_config()
    config.data.validation = 0.2
    config.data.stratified = False
    config.data.mean = (0.49139968, 0.48215827, 0.44653124)
    config.data.std = (0.24703233, 0.24348505, 0.26158768)
    config.augment = (dict(name="random_crop", padding=4), dict(name="random_flip"))
    config.model.update(PRESETS["report_003"])
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.0
    config.schedule.name = "constant"
    config.schedule.warmup = "0%"
    config.train.epochs = 20
    config.train.batch_size = 128
    config.evaluate.best_by = "loss"
    return config
