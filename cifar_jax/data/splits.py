"""Held-out validation images, and the statistics of training images."""

import numpy as np
from sklearn import model_selection

from cifar_jax import UserError
from cifar_jax.data.dataset import Examples


def hold_out(
    examples: Examples, size: float, *, seed: int, stratified: bool = True
) -> tuple[Examples, Examples]:
    """Splits off validation images.

    Args:
      examples: Labelled images to split.
      size: Size of the validation set: a share below 1, or a number of images.
      seed: Seed of the draw. The same seed gives the same split everywhere.
      stratified: Whether each class keeps its proportion; otherwise all images are
        drawn alike, whatever their classes.

    Returns:
      The images for training and those for validation, each in their old order.
    """
    count = round(size * len(examples) if size < 1 else size)
    least, needed, has_pairs = 1, "an image on both sides", True
    if stratified:
        _, counts = np.unique(examples.labels, return_counts=True)
        least, has_pairs = len(counts), counts.min() >= 2
        needed = f"each of the {least} classes {needed}"
    if not (least <= count <= len(examples) - least and has_pairs):
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
    # A channel without contrast is not scaled, rather than divided by zero.
    std = np.sqrt(np.where(variance > 0, variance, 1.0))
    return mean.astype(np.float32), std.astype(np.float32)
