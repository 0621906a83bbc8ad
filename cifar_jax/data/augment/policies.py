"""Augmentation policies: per image, a few operations at drawn magnitudes.

As torchvision on PIL images, on whole levels (floats are rounded to them). A layer of a
policy applies one operation to each image: all geometric ones are one affine sampling,
all enhancements one blend, the others one pass each.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data.augment import checks, color
from cifar_jax.data.augment import policy_tables as tables
from cifar_jax.data.augment.geometry import Interpolation
from cifar_jax.data.augment.warp import affine_matrices, warp

CHUNK = 16  # images; of 8 to 64 the fastest on two cores, by a little


def auto_augment(
    key: jax.Array,
    images: jax.Array,
    *,
    policy: Literal["cifar10", "imagenet"] = "cifar10",
    p: float = 1.0,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """AutoAugment (Cubuk et al., 2018, arXiv:1805.09501): one of 25 sub-policies.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C]; floats are rounded to whole levels.
      policy: "cifar10" or "imagenet".
      p: Fraction of the images that are transformed; 0 is the identity.
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    known = " or ".join(map(repr, tables.SUB_POLICIES))
    checks.require(policy in tables.SUB_POLICIES, f"policy is {policy!r}", known)
    batch, height, width, _ = images.shape
    operations, probabilities, levels = tables.SUB_POLICIES[policy]
    table = tables.magnitudes(tables.AUTO_AUGMENT, height=height, width=width)
    policy_key, use_key, layers_key = jax.random.split(key, 3)
    chosen = jax.random.randint(policy_key, (batch, 1), 0, len(operations))
    chosen = 2 * chosen + np.arange(2)[None]  # both operations of the sub-policy
    used = jax.random.uniform(use_key, (batch, 2)) < _look_up(probabilities, chosen)
    drawn = jnp.where(used, _look_up(operations, chosen), 0)
    strengths = _look_up(table[operations, levels], chosen)
    return _apply_layers(layers_key, images, drawn, strengths, p, interpolation, fill)


def rand_augment(
    key: jax.Array,
    images: jax.Array,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    p: float = 1.0,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """RandAugment (Cubuk et al., 2019, arXiv:1909.13719): uniform operations.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C]; floats are rounded to whole levels.
      num_ops: Number of operations in a row; 0 is the identity.
      magnitude: Level of all operations, 0 to 30.
      p: Fraction of the images that are transformed; 0 is the identity.
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    batch, height, width, _ = images.shape
    checks.require(num_ops >= 0, f"num_ops is {num_ops}", "at least 0")
    table = tables.magnitudes(tables.RAND_AUGMENT, height=height, width=width)
    checks.require(
        0 <= magnitude < table.shape[1],
        f"magnitude is {magnitude}",
        f"a level from 0 to {table.shape[1] - 1}",
    )
    choice_key, layers_key = jax.random.split(key)
    num_choices = len(tables.UNIFORM_CHOICES)
    drawn = jax.random.randint(choice_key, (batch, num_ops), 0, num_choices)
    strengths = _look_up(table[:, magnitude], drawn)
    return _apply_layers(layers_key, images, drawn, strengths, p, interpolation, fill)


def trivial_augment_wide(
    key: jax.Array,
    images: jax.Array,
    *,
    p: float = 1.0,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """TrivialAugment Wide (Müller & Hutter, 2021, arXiv:2103.10158).

    One uniform operation for each image, at a uniform level.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C]; floats are rounded to whole levels.
      p: Fraction of the images that are transformed; 0 is the identity.
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    batch, height, width, _ = images.shape
    table = tables.magnitudes(tables.TRIVIAL_AUGMENT_WIDE, height=height, width=width)
    choice_key, level_key, layers_key = jax.random.split(key, 3)
    num_choices, num_levels = len(tables.UNIFORM_CHOICES), table.shape[1]
    drawn = jax.random.randint(choice_key, (batch, 1), 0, num_choices)
    levels = jax.random.randint(level_key, (batch, 1), 0, num_levels)
    strengths = _look_up(table, drawn * num_levels + levels)
    return _apply_layers(layers_key, images, drawn, strengths, p, interpolation, fill)


def _look_up(table: np.ndarray, index: jax.Array) -> jax.Array:
    """Returns a table's entries at a flat index, [B, N]; gathers are slow on TPUs."""
    chosen = index[..., None] == np.arange(table.size)[None, None]
    return jnp.where(chosen, table.ravel()[None, None], 0).sum(axis=-1)


