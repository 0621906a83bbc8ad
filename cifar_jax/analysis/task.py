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


def comparable(config: ConfigDict) -> ConfigDict:
    """Returns a config of which all contenders do every part.

    They crop and flip, without dropout, averages or clipping, at a small constant
    learning rate; where the config has Muon, of which PyTorch has none for
    convolutions, all take SGD.
    """
    config = copy.deepcopy(config)
    config.augment = (
        dict(name="random_crop", padding=CROP_PADDING),
        dict(name="random_flip"),
    )
    for key in ("dropout", "logits_dropout", "block_dropout"):
        config.model[key] = 0.0
    config.train.ema_decay = 0.0
    config.optim.gradient_clip = 0.0
    if config.optim.name == "muon":
        config.optim.name = "sgd"
    config.optim.learning_rate = 1e-3
    config.schedule.name = "constant"
    config.schedule.warmup = "0%"
    return config
