"""Transforms that mix images of a batch, and their labels in the same proportions.

Each image is mixed with the ones that follow it in the batch, the last with the first:
the order of a batch is already random, and neighbours cost no shuffle between devices.
Every draw is made for each image on its own. Images are NHWC in [0, 255].
"""

import jax
import jax.numpy as jnp

from cifar_jax.data.augment import checks
from cifar_jax.data.augment.erasing import box_mask
from cifar_jax.data.augment.warp import gather, optimization_barrier


def mixup(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 0.2,
    p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Mixup (Zhang et al., 2017, arXiv:1710.09412): a weighted mean of two images.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C]; float32 is returned.
      labels: float [B, K], a probability for each class.
      alpha: Parameter of the first image's weight, which is Beta(alpha, alpha); 0 is
        the identity.
      p: Fraction of the images that are mixed.
    """
    weights = _draw_shares(key, images.shape[:1], alpha=alpha, p=p)
    images = images.astype(jnp.float32)
    mixed = _lerp(images, weights[:, None, None, None])
    return mixed, _lerp(labels, weights[:, None])


def cutmix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    alpha: float = 1.0,
    p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """CutMix (Yun et al., 2019, arXiv:1905.04899): a box of another image.

    The box has the image's shape, a uniform pixel for centre, and is cut off at the
    edges; the labels are mixed by the pixels that remain of it.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C].
      labels: float [B, K], a probability for each class.
      alpha: Parameter of the first image's share, which is Beta(alpha, alpha) before
        the box is cut off; 0 is the identity.
      p: Fraction of the images that are mixed.
    """
    batch, height, width, _ = images.shape
    share_key, centre_key = jax.random.split(key)
    shares = _draw_shares(share_key, (batch,), alpha=alpha, p=p)
    sides = jnp.array([[height, width]])
    box = sides.astype(jnp.float32) * jnp.sqrt(1 - shares)[:, None]
    box = jnp.floor(box).astype(jnp.int32)
    centre = jax.random.randint(centre_key, (batch, 2), 0, sides)
    # As the authors: half the box, rounded down, on either side of the centre.
    corner, box = centre - box // 2, box // 2 * 2
    mask = box_mask(corner, box, (height, width))
    weights = 1 - mask.mean(axis=(1, 2))
    mixed = jnp.where(mask[..., None], jnp.roll(images, -1, axis=0), images)
    return mixed, _lerp(labels, weights[:, None])


def ricap(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    beta: float = 0.3,
    p: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """RICAP (Takahashi et al., 2018, arXiv:1811.09030): patches of four images.

    Four crops at uniform offsets meet at a point whose coordinates are Beta(beta, beta)
    shares of the sides, rounded to a pixel.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C].
      labels: float [B, K], a probability for each class.
      beta: Parameter of the point's distribution; 0 is the identity.
      p: Fraction of the images that are mixed.
    """
    batch, height, width, _ = images.shape
    shares_key, offset_key = jax.random.split(key)
    shares = _draw_shares(shares_key, (batch, 2), alpha=beta, p=p)
    sides = jnp.array([[height, width]])
    point = jnp.round(shares * sides.astype(jnp.float32))  # [B, 2]: row and column
    point = point.astype(jnp.int32)
    rows, columns, areas = _place_patches(offset_key, point, height, width)
    stack = jnp.concatenate([jnp.roll(images, -k, axis=0) for k in range(4)], axis=1)
    mixed = gather(optimization_barrier(stack, key), rows, columns)
    shares = areas.astype(labels.dtype) / (height * width)
    mixed_labels = jnp.zeros_like(labels)
    for k in range(4):
        mixed_labels += shares[:, k : k + 1] * jnp.roll(labels, -k, axis=0)
    return mixed, mixed_labels


def _place_patches(key: jax.Array, point: jax.Array, height: int, width: int):
    """Draws crops of four images that meet at a point: int32 [B, 2], row and column.

    Patch k of [top left, top right, bottom left, bottom right] is from the k-th image.
    Returns int32 [B, H, W] source rows and columns in the four images, one below
    another, and int32 [B, 4] areas of the patches.
    """
    batch, sides = point.shape[0], jnp.array([[height, width]])
    (top, left), (bottom, right) = point.T, (sides - point).T
    heights = jnp.stack([top, top, bottom, bottom], axis=1)  # [B, 4]
    widths = jnp.stack([left, right, left, right], axis=1)  # [B, 4]
    slack = sides[None] - jnp.stack([heights, widths], axis=-1)  # [B, 4, 2]
    starts = jax.random.randint(key, (batch, 4, 2), 0, slack + 1)
    row, column = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None]
    below, beside = (row >= point[:, :1, None]), (column >= point[:, 1:, None])
    patch = jnp.where(below, 2, 0) + jnp.where(beside, 1, 0)  # [B, H, W]
    is_patch = patch[..., None] == jnp.arange(4)[None, None, None]
    start = jnp.where(is_patch[..., None], starts[:, None, None], 0).sum(axis=3)
    rows = row + start[..., 0] - jnp.where(below, point[:, :1, None], 0)
    columns = column + start[..., 1] - jnp.where(beside, point[:, 1:, None], 0)
    return rows + patch * height, columns, heights * widths


def _draw_shares(
    key: jax.Array, shape: tuple[int, ...], *, alpha: float, p: float
) -> jax.Array:
    """Returns Beta(alpha, alpha) draws, and 1 for the images that stay unmixed."""
    checks.require(alpha >= 0, f"the Beta distribution's parameter is {alpha}", ">= 0")
    p = checks.probability(p)
    if alpha == 0:
        return jnp.ones(shape)
    beta_key, chosen_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, p, shape[:1])
    chosen = chosen.reshape(-1, *(1,) * (len(shape) - 1))
    return jnp.where(chosen, _draw_beta(beta_key, alpha, shape), 1.0)


def _draw_beta(key: jax.Array, alpha: float, shape: tuple[int, ...]) -> jax.Array:
    """Returns Beta(alpha, alpha) draws, exact but for float32, without rejection.

    JAX's rejects draws until all of a batch are good: on a GPU the host waits for every
    round. The coordinate of a point that is uniform on a sphere is Beta(a, a), moved to
    [-1, 1], and takes two uniform numbers (Ulrich, 1984, "Computer generation of
    distributions on the m-sphere"). With a = alpha + 1 it is the share of one of two
    Gamma(alpha + 1) numbers, and one of Gamma(alpha) is such a number times
    u^(1 / alpha) (Marsaglia & Tsang, 2000).
    """
    if alpha == 1:
        return jax.random.uniform(key, shape)
    uniform = jax.random.uniform(key, (4, *shape), minval=jnp.finfo(jnp.float32).tiny)
    radius = jnp.sqrt(-jnp.expm1(jnp.log(uniform[0]) / (alpha + 0.5)))
    coordinate = radius * jnp.cos(2 * jnp.pi * uniform[1])
    odds = jnp.log1p(coordinate) - jnp.log1p(-coordinate)
    return jax.nn.sigmoid(odds + (jnp.log(uniform[2]) - jnp.log(uniform[3])) / alpha)


def _lerp(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns each row times its weight, plus the next row times what remains."""
    return x * weights + jnp.roll(x, -1, axis=0) * (1 - weights)
