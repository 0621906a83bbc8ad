"""Held-out validation images, and the statistics of the others."""

import numpy as np
from sklearn import model_selection

from cifar_jax import UserError
from cifar_jax.data.sources import Examples


def hold_out(
    examples: Examples, size: float, *, seed: int, stratified: bool = True
) -> tuple[Examples, Examples]:
    """Splits off validation images.

    Args:
      examples: What to split.
      size: A share below 1, or a count.
      seed: The same seed gives the same split everywhere.
      stratified: Each class in its proportion; otherwise the images are drawn alike,
        whatever their classes.

    Returns:
      The images for training and those for validation, each in their old order.

    Raises:
      UserError: If either part would be empty or, stratified, smaller than the number
        of classes.
    """
    classes, counts = np.unique(examples.labels, return_counts=True)
    count = round(size * len(examples) if size < 1 else size)
    least, needed = 1, "an image on both sides"
    if stratified:
        least = len(classes)
        needed = f"each of the {least} classes {needed}"
    is_single = stratified and counts.min() < 2
    if not least <= count <= len(examples) - least or is_single:
        raise UserError(
            f"data.validation is {size}, {count:,} of {len(examples):,} images; it "
            f"must leave {needed}"
        )
    train, validation = model_selection.train_test_split(
        np.arange(len(examples)),
        test_size=count,
        stratify=examples.labels if stratified else None,
        random_state=seed,
    )
    return examples[np.sort(train)], examples[np.sort(validation)]


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, with pixels in [0, 1].

    Args:
      images: uint8 [N, H, W, C].

    Returns:
      Two float32 [C], exact up to their rounding: they come from a histogram.
    """
    values = np.arange(256) / 255
    channels = np.moveaxis(images, -1, 0)
    counts = np.stack([np.bincount(c.ravel(), minlength=256) for c in channels])
    shares = counts / counts.sum(axis=1, keepdims=True)  # [C, 256]
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    # A channel without contrast is left as it is rather than divided by zero.
    std = np.sqrt(np.where(variance > 0, variance, 1.0))
    return mean.astype(np.float32), std.astype(np.float32)
