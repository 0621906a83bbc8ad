"""When in a run a transform acts, and on how many of the images."""

import dataclasses

import jax
import jax.numpy as jnp

from cifar_jax.data.augment import checks


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a run in which a transform acts, in shares of the run.

    Strength grows as in Karras et al., 2020 (arXiv:2006.06676), by the share of the
    images, which any transform has. The same transform in windows one after another,
    with other options in each, changes any other strength by stages.

    Attributes:
        start: it acts from here on.
        stop: it acts until just before here.
        ramp: while this share of the run passes after `start`, the share of the images
            that it acts on grows linearly from none to all.

    Raises:
        UserError: unless 0 <= start, start + ramp <= stop <= 1, and start < stop.
    """

    start: float = 0.0
    stop: float = 1.0
    ramp: float = 0.0

    def __post_init__(self):
        checks.require_range("(start, stop)", (self.start, self.stop), least=0)
        checks.require(self.stop <= 1, f"stop is {self.stop}", "a share of the run")
        length = self.stop - self.start
        checks.require(length > 0, f"start is {self.start}", "less than stop")
        # 1e-9: what a person reads as 0.2 + 0.1 <= 0.3 is allowed.
        checks.require(
            0 <= self.ramp <= length + 1e-9,
            f"ramp is {self.ramp}",
            f"a share of the run from 0 to stop - start, {length:g}",
        )

    def share(self, progress: jax.Array) -> jax.Array:
        """Returns the share of the images at a progress in [0, 1), float32 scalar."""
        progress = jnp.asarray(progress, jnp.float32)
        inside = (progress >= self.start) & (progress < self.stop)
        grown = (progress - self.start) / self.ramp if self.ramp else 1.0
        return jnp.where(inside, jnp.minimum(grown, 1.0), 0.0)


def within(window: Window, transform, key: jax.Array, share: jax.Array, *batch):
    """Applies a transform to a share of a batch; at share 0 it is not worked out.

    Args:
        window: tells whether the share is ever other than 0 and 1.
        transform: `(images, labels) -> (images, labels)`, of the same shapes.
        key: draws the images that it acts on.
        share: float32 scalar.
        *batch: images [B, H, W, C] and labels [B, K].

    Returns:
        Images and labels, of the dtypes of the transform's.
    """

    def act(*batch):
        made = transform(*batch)
        if not window.ramp:
            return made
        chosen = jax.random.bernoulli(key, share, batch[0].shape[:1])
        return tuple(
            jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
            for new, old in zip(made, batch, strict=True)
        )

    made = jax.eval_shape(act, *batch)

    def rest(*batch):
        return tuple(x.astype(y.dtype) for x, y in zip(batch, made, strict=True))

    return jax.lax.cond(share > 0, act, rest, *batch)
