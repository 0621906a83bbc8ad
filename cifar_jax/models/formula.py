"""The parameter count as a formula, and the widest network below a budget.

Nothing here needs JAX, so a search over designs counts thousands of them in a second.
"""

import bisect
import dataclasses

from cifar_jax import UserError
from cifar_jax.models.design import Design, block_stride, check, pooled_size, resolve


def closed_form(
    design: Design, image_shape: tuple[int, int, int], num_classes: int
) -> int:
    """Returns the number of trainable parameters of a resolved design, by formula.

    A BatchNorm holds a bias and most often a scale for each channel, the classifier has
    a bias, convolutions have none. Report 004 gives the same sum for its own networks.
    """
    height, width = pooled_size(design, image_shape)
    total = design.stem_kernel**2 * image_shape[2] * design.stem_width
    basic, norm = design.block == "basic", 1 + design.bn_scale
    if design.stem == "whitening":
        total += design.stem_width  # a bias and no BatchNorm
    else:
        total += norm * (design.stem_width if basic else design.widths[-1])
    before = design.stem_width
    for stage, after in enumerate(design.widths):
        if design.downsample == "pool":
            kernel = design.kernel_sizes[stage]
            total += before * after * kernel**2 + norm * after
            before = after
        for index in range(design.stage_sizes[stage]):
            total += _block(design, stage, before, block_stride(design, stage, index))
            before = after
    return total + (height * width * before + 1) * num_classes


def _block(design: Design, stage: int, before: int, stride: int) -> int:
    """Parameters of one block of a stage that takes `before` channels."""
    after, basic = design.widths[stage], design.block == "basic"
    norm = 1 + design.bn_scale
    total = (before + after) * after * design.kernel_sizes[stage] ** 2  # two kernels
    total += norm * ((after if basic else before) + after)  # two BatchNorms
    if design.shortcut == "projection" and (stride != 1 or before != after):
        total += before * after * design.shortcut_kernel_sizes[stage] ** 2
        total += norm * after if basic else 0
    if design.se_ratio:
        hidden = after // design.se_ratio
        total += 2 * after * hidden + design.se_bias * (after + hidden)
    return total


def widest(
    design: Design, image_shape, num_classes: int, limit: int, multiple: int = 1
) -> Design | None:
    """Returns the widest design below the limit, its stages in the same proportion.

    Only the widths change (and the stem's, where it is the first stage's).

    Args:
        design: resolved.
        image_shape: (height, width, channels).
        num_classes: length of the logits.
        limit: the parameters must be fewer.
        multiple: of it are the widths of all stages, rounded down.

    Returns:
        The design, or None where even the least width is too wide.
    """

    def count(width, shortcut=design.shortcut):
        wider = _widen(design, width, multiple)
        wider = dataclasses.replace(wider, shortcut=shortcut)
        return closed_form(wider, image_shape, num_classes)

    # Without projections the count rises with the width, so bisection bounds it; with
    # them it may fall where a stage comes to equal the stem, so the rest is tried.
    bound = multiple * bisect.bisect_left(
        range(multiple, limit + multiple, multiple),
        limit,
        key=lambda width: count(width, "padding"),
    )
    for width in range(bound, 0, -multiple):
        wider = _widen(design, width, multiple)
        if count(width) < limit and _is_sound(wider, image_shape, num_classes):
            return wider
    return None


def _is_sound(design: Design, image_shape, num_classes: int) -> bool:
    try:
        check(design, image_shape, num_classes)
    except UserError:
        return False
    return True


def _widen(design: Design, width: int, multiple: int) -> Design:
    """Returns the design with a first stage of `width`, in the same proportions."""
    first = design.widths[0]
    units = (max(1, width * other // first // multiple) for other in design.widths)
    return dataclasses.replace(
        design,
        widths=tuple(unit * multiple for unit in units),
        stem_width=width if design.stem_width == first else design.stem_width,
    )


def max_width(
    limit: int,
    *,
    num_stages: int,
    num_blocks: int,
    kernel: int = 3,
    shortcut_kernel: int = 1,
    pool: int | None = None,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
) -> int | None:
    """Returns the largest C below the limit for the N, B, F, K and P of report 004.

    Args:
        limit: the parameters must be fewer.
        num_stages: N; the width doubles from C with each.
        num_blocks: B, of each stage.
        kernel: F.
        shortcut_kernel: K.
        pool: P; None pools the whole map.
        image_shape: (height, width, channels).
        num_classes: length of the logits.
    """
    design = resolve(
        dict(
            stage_sizes=(num_blocks,) * num_stages,
            widths=(1,),
            kernel_sizes=(kernel,),
            shortcut_kernel_sizes=(shortcut_kernel,),
            pool=pool,
        )
    )
    check(design, image_shape, num_classes)
    fitting = widest(design, image_shape, num_classes, limit)
    return fitting and fitting.widths[0]
