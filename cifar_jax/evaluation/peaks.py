"""What a device can do at most: the ceilings that a speed is a share of."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

REPEATS = 10
CALLS = 5  # in a row, so that the dispatch is hidden


def flops(dtype: Any) -> float:
    """Returns the FLOP/s of a large matrix product on the first device.

    The numbers are random: a chip clocks higher on zeros and ones.

    Args:
      dtype: Of the numbers.
    """
    size = 1536 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
    return 2 * size**3 / _best_seconds(jax.jit(jnp.matmul), a, b)


def bandwidth() -> float:
    """Returns the bytes a second, read and written, of a pass over a large array."""
    size = 2**24 if jax.default_backend() == "cpu" else 2**26  # far above a cache
    array = jax.random.normal(jax.random.key(0), (size,))
    return 2 * array.nbytes / _best_seconds(jax.jit(lambda x: x + 1), array)


def _best_seconds(function: Callable, *args: jax.Array) -> float:
    """Returns the shortest time of a call."""

    def seconds():
        start = time.perf_counter()
        jax.block_until_ready([function(*args) for _ in range(CALLS)])
        return (time.perf_counter() - start) / CALLS

    seconds()
    return min(seconds() for _ in range(REPEATS))
