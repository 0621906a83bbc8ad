"""Affine maps of batched NHWC images: matrices as torchvision, pixels as PIL.

A matrix takes an output position to an input position, (x, y) = M @ (x', y', 1), in
pixels, with pixel centres at half-integers. One gather on a flat index samples a batch;
on a TPU, where gathers are slow, a product with one-hot matrices does the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data.augment import checks

FIXED_POINT_BITS = 16  # of the fraction, in PIL's nearest-neighbour sampling


def affine_matrices(
    angles: jax.Array,
    translations: jax.Array,
    scales: jax.Array,
    shears: jax.Array,
    *,
    height: int,
    width: int,
) -> jax.Array:
    """Returns the output-to-input maps of torchvision's `F.affine`, about the centre.

    Args:
      angles: float32 [B], degrees, clockwise as seen.
      translations: float32 [B, 2], pixels along x and y.
      scales: float32 [B]; above 1 enlarges.
      shears: float32 [B, 2], degrees along x and y.
      height: Height of the images in pixels.
      width: Width of the images in pixels.

    Returns:
      float32 [B, 2, 3].
    """
    angle, shear_x, shear_y = (
        jnp.deg2rad(degrees) for degrees in (angles, shears[:, 0], shears[:, 1])
    )
    cos, sin = jnp.cos(angle - shear_y), jnp.sin(angle - shear_y)
    a = cos / jnp.cos(shear_y)
    b = -a * jnp.tan(shear_x) - jnp.sin(angle)
    c = sin / jnp.cos(shear_y)
    d = -c * jnp.tan(shear_x) + jnp.cos(angle)
    # The inverse of [[a, b], [c, d]], whose determinant is 1.
    linear = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], axis=-2)
    linear = linear / scales[:, None, None]  # [B, 2, 2]
    centre = jnp.array([width / 2, height / 2])[None]
    offset = centre - (linear * (centre + translations)[:, None]).sum(axis=-1)
    return jnp.concatenate([linear, offset[:, :, None]], axis=-1)


def warp(
    images: jax.Array,
    matrices: jax.Array,
    *,
    interpolation: str = "nearest",
    fill: float | tuple[float, ...] = 0,
) -> jax.Array:
    """Samples each image at the positions that its matrix gives.

    Args:
      images: uint8 or float [B, H, W, C].
      matrices: float32 [B, 2, 3], output to input.
      interpolation: "nearest" or "bilinear", as in PIL: an output whose position lies
        outside the image takes `fill`; inside, bilinear repeats the edge.
      fill: Value of pixels outside the image, or one for each channel.

    Returns:
      [B, H, W, C] of the dtype of `images`.
    """
    methods = {"nearest": _nearest, "bilinear": _bilinear}
    named = f"interpolation is {interpolation!r}"
    checks.require(interpolation in methods, named, "'nearest' or 'bilinear'")
    pixels, inside = methods[interpolation](images, matrices)
    return jnp.where(inside[..., None], pixels, fill_color(images, fill))


def fill_color(images: jax.Array, fill: float | tuple[float, ...]) -> jax.Array:
    """Returns the fill as [1, 1, 1, C] of the dtype of `images`."""
    num_channels = images.shape[-1]
    values = fill if isinstance(fill, tuple | list) else (fill,) * num_channels
    checks.require(
        len(values) == num_channels and all(0 <= value <= 255 for value in values),
        f"fill is {fill}",
        f"one value in [0, 255], or one for each of {num_channels} channels",
    )
    return jnp.array(values, images.dtype)[None, None, None]


def _nearest(images: jax.Array, matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the pixels and whether they are inside, in PIL's fixed-point arithmetic.

    Integers decide alike on every device on which side of a pixel border a point lies.
    """
    height, width = images.shape[1:3]
    linear = matrices[:, :, :2]
    offset = matrices[:, :, 2] + linear.sum(axis=-1) / 2
    terms = jnp.concatenate([linear, offset[..., None]], axis=-1)
    terms = jnp.floor(terms * 2**FIXED_POINT_BITS + 0.5).astype(jnp.int32)
    x, y, start = (terms[:, :, k, None, None] for k in range(3))  # [B, 2, 1, 1]
    steps = x * jnp.arange(width)[None, None, None, :]
    steps += y * jnp.arange(height)[None, None, :, None]
    position = (steps + start) >> FIXED_POINT_BITS
    columns, rows = position[:, 0], position[:, 1]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return gather(images, rows, columns), inside


