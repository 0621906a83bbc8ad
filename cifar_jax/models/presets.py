"""Networks by name: the options that `resnet.create` and `config.model` take.

A config takes one over with `config.model.update(PRESETS["wrn_22_4"])`.
"""

from cifar_jax import UserError


def cifar_resnet(depth: int) -> dict:
    """Returns ResNet-20, 32, 44, 56, 110 of He et al. (2016, arXiv:1512.03385).

    Their shortcuts are padded (option A), so they hold no parameters.
    """
    num_blocks = _blocks_in_stage(depth, outside=2)
    return dict(stage_sizes=(num_blocks,) * 3, widths=(16, 32, 64), shortcut="padding")


def wide_resnet(depth: int, width_factor: int) -> dict:
    """Returns WRN-depth-width_factor (Zagoruyko & Komodakis, 2016, arXiv:1605.07146).

    The depth counts the three projections, as theirs does: WRN-28-10 has 25
    convolutions in its stem and blocks.
    """
    num_blocks = _blocks_in_stage(depth, outside=4)
    return dict(
        stage_sizes=(num_blocks,) * 3,
        widths=(16 * width_factor, 32 * width_factor, 64 * width_factor),
        stem_width=16,
        block="preact",
    )


def _blocks_in_stage(depth: int, *, outside: int) -> int:
    """Solves depth = outside + 3 stages x blocks x 2 convolutions in a block."""
    num_blocks, rest = divmod(depth - outside, 6)
    if rest or num_blocks < 1:
        raise UserError(
            f"depth {depth} is not 6n + {outside}; "
            f"use {outside + 6 * max(1, num_blocks)}"
        )
    return num_blocks


PRESETS = {
    # The systems of the five reports, whose recipes are in configs/reports/.
    "report_000": dict(stage_sizes=(13, 13, 13), widths=(32, 64, 128), dropout=0.5),
    "report_000_baseline": dict(stage_sizes=(9, 9, 9), widths=(16, 32, 64)),
    "report_001": dict(stage_sizes=(1, 1, 1, 1), widths=(64, 128, 256, 512)),
    "report_002": dict(
        stage_sizes=(2, 2, 2, 2),
        widths=(32, 64, 256, 256),
        activation="mish",
        se_ratio=16,
        dropout=0.5,
    ),
    "report_003": dict(
        stage_sizes=(2, 1, 1, 1),
        widths=(64, 128, 256, 512),
        pool=4,
        logits_dropout=0.5,
    ),
    "report_004": dict(stage_sizes=(2, 2, 2), widths=(85, 170, 340), pool=8),
    # ResNet-18 for small images: a 3x3 stem of stride 1 and no max-pool
    "resnet18": dict(stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet20": cifar_resnet(20),
    "resnet56": cifar_resnet(56),
    "resnet110": cifar_resnet(110),
    "wrn_16_4": wide_resnet(16, 4),
    "wrn_22_4": wide_resnet(22, 4),
    "wrn_40_2": wide_resnet(40, 2),
}
