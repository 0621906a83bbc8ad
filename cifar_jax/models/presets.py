"""Networks by name: the options that `resnet.create` and `config.model` take.

A config takes one over with `config.model.update(PRESETS["wrn_22_4"])`.
"""

# He et al. (2016, arXiv:1512.03385), option A: shortcuts are padded and hold no
# parameters. The depth is 2 + 6 times the blocks of a stage.
_PADDED = dict(widths=(16, 32, 64), shortcut="padding")
# Zagoruyko & Komodakis (2016, arXiv:1605.07146). The depth is 4 + 6 times the blocks of
# a stage, since theirs counts the three projections.
_WIDE = dict(stem_width=16, block="preact")

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
        stage_sizes=(2, 1, 1, 1), widths=(64, 128, 256, 512), pool=4, logits_dropout=0.5
    ),
    "report_004": dict(stage_sizes=(2, 2, 2), widths=(85, 170, 340), pool=8),
    # ResNet-18 for small images: a 3x3 stem of stride 1 and no max-pool
    "resnet18": dict(stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet20": dict(stage_sizes=(3, 3, 3), **_PADDED),
    "resnet56": dict(stage_sizes=(9, 9, 9), **_PADDED),
    "resnet110": dict(stage_sizes=(18, 18, 18), **_PADDED),
    "wrn_16_4": dict(stage_sizes=(2, 2, 2), widths=(64, 128, 256), **_WIDE),
    "wrn_22_4": dict(stage_sizes=(3, 3, 3), widths=(64, 128, 256), **_WIDE),
    "wrn_40_2": dict(stage_sizes=(6, 6, 6), widths=(32, 64, 128), **_WIDE),
}
