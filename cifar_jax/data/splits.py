"""Held-out validation images, and the statistics of training images."""

import dataclasses

import numpy as np

from cifar_jax import UserError
from cifar_jax.data.dataset import Examples, histogram


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
    classes, counts = np.unique(examples.labels, return_counts=True)
    if stratified:
        least, has_pairs = len(counts), counts.min() >= 2
        needed = f"each of the {least} classes {needed}"
    if not (least <= count <= len(examples) - least and has_pairs):
        raise UserError(
            f"data.validation is {size}, {count:,} of {len(examples):,} images; it "
            f"must leave {needed}"
        )
    # Do not change the draws, which are those of scikit-learn's train_test_split: each
    # seed would have another validation set.
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(examples), bool)
    if stratified:
        kept = _allot(counts, len(examples) - count, random)
        drawn = _allot(counts - kept, count, random)
        for label, first, number in zip(classes, kept, drawn, strict=True):
            order = random.permutation(np.flatnonzero(examples.labels == label))
            held_out[order[first : first + number]] = True
    else:
        held_out[random.permutation(len(examples))[:count]] = True
    train, validation = examples[~held_out], examples[held_out]
    if examples.histogram is not None:  # cheaper than counting the training images
        rest = examples.histogram - histogram(validation.images)
        train = dataclasses.replace(train, histogram=rest)
    return train, validation


def _allot(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """Shares a number of draws out among classes of these sizes, int [K]."""
    shares = counts / counts.sum() * total
    allotted = np.floor(shares)
    rests = shares - allotted
    for rest in np.unique(rests)[::-1]:  # the largest first; ties are drawn
        if missing := int(total - allotted.sum()):
            tied = np.flatnonzero(rests == rest)
            number = min(len(tied), missing)
            allotted[random.choice(tied, number, replace=False)] += 1
    return allotted.astype(int)


def channel_statistics(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, with pixels in [0, 1].

    Args:
      examples: Images whose histogram is known or not.

    Returns:
      Two float32 [C], exact up to their rounding: they come from a histogram.
    """
    values = np.arange(256) / 255
    counts = examples.histogram
    if counts is None:
        counts = histogram(examples.images)
    shares = counts / counts.sum(axis=1, keepdims=True)  # [C, 256]
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    # A channel without contrast is not scaled, rather than divided by zero.
    std = np.sqrt(np.where(variance > 0, variance, 1.0))
    return mean.astype(np.float32), std.astype(np.float32)
