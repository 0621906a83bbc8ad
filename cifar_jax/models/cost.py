"""The multiply-adds of a network as a formula. Nothing here needs JAX."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

from cifar_jax.models.design import Design, block_stride, map_sizes, pooled_size


class Cost(NamedTuple):
    """What one image costs in a forward pass.

    Attributes:
      macs: Multiply-adds of convolutions and linear layers; twice that are the FLOPs.
      elements: Numbers that the convolutions return: what they write to memory.
      convolutions: How many there are, which compiling takes its time over.
    """

    macs: int
    elements: int
    convolutions: int


class _Convolution(NamedTuple):
    kernel: int
    before: int
    after: int
    positions: int


def cost_of(
    design: Design, image_shape: tuple[int, int, int], num_classes: int
) -> Cost:
    """Returns what one image costs, for a resolved design."""
    layers = list(_convolutions(design, image_shape))
    macs = sum(c.kernel**2 * c.before * c.after * c.positions for c in layers)
    if design.se_ratio:  # two linear layers in each block
        for blocks, width in zip(design.stage_sizes, design.widths, strict=True):
            macs += blocks * 2 * width * (width // design.se_ratio)
    height, width = pooled_size(design, image_shape)
    return Cost(
        macs=macs + height * width * design.widths[-1] * num_classes,
        elements=sum(c.after * c.positions for c in layers),
        convolutions=len(layers),
    )


def _convolutions(design: Design, image_shape) -> Iterator[_Convolution]:
    sizes = map_sizes(design, image_shape)
    unpooled = map_sizes(dataclasses.replace(design, stem_pool=0), image_shape)[0]
    before, after = image_shape[2], design.stem_width
    yield _Convolution(design.stem_kernel, before, after, math.prod(unpooled))
    before = after
    for stage, after in enumerate(design.widths):
        positions, kernel = math.prod(sizes[stage + 1]), design.kernel_sizes[stage]
        if design.downsample == "pool":  # its convolution sees the map before the pool
            yield _Convolution(kernel, before, after, math.prod(sizes[stage]))
            before = after
        for index in range(design.stage_sizes[stage]):
            yield _Convolution(kernel, before, after, positions)
            yield _Convolution(kernel, after, after, positions)
            stride = block_stride(design, stage, index)
            if design.shortcut == "projection" and (stride != 1 or before != after):
                size = design.shortcut_kernel_sizes[stage]
                yield _Convolution(size, before, after, positions)
            before = after
