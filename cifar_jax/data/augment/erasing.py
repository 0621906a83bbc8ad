"""Transforms that paint a box of each image. Images are NHWC in [0, 255]."""

import math

import jax
import jax.numpy as jnp

from cifar_jax.data.augment import checks
from cifar_jax.data.augment.warp import fill_color

NUM_ATTEMPTS = 10  # as torchvision, before an image is left as it is


def box_mask(corner: jax.Array, box: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Returns bool [B, H, W]: the pixels of one box an image, cut off at its edges.

    Args:
      corner: int32 [B, 2], first row and column; may lie outside.
      box: int32 [B, 2], number of rows and columns.
      shape: (H, W) of the images.
    """
    inside = []
    for axis, side in enumerate(shape):
        start, place = corner[:, axis, None], jnp.arange(side)[None]
        inside.append((place >= start) & (place < start + box[:, axis, None]))
    in_rows, in_columns = inside
    return in_rows[:, :, None] & in_columns[:, None, :]


def cutout(
    key: jax.Array,
    images: jax.Array,
    *,
    size: int = 16,
    p: float = 1.0,
    value: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Cutout (DeVries & Taylor, 2017, arXiv:1708.04552): paints a square.

    Its centre is a uniform pixel, so it may reach over the edge. The paper's value is
    the data's mean (0 after normalisation); here it is a level before normalisation.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C], in [0, 255].
      size: Side of the square in pixels; 0 is the identity.
      p: Fraction of the images that are cut.
      value: Level of the square in [0, 255], or one for each channel.
    """
    checks.require(size >= 0, f"size is {size}", "at least 0 pixels")
    p = checks.probability(p)
    batch, height, width, _ = images.shape
    centre_key, chosen_key = jax.random.split(key)
    centre = jax.random.randint(centre_key, (batch, 2), 0, jnp.array([[height, width]]))
    corner = centre - size // 2
    chosen = jax.random.bernoulli(chosen_key, p, (batch, 1))
    box = jnp.where(chosen, jnp.array([[size, size]]), 0)
    mask = box_mask(corner, box, (height, width))
    return jnp.where(mask[..., None], fill_color(images, value), images)


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    *,
    p: float = 0.5,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    value: float | tuple[float, ...] = 0.0,
) -> jax.Array:
    """Random erasing (Zhong et al., 2017, arXiv:1708.04896), as in torchvision.

    The box lies inside the image: of ten draws of area and shape the first that fits is
    taken, and with none the image stays as it is.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C], in [0, 255].
      p: Fraction of the images that are erased; 0 is the identity.
      scale: Bounds of the box's area, as a fraction of the image's.
      ratio: Bounds of height to width, which is uniform in the logarithm.
      value: Level of the box in [0, 255], or one for each channel.
    """
    p = checks.probability(p)
    checks.require_range("scale", scale, least=0)
    checks.require_range("ratio", ratio, least=0.01)
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 4)
    tries = (batch, NUM_ATTEMPTS)
    low, high = (height * width * fraction for fraction in scale)
    area = jax.random.uniform(keys[0], tries, minval=low, maxval=high)
    low, high = map(math.log, ratio)
    aspect = jnp.exp(jax.random.uniform(keys[1], tries, minval=low, maxval=high))
    boxes = [jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))]
    boxes = jnp.stack(boxes, axis=-1).astype(jnp.int32)  # [B, tries, 2]
    sides = jnp.array([height, width])
    fits = (boxes < sides[None, None]).all(axis=-1)
    fits &= jax.random.bernoulli(keys[2], p, (batch, 1))
    is_first = fits & (jnp.cumsum(fits, axis=1) == 1)
    box = jnp.where(is_first[..., None], boxes, 0).sum(axis=1)
    corner = jax.random.randint(keys[3], (batch, 2), 0, sides[None] - box + 1)
    mask = box_mask(corner, box, (height, width))
    return jnp.where(mask[..., None], fill_color(images, value), images)
