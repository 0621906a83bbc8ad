"""Weights of the usual PyTorch ResNets for CIFAR, under the names of this project.

The usual names are those of torchvision (`layer1.0.downsample.0`, `fc`), of the ResNets
for small images made after it (`layer1.0.shortcut.0`, `linear`), with padded shortcuts
or projections, and of wide ResNets (`block1.layer.0.convShortcut`).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cifar_jax import UserError
from cifar_jax.models.torch_resnet import torch_name

# Applied in this order. The BatchNorm outside the blocks is the stem's or the last one.
_RULES = (
    (r"^(?:module|model|net|network)\.", ""),
    (r"^conv1\.", "stem_conv."),
    (r"^(?:linear|fc|classifier)\.", "head."),
    (r"\.(?:shortcut|downsample)\.0\.", ".shortcut_conv."),
    (r"\.(?:shortcut|downsample)\.1\.", ".shortcut_bn."),
    (r"\.convShortcut\.", ".shortcut_conv."),
    (
        r"^(?:layer|block)(\d+)\.(?:layer\.)?(\d+)\.",
        lambda match: f"stage{match[1]}_block{int(match[2]) + 1}.",
    ),
)
_COUNTER = "num_batches_tracked"  # of PyTorch's BatchNorm; Flax has none


def rename(name: str, *, preact: bool) -> str:
    """Returns this project's name for a usual one; its own names stay.

    Args:
      name: Of a parameter or statistic.
      preact: Whether the blocks begin with their BatchNorm.
    """
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^bn1\.", "final_bn." if preact else "stem_bn.", name)


def match(
    weights: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    preact: bool,
) -> dict[str, np.ndarray]:
    """Returns the weights by this project's names, if they are exactly the network's.

    Args:
      weights: By their usual names.
      shapes: Of the network's weights, by this project's names.
      preact: Whether the network's blocks begin with their BatchNorm.

    Raises:
      UserError: If a weight has no place, is missing, or has another shape.
    """
    names = {}
    for usual in weights:
        name = rename(usual, preact=preact)
        if name.endswith(_COUNTER):
            continue
        if name not in shapes or name in names:
            raise UserError(
                f"the weights hold {usual} {list(weights[usual].shape)}, for which the "
                "network has no place; choose the network that they were made for"
            )
        names[name] = usual
        if weights[usual].shape != tuple(shapes[name]):
            raise UserError(
                f"{usual} has the shape {list(weights[usual].shape)}, and in the "
                f"network {list(shapes[name])}; choose the network that it was made for"
            )
    missing = [name for name in shapes if name not in names and _COUNTER not in name]
    if missing:
        raise UserError(
            f"the weights lack {missing[0]} (of {len(missing)} that are missing); "
            "choose the network that they were made for"
        )
    return {name: weights[usual] for name, usual in names.items()}


def to_flax(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    head_map: tuple[int, int, int],
) -> dict[tuple[str, ...], np.ndarray]:
    """Returns PyTorch's weights {name: array} as Flax leaves {path: array}.

    Args:
      tensors: By this project's names.
      shapes: Of the Flax leaves, by path.
      head_map: (C, H, W) of the maps that the classifier takes flattened.
    """
    return {
        path: _leaf(tensors[torch_name(path)], path, shape, head_map)
        for path, shape in shapes.items()
    }


def _leaf(value, path: Sequence[str], shape, head_map) -> np.ndarray:
    if path == ("head", "kernel"):  # (K, CHW) to (HWC, K)
        value = value.reshape(-1, *head_map).transpose(2, 3, 1, 0)
    elif len(shape) == 4:
        value = value.transpose(2, 3, 1, 0)  # OIHW to HWIO
    elif len(shape) == 2:  # a linear layer, which PyTorch has as a 1x1 convolution
        value = value.reshape(value.shape[:2]).T
    return np.ascontiguousarray(value.reshape(shape))
