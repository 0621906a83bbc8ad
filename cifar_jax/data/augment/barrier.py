"""A border that XLA:CPU does not fuse across."""

import jax


def materialize(images: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the images as they are, worked out once on a CPU.

    XLA:CPU drops `optimization_barrier` and fuses what made an array into each of its
    users, so a chain of gathers is worked out many times over: report 004's took 13
    times as long. It does not fuse across a conditional, and keeps one whose way only
    the key decides; both ways are the identity. Accelerators fuse as they like.
    """

    def through_conditional(images):
        bit = jax.random.key_data(key).ravel()[0] % 2
        return jax.lax.cond(bit == 0, _same, _same_if_one, images, bit)

    return jax.lax.platform_dependent(images, cpu=through_conditional, default=_same)


def _same(images: jax.Array, bit: jax.Array | None = None) -> jax.Array:
    del bit
    return images


def _same_if_one(images: jax.Array, bit: jax.Array) -> jax.Array:
    return images + (bit - 1).astype(images.dtype)
