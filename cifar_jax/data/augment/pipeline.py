"""The chain of transforms that a config lists, and when in a run each of them acts."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cifar_jax import UserError
from cifar_jax.data.augment import checks, color, erasing, geometry, mixing, policies
from cifar_jax.data.augment.warp import optimization_barrier

# `pipeline(key, images, labels, *, epoch, index=None, progress=None, split=None)`
# returns images and labels, and can be jitted. Its arguments:
# - images: uint8 or float [B, H, W, C] in [0, 255]; mixup turns uint8 to float32;
# - labels: float [B, K], one-hot or soft; mixing keeps the sum of each row;
# - epoch: int32 scalar, or [B]: how often each image was seen before;
# - index: int32 [B], each image's place in the data set; for `alternating_flip`;
# - progress: float32 scalar in [0, 1), the fraction of the run that has passed; for
#   transforms with a `Window`;
# - split: sharding of the batch, which every transform keeps; None: XLA decides.
Pipeline = Callable[..., tuple[jax.Array, jax.Array]]

TRANSFORMS: dict[str, Callable] = {
    "random_crop": geometry.random_crop,
    "random_flip": geometry.random_flip,
    "alternating_flip": geometry.alternating_flip,
    "random_rotation": geometry.random_rotation,
    "random_affine": geometry.random_affine,
    "color_jitter": color.color_jitter,
    "cutout": erasing.cutout,
    "random_erasing": erasing.random_erasing,
    "mixup": mixing.mixup,
    "cutmix": mixing.cutmix,
    "ricap": mixing.ricap,
    "auto_augment": policies.auto_augment,
    "rand_augment": policies.rand_augment,
    "trivial_augment_wide": policies.trivial_augment_wide,
}

# Arguments that the pipeline gives to the transforms that ask for them.
CONTEXT = ("epoch", "index")


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of a run in which a transform acts, in fractions of the run.

    Strength grows as in Karras et al., 2020 (arXiv:2006.06676), by the fraction of the
    images, which any transform has. The same transform in windows one after another,
    with other options in each, changes any other strength by stages.

    Attributes:
      start: Where it begins to act.
      stop: Where it ends; just before, it still acts.
      ramp: Length of the part after `start` in which the fraction of the images that it
        acts on grows linearly from none to all.

    Raises:
      UserError: Unless 0 <= start, start + ramp <= stop <= 1, and start < stop.
    """

    start: float = 0.0
    stop: float = 1.0
    ramp: float = 0.0

    def __post_init__(self):
        checks.require_range("(start, stop)", (self.start, self.stop), least=0)
        checks.require(self.stop <= 1, f"stop is {self.stop}", "a fraction of the run")
        length = self.stop - self.start
        checks.require(length > 0, f"start is {self.start}", "less than stop")
        # 1e-9: what a person reads as 0.2 + 0.1 <= 0.3 is allowed.
        checks.require(
            0 <= self.ramp <= length + 1e-9,
            f"ramp is {self.ramp}",
            f"a fraction of the run from 0 to stop - start, {length:g}",
        )

    def fraction(self, progress: jax.Array) -> jax.Array:
        """Returns the fraction of the images that it acts on, float32 scalar.

        Args:
          progress: Fraction of the run that has passed, in [0, 1).
        """
        progress = jnp.asarray(progress, jnp.float32)
        inside = (progress >= self.start) & (progress < self.stop)
        grown = (progress - self.start) / self.ramp if self.ramp else 1.0
        return jnp.where(inside, jnp.minimum(grown, 1.0), 0.0)


