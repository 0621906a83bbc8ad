"""Weights of the usual PyTorch ResNets for CIFAR, under the names of this project.

The usual names are those of torchvision (`layer1.0.downsample.0`, `fc`), of the ResNets
for small images made after it (`layer1.0.shortcut.0`, `linear`), with padded shortcuts
or projections, and of wide ResNets (`block1.layer.0.convShortcut`).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cifar_jax import UserError
from cifar_jax.models.torch_resnet import torch_name

# Patterns with their replacements. Do not change the order: each sees what the ones
# before it have left.
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


def _rename(usual: str) -> str:
    name = usual
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def detect(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the options of a network that its names and shapes tell; maybe none.

    They tell nothing of strides, pools, activations and BatchNorm's epsilon.
    """
    shapes = {_rename(usual): array.shape for usual, array in weights.items()}
    blocks = [
        (int(match[1]), name.removesuffix("conv1.weight"), shape)
        for name, shape in sorted(shapes.items())
        if (match := re.fullmatch(r"stage(\d+)_block\d+\.conv1\.weight", name))
    ]
    stem, stages = shapes.get("stem_conv.weight", ()), sorted({b[0] for b in blocks})
    shapes_of_four = all(len(s) == 4 for s in (stem, *(block[2] for block in blocks)))
    if not (blocks and shapes_of_four):
        return {}
    firsts = [next(block for block in blocks if block[0] == s) for s in stages]
    sizes = tuple(sum(block[0] == stage for block in blocks) for stage in stages)
    options: dict[str, Any] = {"stage_sizes": sizes}
    options["widths"] = tuple(shape[0] for _, _, shape in firsts)
    options["kernel_sizes"] = tuple(shape[2] for _, _, shape in firsts)
    options |= {"stem_width": stem[0], "stem_kernel": stem[2]}
    for _, name, (after, before, *_) in firsts:
        if before != after:  # else nothing can be told
            is_projected = f"{name}shortcut_conv.weight" in shapes
            options["shortcut"] = "projection" if is_projected else "padding"
            norm = shapes.get(f"{name}bn1.weight", (after,))
            options["block"] = "preact" if norm == (before,) else "basic"
    return options


def match(
    weights: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    preact: bool,
) -> dict[str, np.ndarray]:
    """Returns the weights by this project's names, if they are exactly the network's.

    Weights that have this project's names already keep them.

    Args:
      weights: Arrays by their usual names.
      shapes: Shapes of the network's weights by this project's names.
      preact: Whether the network's blocks begin with their BatchNorm.
    """
    matched: dict[str, np.ndarray] = {}
    for usual, weight in weights.items():
        name = _rename(usual)
        # The BatchNorm outside the blocks is the stem's or the last one.
        name = re.sub(r"^bn1\.", "final_bn." if preact else "stem_bn.", name)
        if name.endswith(_COUNTER):
            continue
        if name not in shapes or name in matched:
            raise UserError(
                f"the weights hold {usual} {list(weight.shape)}, for which the "
                "network has no place; choose the network that they were made for"
            )
        if weight.shape != tuple(shapes[name]):
            raise UserError(
                f"{usual} has the shape {list(weight.shape)}, and in the network "
                f"{list(shapes[name])}; choose the network that it was made for"
            )
        matched[name] = weight
    missing = [name for name in shapes if name not in matched and _COUNTER not in name]
    if missing:
        raise UserError(
            f"the weights lack {missing[0]} (of {len(missing)} that are missing); "
            "choose the network that they were made for"
        )
    return matched


def to_flax(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[tuple[str, ...], tuple[int, ...]],
    head_map: tuple[int, int, int],
) -> dict[tuple[str, ...], np.ndarray]:
    """Returns PyTorch's weights {name: array} as Flax leaves {path: array}.

    Args:
      tensors: Arrays by this project's names.
      shapes: Shapes of the Flax leaves by path.
      head_map: (C, H, W) of the maps that the classifier takes flattened.
    """
    leaves = {}
    for path, shape in shapes.items():
        value = tensors[torch_name(path)]
        if path == ("head", "kernel"):  # (K, CHW) to (HWC, K)
            value = value.reshape(-1, *head_map)
        if value.ndim == 4:  # a convolution, also of 1x1 maps for a linear layer
            value = value.transpose(2, 3, 1, 0)  # OIHW to HWIO
        leaves[path] = np.ascontiguousarray(value.reshape(shape))
    return leaves