def _bilinear(images: jax.Array, matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the pixels and whether they are inside; the edge is repeated."""
    height, width = images.shape[1:3]
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32) + 0.5
    grid = jnp.stack([x, y, jnp.ones_like(x)])[None, None]  # [1, 1, 3, H, W]
    position = (matrices[..., None, None] * grid).sum(axis=2)  # [B, 2, H, W]
    x, y = position[:, 0], position[:, 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    dx, dy = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
    columns, rows = left.astype(jnp.int32), top.astype(jnp.int32)

    def sample_row(offset):
        first = gather(images, rows + offset, columns).astype(jnp.float32)
        second = gather(images, rows + offset, columns + 1).astype(jnp.float32)
        return first + (second - first) * dx

    pixels = sample_row(0) + (sample_row(1) - sample_row(0)) * dy
    if jnp.issubdtype(images.dtype, jnp.integer):
        pixels = pixels + 1e-3  # PIL cuts fractions off; not those that float32 made
    return pixels.astype(images.dtype), inside


def gather(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the pixels at int32 [B, H', W'] positions, or the nearest inside."""
    _, height, width, _ = images.shape
    return jax.lax.platform_dependent(
        images,
        jnp.clip(rows, 0, height - 1),
        jnp.clip(columns, 0, width - 1),
        tpu=_gather_by_products,
        default=_gather_by_index,
    )


def _gather_by_index(images: jax.Array, rows: jax.Array, columns: jax.Array):
    _, height, width, num_channels = images.shape
    pixels = images.reshape(-1, height * width, num_channels)
    # A vmapped gather keeps the batch a batch: it stays on its device when sharded.
    take = jax.vmap(lambda image, i: image.at[i].get(mode="promise_in_bounds"))
    return take(pixels, rows * width + columns)


def _gather_by_products(images: jax.Array, rows: jax.Array, columns: jax.Array):
    """Chooses rows by products with one-hot matrices, then columns by selection.

    It is exact, since each sum has one term that is not zero. float32 holds up to three
    channels of 8 bits in one number; bfloat16, whose products are the fast ones, holds
    each of them times a power of two. Other images take a float32 product a channel.
    """
    batch, height, width, num_channels = images.shape
    is_packed = images.dtype == jnp.uint8
    depth, dtype = (3, jnp.bfloat16) if is_packed else (1, jnp.float32)
    row, column = (x.reshape(batch, 1, -1) for x in (rows, columns))
    is_column = column == jnp.arange(width)[None, :, None]  # [B, W, H' * W']
    channels = []
    for first in range(0, num_channels, depth):
        part = images[..., first : first + depth].astype(jnp.float32)
        powers = 256.0 ** np.arange(part.shape[-1])
        table = (part * powers[None, None, None]).astype(dtype)
        levels = np.arange(len(powers) * height)
        table = table.transpose(0, 2, 3, 1).reshape(batch, width, len(levels))
        is_row = (row == (levels % height)[None, :, None]).astype(dtype)
        chosen = jnp.einsum(
            "bwk,bkp->bwp",
            table,
            is_row,
            precision=None if is_packed else "highest",
            preferred_element_type=jnp.float32,
        )
        found = jnp.where(is_column, chosen, 0).sum(axis=1)
        if is_packed:
            found = found.astype(jnp.int32)
            channels += [found >> 8 * k & 255 for k in range(len(powers))]
        else:
            channels.append(found)
    pixels = jnp.stack(channels, axis=-1).reshape(*rows.shape, num_channels)
    return pixels.astype(images.dtype)


def optimization_barrier(images: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the images as they are, computed once on a CPU.

    XLA:CPU drops `lax.optimization_barrier` and fuses what made an array into each of
    its users, so a chain of gathers is computed many times over: report 004's took 13
    times as long. It does not fuse across a conditional, and keeps one whose branch
    depends on the key alone; both branches are the identity. Accelerators fuse freely.
    """

    def through_conditional(images):
        bit = jax.random.key_data(key).ravel()[0] % 2
        return jax.lax.cond(
            bit == 0,
            lambda images, bit: images,
            lambda images, bit: images + (bit - 1).astype(images.dtype),
            images,
            bit,
        )

    return jax.lax.platform_dependent(
        images, cpu=through_conditional, default=lambda images: images
    )