def make_pipeline(
    transforms: Sequence[Mapping[str, Any]],
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Pipeline:
    """Returns the function that applies transforms to a batch, in their order.

    See `Pipeline` for the function's arguments. Each transform's key is `key` folded
    with its position. The result does not depend on how the batch is sharded.

    Args:
      transforms: For each one a dict of its `name`, a key of `TRANSFORMS`, its options
        and, for any of them, those of a `Window`: `start`, `stop` and `ramp`.
      image_shape: (H, W, C) of the images, against which the options are checked.
    """
    steps = tuple(_make_step(transform, image_shape) for transform in transforms)

    def pipeline(key, images, labels, *, epoch, index=None, progress=None, split=None):
        context = {"epoch": epoch, "index": index}
        # Do not change how the keys are made: a resumed run must draw the same.
        for position, (step, window) in enumerate(steps):
            step_key = jax.random.fold_in(key, position)
            apply = functools.partial(step, step_key, **context)
            images = optimization_barrier(images, step_key)
            if window == Window():
                images, labels = apply(images, labels)
                continue
            if progress is None:
                raise ValueError(f"{window} needs the progress of the run")
            window_key = jax.random.fold_in(key, len(steps) + position)
            fraction = window.fraction(progress)
            images, labels = maybe_apply(
                apply, window_key, fraction, images, labels, everywhere=not window.ramp
            )
            if split is not None:
                # Left to itself, XLA for GPUs and TPUs gathers what a `cond` returns,
                # and each device does all that follows for the whole batch.
                batch = images, labels
                images, labels = jax.lax.with_sharding_constraint(batch, split)
        return images, labels

    return pipeline


def maybe_apply(
    transform: Callable,
    key: jax.Array,
    fraction: jax.Array,
    *batch: jax.Array,
    everywhere: bool = False,
) -> tuple[jax.Array, ...]:
    """Applies a transform to a random fraction of a batch; skipped where it is 0.

    Args:
      transform: `(images, labels) -> (images, labels)`, of the same shapes.
      key: PRNG key that draws the images to act on.
      fraction: float32 scalar.
      *batch: Images [B, H, W, C] and labels [B, K].
      everywhere: Whether the fraction is always 0 or 1, so that nothing is drawn.

    Returns:
      Images and labels, of the dtypes that the transform returns.
    """

    def act(*batch):
        outputs = transform(*batch)
        if everywhere:
            return outputs
        chosen = jax.random.bernoulli(key, fraction, batch[0].shape[:1])
        return tuple(
            jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
            for new, old in zip(outputs, batch, strict=True)
        )

    outputs = jax.eval_shape(act, *batch)
    dtypes = [output.dtype for output in outputs]
    return jax.lax.cond(
        fraction > 0,
        act,
        lambda *batch: tuple(map(jax.lax.convert_element_type, batch, dtypes)),
        *batch,
    )


def _make_step(
    transform: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> tuple[Pipeline, Window]:
    """Returns one transform with its options bound, and when it acts."""
    if not hasattr(transform, "keys"):
        raise UserError(f"augment has {transform!r}; it needs dict(name=..., ...)")
    options = dict(transform)
    name = options.pop("name", None)
    checks.refuse_unknown("transform of augment", name, TRANSFORMS)
    function = TRANSFORMS[name]
    parameters = inspect.signature(function).parameters
    wanted = [keyword for keyword in CONTEXT if keyword in parameters]
    positional = ("key", "images", "labels", *CONTEXT)
    defaults = {k: p.default for k, p in parameters.items() if k not in positional}
    window_fields = {field.name: field.default for field in dataclasses.fields(Window)}

    def step(key, images, labels, **context):
        given = {keyword: context[keyword] for keyword in wanted}
        if any(value is None for value in given.values()):
            raise ValueError(f"{name} needs the {' and '.join(wanted)} of the batch")
        if "labels" in parameters:
            return function(key, images, labels, **given, **options)
        return function(key, images, **given, **options), labels

    try:
        checks.check_options(options, defaults | window_fields)
        window = Window(**{k: options.pop(k) for k in window_fields if k in options})
        # The transform checks its values when it is traced: nothing is compiled here.
        jax.eval_shape(
            step,
            jax.random.key(0),
            jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8),
            jax.ShapeDtypeStruct((2, 10), jnp.float32),
            epoch=jax.ShapeDtypeStruct((), jnp.int32),
            index=jax.ShapeDtypeStruct((2,), jnp.int32),
        )
    except UserError as error:
        raise UserError(f"augment, {name}: {error}") from None
    return step, window
