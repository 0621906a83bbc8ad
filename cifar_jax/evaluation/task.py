"""What contenders of a comparison have in common. Nothing here needs JAX."""

import copy
import dataclasses
from typing import Any

from ml_collections import ConfigDict

from cifar_jax.models.design import Design

CROP_PADDING = 4  # pixels


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and how it is trained, as plain data.

    Attributes:
      design: Of the network, resolved.
      image_shape: Height, width and channels.
      num_classes: Length of the logits.
      num_images: In the training set.
      batch_size: Images in a step.
      head_map: Channels, height and width of what the classifier flattens.
      mean: Per channel, with pixels in [0, 1].
      std: Likewise.
      label_smoothing: Share of each label that is spread over all classes.
      optimizer: Keys of `config.optim`.
      flops_per_image: Of one forward pass.
      shapes: Of the weights and the batch statistics, by path.
    """

    design: Design
    image_shape: tuple[int, int, int]
    num_classes: int
    num_images: int
    batch_size: int
    head_map: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float
    optimizer: dict[str, Any]
    flops_per_image: int
    shapes: dict[tuple[str, ...], tuple[int, ...]]


# What not every contender does is off, and the learning rate small and constant.
_COMMON = {
    "model.dropout": 0.0,
    "model.logits_dropout": 0.0,
    "model.block_dropout": 0.0,
    "model.stochastic_depth": 0.0,
    "optim.gradient_clip": 0.0,
    "optim.weight_decay_mask": "kernels",
    "optim.lr_multipliers": (),
    "optim.sam_rho": 0.0,
    "optim.learning_rate": 1e-3,
    "schedule.name": "constant",
    "schedule.warmup": "0%",
    "schedule.momentum_range": None,
    "train.accumulate": 1,
    "train.repeats": 1,
    "train.ema_decay": 0.0,
    "prune.sparsity": 0.0,
}
_OPTIMIZERS = ("adam", "adamw", "sgd")


def comparable(config: ConfigDict) -> ConfigDict:
    """Returns a config of which all contenders do every part.

    They crop and flip, without dropout, averages or clipping, at a small constant
    learning rate; where the config has an optimiser that PyTorch has not, all take SGD.
    """
    config = copy.deepcopy(config)
    config.augment = (
        dict(name="random_crop", padding=CROP_PADDING),
        dict(name="random_flip"),
    )
    config.update_from_flattened_dict(_COMMON)
    if config.optim.name not in _OPTIMIZERS:
        config.optim.name = "sgd"
    return config
