"""Test-time augmentation: the mean of a network's logits over views of each image."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cifar_jax.config import TTA_NAMES

# The views of images [B, H, W, C], each with its weight in the mean. The first one is
# the images as they are.
Views = Callable[[jax.Array], list[tuple[float, jax.Array]]]


def _flip(images: jax.Array) -> list[tuple[float, jax.Array]]:
    return [(0.5, images), (0.5, images[:, :, ::-1])]


def _multicrop(images: jax.Array) -> list[tuple[float, jax.Array]]:
    """As Jordan (2024, arXiv:2404.00498): moved by a pixel up-left and down-right."""
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = _flip(images)
    for top in (0, 2):
        views += _flip(padded[:, top : top + height, top : top + width])
    weights = (0.25, 0.25, 0.125, 0.125, 0.125, 0.125)
    return [(w, view) for w, (_, view) in zip(weights, views, strict=True)]


TTA: Mapping[str, Views] = dict(
    zip(TTA_NAMES, (lambda images: [(1.0, images)], _flip, _multicrop), strict=True)
)


def logits(
    network: Callable[[jax.Array], jax.Array], images: jax.Array, name: str
) -> jax.Array:
    """Returns float32 [B, 1 or 2, K]: of the images as they are, and of all views.

    Args:
      network: From images to logits.
      images: [B, H, W, C].
      name: Of `TTA`; "none" has the first row alone.
    """
    weights, views = zip(*TTA[name](images), strict=True)
    if len(views) == 1:
        return network(images)[:, None]
    rows = jax.lax.map(network, jnp.stack(views))  # in the memory of one view
    mean = jnp.einsum("vbk,v->bk", rows, jnp.asarray(weights), precision="highest")
    return jnp.stack([rows[0], mean], axis=1)
