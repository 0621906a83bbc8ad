"""Transforms that move pixels. Images are NHWC, uint8 or float, in [0, 255]."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from cifar_jax.data.augment import checks
from cifar_jax.data.augment.warp import affine_matrices, warp

Interpolation = Literal["nearest", "bilinear"]


def random_crop(
    key: jax.Array,
    images: jax.Array,
    *,
    padding: int = 4,
    mode: Literal["zero", "reflect"] = "zero",
) -> jax.Array:
    """Pads each image and cuts a window of its old size at a uniform offset.

    As torchvision's `RandomCrop(size, padding)`. No interpolation; the padding is 0, or
    the mirrored image without its edge row.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C], in [0, 255].
      padding: Number of pixels on each side; 0 is the identity.
      mode: "zero" or "reflect".
    """
    modes = {"zero": "constant", "reflect": "reflect"}  # names in jax.numpy
    checks.require(mode in modes, f"mode is {mode!r}", "'zero' or 'reflect'")
    batch, height, width, _ = images.shape
    limit = min(height, width) - (mode == "reflect")
    checks.require(
        0 <= padding <= limit,
        f"padding is {padding}",
        f"0 to {limit} pixels for images of {height}x{width}",
    )
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, pad, mode=modes[mode])
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)
    shape = images.shape[1:]
    by_index = jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (*at, 0), shape))

    def by_selection(padded, corners):
        for axis, side in ((1, height), (2, width)):
            start = corners[:, axis - 1, None, None, None]
            cut = functools.partial(jax.lax.slice_in_dim, padded, axis=axis)
            padded = cut(0, side)
            for offset in range(1, 2 * padding + 1):
                padded = jnp.where(start == offset, cut(offset, offset + side), padded)
        return padded

    # A TPU would cut one image after another; elsewhere selections are slower.
    forms = dict(tpu=by_selection, default=by_index)
    return jax.lax.platform_dependent(padded, corners, **forms)


def random_flip(key: jax.Array, images: jax.Array, *, p: float = 0.5) -> jax.Array:
    """Mirrors each image left to right with probability `p`; 0 is the identity."""
    p = checks.probability(p)
    flipped = jax.random.bernoulli(key, p, images.shape[:1])
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def alternating_flip(
    key: jax.Array,
    images: jax.Array,
    *,
    epoch: jax.Array,
    index: jax.Array,
    run_key: jax.Array | None = None,
) -> jax.Array:
    """Mirrors each image in every other epoch (Jordan, 2024, arXiv:2404.00498).

    A pseudo-random half of the data set starts mirrored, so two epochs in a row always
    show each image from both sides.

    Args:
      key: PRNG key, unused: the side depends on the image and the epoch alone.
      images: uint8 or float [B, H, W, C].
      epoch: int32 scalar, or [B]: how often each image was seen before.
      index: int32 [B], each image's place in the data set.
      run_key: PRNG key of the run, which chooses the half that starts mirrored; None:
        that of the seed 0.
    """
    del key
    run_key = jax.random.key(0) if run_key is None else run_key
    image_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(run_key, index)
    flipped = jax.vmap(jax.random.bernoulli)(image_keys) ^ (epoch % 2 == 1)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def random_rotation(
    key: jax.Array,
    images: jax.Array,
    *,
    degrees: float = 10.0,
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Rotates each image about its centre by an angle uniform in [-degrees, degrees].

    As torchvision's `RandomRotation(degrees)` on PIL images.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C], in [0, 255].
      degrees: Largest angle; 0 is the identity.
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    return random_affine(
        key, images, degrees=degrees, interpolation=interpolation, fill=fill
    )


def random_affine(
    key: jax.Array,
    images: jax.Array,
    *,
    degrees: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    scale: tuple[float, float] = (1.0, 1.0),
    shear: tuple[float, float] = (0.0, 0.0),
    interpolation: Interpolation = "nearest",
    fill: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Rotates, shears, scales and shifts each image, in one sampling about its centre.

    As torchvision's `RandomAffine` on PIL images; its `shear=10` is (10, 0) here. The
    defaults are the identity.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C], in [0, 255].
      degrees: Largest angle; it is uniform in [-degrees, degrees].
      translate: Largest shifts along x and y, as fractions of the sides; they are
        uniform, and rounded to whole pixels.
      scale: Bounds of the factor, which is uniform; above 1 enlarges.
      shear: Largest shears along x and y in degrees; uniform in [-shear, shear].
      interpolation: "nearest" or "bilinear".
      fill: Value of pixels outside the image, or one for each channel.
    """
    batch, height, width, _ = images.shape
    checks.require_range("scale", scale, least=0.01)
    checks.require(degrees >= 0, f"degrees is {degrees}", "at least 0")
    checks.require(
        all(0 <= fraction <= 1 for fraction in translate),
        f"translate is {translate}",
        "fractions of the width and the height, in [0, 1]",
    )
    checks.require(
        all(0 <= angle < 90 for angle in shear),
        f"shear is {shear}",
        "degrees along x and y, in [0, 90)",
    )
    (shift_x, shift_y), (shear_x, shear_y) = translate, shear
    low = [-degrees, -shift_x, -shift_y, scale[0], -shear_x, -shear_y]
    high = [degrees, shift_x, shift_y, scale[1], shear_x, shear_y]
    low, high = (jnp.array(bound, jnp.float32)[None] for bound in (low, high))
    drawn = jax.random.uniform(key, (batch, 6), minval=low, maxval=high)
    angles, factors, shears = drawn[:, 0], drawn[:, 3], drawn[:, 4:]
    shifts = jnp.round(drawn[:, 1:3] * jnp.array([width, height], jnp.float32)[None])
    size = dict(height=height, width=width)
    matrices = affine_matrices(angles, shifts, factors, shears, **size)
    return warp(images, matrices, interpolation=interpolation, fill=fill)
