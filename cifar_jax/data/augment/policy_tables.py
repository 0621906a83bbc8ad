"""The numbers of the augmentation policies: operations, sub-policies, magnitudes.

Levels run from 0 to the number of bins less one. Operations whose magnitude has two
directions take either with equal chance.
"""

import dataclasses
import pathlib
import tomllib

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


def _read_sub_policies() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Reads sub_policies.toml.

    Returns:
      By policy, int32 operations, float32 probabilities and int32 levels, each
      [sub-policies, 2].
    """
    path, policies = pathlib.Path(__file__).with_name("sub_policies.toml"), {}
    for policy, text in tomllib.loads(path.read_text("utf-8")).items():
        lines = text.strip().split("\n")
        words = [[step.split() for step in line.split(",")] for line in lines]
        names, probabilities, levels = np.moveaxis(np.array(words), -1, 0)
        operations = np.vectorize(OPERATIONS.index)(names)
        numbers = probabilities.astype(np.float32), levels.astype(np.int32)
        policies[policy] = operations, *numbers
    return policies


SUB_POLICIES = _read_sub_policies()
