"""This project's training step with one thing done in another way."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from cifar_jax.evaluation.contenders import Ours

ALIGNMENT = 8  # channels; bfloat16 in 16 bytes
_NCHW = ("NCHW", "HWIO", "NCHW")


def convolve_aligned(x: jax.Array, kernel: jax.Array, window_strides, padding, **rest):
    """As `lax.conv_general_dilated`, with zero channels up to a multiple of 8."""
    *_, inputs, outputs = kernel.shape
    more_in, more_out = -inputs % ALIGNMENT, -outputs % ALIGNMENT
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more_in)))
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, more_in), (0, more_out)))
    found = lax.conv_general_dilated(x, kernel, window_strides, padding, **rest)
    return found[..., :outputs]


def convolve_nchw(x: jax.Array, kernel: jax.Array, window_strides, padding, **rest):
    """As `lax.conv_general_dilated` of NHWC maps, by way of NCHW."""
    found = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2),
        kernel,
        window_strides,
        padding,
        **rest | {"dimension_numbers": _NCHW},
    )
    return found.transpose(0, 2, 3, 1)


def _with_norm(**options) -> Callable:
    return lambda model: model.clone(norm=functools.partial(model.norm, **options))


# What makes another network of one, by name.
CHANGES = {
    "": lambda model: model,
    "aligned": lambda model: model.clone(convolve=convolve_aligned),
    "nchw": lambda model: model.clone(convolve=convolve_nchw),
    "lax": lambda model: model.clone(convolve=None),
    "norm_in_dtype": _with_norm(force_float32_reductions=False),
    "norm_two_pass": _with_norm(use_fast_variance=False),
}


class Variant(Ours):
    """This project's step, changed.

    Args:
      argument: A config, and a key of `CHANGES`.
    """

    def __init__(self, argument: tuple[ConfigDict, str]):
        config, change = argument
        super().__init__(config, CHANGES[change])

    def pools(self, repeats: int) -> dict[str, float]:
        """Returns the milliseconds of 2x2 pooling and its gradient, by form.

        On the maps of the first stage, in the network's dtype; the least of the
        repeats.

        Args:
          repeats: How often each is timed.
        """
        model = self._setup.model
        height, width = (size // 2 for size in self._setup.source.image_shape[:2])
        batch, channels = self._batch_size, model.design.widths[0]
        keys = jax.random.split(jax.random.key(0))
        shape = (batch, 2 * height, 2 * width, channels)
        x = jax.random.normal(keys[0], shape, model.dtype)
        shape = (batch, height, width, channels)
        gradient = jax.random.normal(keys[1], shape, model.dtype)
        return {
            name: _milliseconds(pool, x, gradient, repeats)
            for name, pool in POOLS.items()
        }


def _milliseconds(pool: Callable, x, gradient, repeats: int) -> float:
    @jax.jit
    def both(x, gradient):
        y, backward = jax.vjp(pool, x)
        return y, backward(gradient)

    def seconds():
        start = time.perf_counter()
        jax.block_until_ready(both(x, gradient))
        return time.perf_counter() - start

    seconds()
    return 1000 * min(seconds() for _ in range(repeats))


def _windows(x: jax.Array) -> jax.Array:
    """Returns [B, H / 2, 2, W / 2, 2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _reduce(x: jax.Array, start: float, by: Callable) -> jax.Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, start, by, window, window, "VALID")


POOLS = {
    "max, reduce_window": lambda x: _reduce(x, -jnp.inf, lax.max),
    "max, reshape": lambda x: _windows(x).max(axis=(2, 4)),
    "mean, reduce_window": lambda x: _reduce(x, 0.0, lax.add) / 4,
    "mean, reshape": lambda x: _windows(x).mean(axis=(2, 4)),
    "every other pixel": lambda x: x[:, ::2, ::2],
}
