"""Indices of the images of each batch: pure functions of seed, epoch and position."""

from collections.abc import Iterator

import jax
import numpy as np


def epoch_order(key: jax.Array, epoch: jax.Array, num_examples: int) -> jax.Array:
    """Returns the order of the images in an epoch, int32 [N].

    In batches of B images, an epoch takes the first N // B * B of them, and skips the
    rest, less than a batch. Each epoch skips other images.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def every_example(
    num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches that hold every example exactly once.

    Yields:
      Indices int32 [B], and a mask bool [B] that is False where the last batch is
      filled up.
    """
    for start in range(0, num_examples, batch_size):
        index = np.arange(start, start + batch_size, dtype=np.int32)
        yield np.minimum(index, num_examples - 1), index < num_examples
