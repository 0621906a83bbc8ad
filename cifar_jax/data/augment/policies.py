"""Augmentation policies: per image, a few operations at drawn magnitudes.

As torchvision on PIL images, on whole levels (floats are rounded to them). A layer of a
policy applies one operation to each image: all geometric ones are one affine sampling
of the batch, all enhancements one blend, the others one pass each; each image then
takes the result that it drew.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data.augment import checks, color
from cifar_jax.data.augment import policy_tables as tables
from cifar_jax.data.augment.barrier import materialize
from cifar_jax.data.augment.geometry import Interpolation
from cifar_jax.data.augment.warp import affine_matrices, warp


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
        images: [B, H, W, C].
        policy: "cifar10" or "imagenet".
        p: share of the images; 0 is the identity.
        interpolation: "nearest" or "bilinear".
        fill: value outside the image, or one for each channel.
    """
    batch, height, width, _ = images.shape
    operations, probabilities, levels = tables.SUB_POLICIES[policy]
    table = tables.magnitudes(tables.AUTO_AUGMENT, height=height, width=width)
    policy_key, use_key, layers_key = jax.random.split(key, 3)
    chosen = jax.random.randint(policy_key, (batch,), 0, len(operations))
    used = jax.random.uniform(use_key, (batch, 2)) < jnp.array(probabilities)[chosen]
    drawn = jnp.where(used, jnp.array(operations)[chosen], 0)
    strengths = jnp.array(table[operations, levels])[chosen]
    return _apply_layers(
        layers_key,
        images,
        drawn,
        strengths,
        p=p,
        interpolation=interpolation,
        fill=fill,
    )


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
        images: [B, H, W, C].
        num_ops: operations in a row; 0 is the identity.
        magnitude: level of them all, 0 to 30.
        p: share of the images; 0 is the identity.
        interpolation: "nearest" or "bilinear".
        fill: value outside the image, or one for each channel.
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
    strengths = jnp.array(table[:, magnitude])[drawn]
    return _apply_layers(
        layers_key,
        images,
        drawn,
        strengths,
        p=p,
        interpolation=interpolation,
        fill=fill,
    )


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
        images: [B, H, W, C].
        p: share of the images; 0 is the identity.
        interpolation: "nearest" or "bilinear".
        fill: value outside the image, or one for each channel.
    """
    batch, height, width, _ = images.shape
    table = tables.magnitudes(tables.TRIVIAL_AUGMENT_WIDE, height=height, width=width)
    choice_key, level_key, layers_key = jax.random.split(key, 3)
    num_choices, num_levels = len(tables.UNIFORM_CHOICES), table.shape[1]
    drawn = jax.random.randint(choice_key, (batch, 1), 0, num_choices)
    levels = jax.random.randint(level_key, (batch, 1), 0, num_levels)
    strengths = jnp.array(table)[drawn, levels]
    return _apply_layers(
        layers_key,
        images,
        drawn,
        strengths,
        p=p,
        interpolation=interpolation,
        fill=fill,
    )


def _apply_layers(
    key: jax.Array,
    images: jax.Array,
    drawn: jax.Array,
    strengths: jax.Array,
    *,
    p: float,
    interpolation: Interpolation,
    fill: float | tuple[float, ...],
) -> jax.Array:
    """Applies [B, layers] operations, of random sign, to a share `p` of the images."""
    p = checks.probability(p)
    sign_key, use_key = jax.random.split(key)
    used = jax.random.bernoulli(use_key, p, (images.shape[0], 1))
    drawn = jnp.where(used, drawn, 0)
    is_signed = np.isin(tables.OPERATIONS, tables.SIGNED)
    flipped = jax.random.bernoulli(sign_key, 0.5, drawn.shape)
    signs = jnp.where(jnp.array(is_signed)[drawn] & flipped, -1.0, 1.0)
    levels = color.as_levels(images)
    strengths = signs * strengths
    for layer in range(drawn.shape[1]):
        levels = materialize(levels, use_key)
        levels = apply_operations(
            use_key,
            levels,
            drawn[:, layer],
            strengths[:, layer],
            interpolation=interpolation,
            fill=fill,
        )
    return levels.astype(images.dtype)


def apply_operations(
    key: jax.Array,
    levels: jax.Array,
    operations: jax.Array,
    magnitudes: jax.Array,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Applies one operation to each image.

    Args:
        key: any PRNG key; nothing is drawn.
        levels: uint8 [B, H, W, C].
        operations: int32 [B], positions in `policy_tables.OPERATIONS`.
        magnitudes: float32 [B], signed, in the units of `policy_tables.magnitudes`.
        interpolation: "nearest" or "bilinear".
        fill: value outside the image, or one for each channel.
    """

    def only(name, otherwise):
        return jnp.where(
            operations == tables.OPERATIONS.index(name), magnitudes, otherwise
        )

    factors = 1 + sum(only(name, 0.0) for name in color.DEGENERATES)
    matrices = _matrices(only, height=levels.shape[1], width=levels.shape[2])
    # An image has one operation, so each of these sees the image as it came.
    results = {
        tables.GEOMETRY: warp(levels, matrices, interpolation=interpolation, fill=fill),
        tables.ENHANCEMENTS: color.enhance(
            levels, operations, factors, names=tables.OPERATIONS
        ),
        ("posterize",): color.posterize(levels, only("posterize", 8.0)),
        ("solarize", "invert"): color.solarize(levels, only("solarize", 0.0)),
        ("autocontrast",): color.autocontrast(levels),
        ("equalize",): color.equalize(levels),
    }
    chosen = levels
    for names, result in results.items():
        is_among = jnp.array(np.isin(tables.OPERATIONS, names))[operations]
        chosen = color.where_image(is_among, materialize(result, key), chosen)
    return chosen


def _matrices(only, *, height: int, width: int) -> jax.Array:
    """Returns [B, 2, 3] output-to-input maps; at most one of their terms acts.

    Rotation is about the centre, shear about the corner; positive magnitudes turn
    counter-clockwise and shift right and down.
    """
    angles = only("rotate", 0.0)
    still = jnp.zeros((angles.shape[0], 2))
    rotation = affine_matrices(
        -angles, still, jnp.ones_like(angles), still, height=height, width=width
    )
    zero = jnp.zeros_like(angles)
    rows = [
        [zero, only("shear_x", 0.0), -only("translate_x", 0.0)],
        [only("shear_y", 0.0), zero, -only("translate_y", 0.0)],
    ]
    return rotation + jnp.stack([jnp.stack(row, -1) for row in rows], axis=1)
