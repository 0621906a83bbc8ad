"""The numbers of the augmentation policies: operations, sub-policies, magnitudes.

Levels run from 0 to the number of bins less one. Operations whose magnitude has two
directions take either with equal chance.
"""

import dataclasses

import numpy as np

GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
ENHANCEMENTS = ("brightness", "saturation", "contrast", "sharpness")
OTHERS = ("posterize", "solarize", "autocontrast", "equalize", "invert")
OPERATIONS = ("identity", *GEOMETRY, *ENHANCEMENTS, *OTHERS)
SIGNED = GEOMETRY + ENHANCEMENTS
# RandAugment and TrivialAugment draw from all of them but the last.
UNIFORM_CHOICES = OPERATIONS[:-1]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Magnitudes at the highest level.

    Attributes:
      num_bins: Number of levels.
      shear: Pixels sideways for each pixel along.
      translate: Fraction of the side, or whole pixels where `translate_in_pixels`.
      rotate: Degrees.
      enhance: Change of the factor of brightness, saturation, contrast, sharpness.
      posterize: Number of bits that are dropped.
      translate_in_pixels: Whether `translate` is in pixels.
    """

    num_bins: int
    shear: float
    translate: float
    rotate: float
    enhance: float
    posterize: int
    translate_in_pixels: bool = False


AUTO_AUGMENT = Limits(10, 0.3, 150 / 331, 30.0, 0.9, 4)
RAND_AUGMENT = dataclasses.replace(AUTO_AUGMENT, num_bins=31)
TRIVIAL_AUGMENT_WIDE = Limits(31, 0.99, 32.0, 135.0, 0.99, 6, translate_in_pixels=True)


def magnitudes(limits: Limits, *, height: int, width: int) -> np.ndarray:
    """Returns float32 [operations, levels]: what an operation gets at each level."""
    levels = np.arange(limits.num_bins) / (limits.num_bins - 1)
    side_x, side_y = (1, 1) if limits.translate_in_pixels else (width, height)
    enhance = dict.fromkeys(ENHANCEMENTS, limits.enhance * levels)
    table = {
        "shear_x": limits.shear * levels,
        "shear_y": limits.shear * levels,
        # Whole pixels, cut off towards zero; 1e-6 saves those that rounding made less.
        "translate_x": np.floor(limits.translate * side_x * levels + 1e-6),
        "translate_y": np.floor(limits.translate * side_y * levels + 1e-6),
        "rotate": limits.rotate * levels,
        **enhance,
        "posterize": 8 - np.round(limits.posterize * levels),  # bits that are kept
        "solarize": 255 * (1 - levels),  # threshold
    }
    zeros = np.zeros(limits.num_bins)
    return np.stack([table.get(name, zeros) for name in OPERATIONS]).astype(np.float32)


def _sub_policies(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads lines "operation probability level, operation probability level".

    Returns:
      int32 operations, float32 probabilities and int32 levels, each [policies, 2]; an
      operation without a magnitude has level 0.
    """
    words = [
        [step.split() for step in line.split(",")] for line in text.strip().split("\n")
    ]
    names, probabilities, levels = np.moveaxis(np.array(words), -1, 0)
    operations = np.vectorize(OPERATIONS.index)(names)
    return operations, probabilities.astype(np.float32), levels.astype(np.int32)


# Cubuk et al., 2018, arXiv:1805.09501: Table 7 (CIFAR-10) and Table 9 (ImageNet).
SUB_POLICIES = {
    "cifar10": _sub_policies("""
invert 0.1 0, contrast 0.2 6
rotate 0.7 2, translate_x 0.3 9
sharpness 0.8 1, sharpness 0.9 3
shear_y 0.5 8, translate_y 0.7 9
autocontrast 0.5 0, equalize 0.9 0
shear_y 0.2 7, posterize 0.3 7
saturation 0.4 3, brightness 0.6 7
sharpness 0.3 9, brightness 0.7 9
equalize 0.6 0, equalize 0.5 0
contrast 0.6 7, sharpness 0.6 5
saturation 0.7 7, translate_x 0.5 8
equalize 0.3 0, autocontrast 0.4 0
translate_y 0.4 3, sharpness 0.2 6
brightness 0.9 6, saturation 0.2 8
solarize 0.5 2, invert 0.0 0
equalize 0.2 0, autocontrast 0.6 0
equalize 0.2 0, equalize 0.6 0
saturation 0.9 9, equalize 0.6 0
autocontrast 0.8 0, solarize 0.2 8
brightness 0.1 3, saturation 0.7 0
solarize 0.4 5, autocontrast 0.9 0
translate_y 0.9 9, translate_y 0.7 9
autocontrast 0.9 0, solarize 0.8 3
equalize 0.8 0, invert 0.1 0
translate_y 0.7 9, autocontrast 0.9 0
"""),
    "imagenet": _sub_policies("""
posterize 0.4 8, rotate 0.6 9
solarize 0.6 5, autocontrast 0.6 0
equalize 0.8 0, equalize 0.6 0
posterize 0.6 7, posterize 0.6 6
equalize 0.4 0, solarize 0.2 4
equalize 0.4 0, rotate 0.8 8
solarize 0.6 3, equalize 0.6 0
posterize 0.8 5, equalize 1.0 0
rotate 0.2 3, solarize 0.6 8
equalize 0.6 0, posterize 0.4 6
rotate 0.8 8, saturation 0.4 0
rotate 0.4 9, equalize 0.6 0
equalize 0.0 0, equalize 0.8 0
invert 0.6 0, equalize 1.0 0
saturation 0.6 4, contrast 1.0 8
rotate 0.8 8, saturation 1.0 2
saturation 0.8 8, solarize 0.8 7
sharpness 0.4 7, invert 0.6 0
shear_x 0.6 5, equalize 1.0 0
saturation 0.4 0, equalize 0.6 0
equalize 0.4 0, solarize 0.2 4
solarize 0.6 5, autocontrast 0.6 0
invert 0.6 0, equalize 1.0 0
saturation 0.6 4, contrast 1.0 8
equalize 0.8 0, equalize 0.6 0
"""),
}