def _is_among(operations: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """Returns bool: whether each operation is one of those named."""
    positions = np.flatnonzero(np.isin(tables.OPERATIONS, names))
    return jnp.isin(operations, positions, method="compare_all")


def _apply_layers(
    key: jax.Array,
    images: jax.Array,
    drawn: jax.Array,
    strengths: jax.Array,
    p: float,
    interpolation: Interpolation,
    fill: float | tuple[float, ...],
) -> jax.Array:
    """Applies [B, layers] operations, of random sign, to a fraction `p` of the images.

    Returns images of the dtype that they had.
    """
    p = checks.probability(p)
    sign_key, use_key = jax.random.split(key)
    used = jax.random.bernoulli(use_key, p, (images.shape[0], 1))
    drawn = jnp.where(used, drawn, 0)
    flipped = jax.random.bernoulli(sign_key, 0.5, drawn.shape)
    signs = jnp.where(_is_among(drawn, tables.SIGNED) & flipped, -1.0, 1.0)
    levels = color.as_levels(images)
    strengths = signs * strengths
    for layer in range(drawn.shape[1]):
        levels = apply_operations(
            levels,
            drawn[:, layer],
            strengths[:, layer],
            interpolation=interpolation,
            fill=fill,
        )
    return levels.astype(images.dtype)


def apply_operations(
    levels: jax.Array,
    operations: jax.Array,
    magnitudes: jax.Array,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Applies one operation to each image.

    Args:
      levels: uint8 [B, H, W, C].
      operations: int32 [B], positions in `policy_tables.OPERATIONS`.
      magnitudes: float32 [B], signed, in the units of `policy_tables.magnitudes`.
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    solarize = tables.OPERATIONS.index("solarize")
    look = dict(interpolation=interpolation, fill=fill)
    functions = {
        tables.GEOMETRY: lambda x, kinds, sizes: warp(
            x, _matrices(kinds, sizes, *x.shape[1:3]), **look
        ),
        tables.ENHANCEMENTS: lambda x, kinds, changes: color.enhance(
            x, kinds, 1 + changes, names=tables.OPERATIONS
        ),
        ("posterize",): lambda x, _, bits: color.posterize(x, bits),
        # To invert is to solarize from level 0 up.
        ("solarize", "invert"): lambda x, kinds, thresholds: color.solarize(
            x, jnp.where(kinds == solarize, thresholds, 0.0)
        ),
        ("autocontrast",): lambda x, *_: color.autocontrast(x),
        ("equalize",): lambda x, *_: color.equalize(x),
    }
    # An image has one operation, so each of these sees the image as it came.
    for names, function in functions.items():
        mask = _is_among(operations, names)
        levels = apply_where(mask, function, levels, operations, magnitudes)
    return levels


def apply_where(
    mask: jax.Array, function: Callable, images: jax.Array, *arguments: jax.Array
) -> jax.Array:
    """Applies a function of single images to those of a batch that a mask selects.

    Accelerators apply it to all images and select: shapes are static, and no image
    leaves its device. A CPU goes through the selected ones, some at a time, and spends
    nothing on the others.

    Args:
      mask: bool [B].
      function: `(images, *arguments) -> images`, of the same shape and dtype. What it
        makes of an image must depend on nothing else in the batch.
      images: [B, H, W, C].
      *arguments: [B], one value for each image.
    """

    def everywhere(mask, images, *arguments):
        outputs = function(images, *arguments)
        return jnp.where(mask[:, None, None, None], outputs, images)

    def in_chunks(mask, images, *arguments):
        batch, padding = images.shape[0], -images.shape[0] % CHUNK
        order = jnp.pad(jnp.argsort(~mask), (0, padding), constant_values=batch)

        def apply_chunk(number, images):
            places = jax.lax.dynamic_slice_in_dim(order, number * CHUNK, CHUNK)
            # The last chunk may reach further than the mask, and than the batch.
            inside = jnp.minimum(places, batch - 1)
            parts = (x[inside] for x in (mask, images, *arguments))
            return images.at[places].set(everywhere(*parts), mode="drop")

        num_chunks = (mask.sum() + CHUNK - 1) // CHUNK
        return jax.lax.fori_loop(0, num_chunks, apply_chunk, images)

    return jax.lax.platform_dependent(
        mask, images, *arguments, cpu=in_chunks, default=everywhere
    )


def _matrices(
    operations: jax.Array, magnitudes: jax.Array, height: int, width: int
) -> jax.Array:
    """Returns [B, 2, 3] output-to-input maps; at most one of their terms acts.

    Rotation is about the centre, shear about the corner; positive magnitudes turn
    counter-clockwise and shift right and down.
    """
    # The magnitude of each operation where it is the image's, and elsewhere 0.
    acting = {
        name: jnp.where(operations == tables.OPERATIONS.index(name), magnitudes, 0.0)
        for name in tables.GEOMETRY
    }
    angles = acting["rotate"]
    still = jnp.zeros((angles.shape[0], 2))
    rotation = affine_matrices(
        -angles, still, jnp.ones_like(angles), still, height=height, width=width
    )
    zero = jnp.zeros_like(angles)
    rows = [
        [zero, acting["shear_x"], -acting["translate_x"]],
        [acting["shear_y"], zero, -acting["translate_y"]],
    ]
    return rotation + jnp.stack([jnp.stack(row, -1) for row in rows], axis=1)
