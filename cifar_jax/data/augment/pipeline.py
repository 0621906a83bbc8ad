"""The chain of transforms that a config lists, and when in a run each of them acts."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cifar_jax import UserError
from cifar_jax.data.augment import checks, color, erasing, geometry, mixing, policies
from cifar_jax.data.augment.warp import optimization_barrier

Batch = tuple[jax.Array, jax.Array]  # images and labels
# `(key, images, labels, *, epoch, index) -> Batch`, as `Pipeline` has them
Transform = Callable[..., Batch]

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
CONTEXT = ("epoch", "index", "run_key")


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

    def choose(
        self, key: jax.Array, progress: ArrayLike, before: Batch, after: Batch
    ) -> Batch:
        """Returns `after` for the images that it acts on, and `before` for the others.

        Args:
          key: PRNG key that draws those images.
          progress: Fraction of the run that has passed, in [start, stop).
          before: Images [B, H, W, C] and labels [B, K].
          after: The same, transformed.
        """
        progress = jnp.asarray(progress, jnp.float32)
        fraction = jnp.minimum((progress - self.start) / self.ramp, 1.0)
        chosen = jax.random.bernoulli(key, fraction, before[0].shape[:1])
        # Mixup makes float images of uint8.
        images = before[0].astype(after[0].dtype)
        images = jnp.where(chosen[:, None, None, None], after[0], images)
        return images, jnp.where(chosen[:, None], after[1], before[1])


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Transforms one after another, as a function that can be jitted.

    Attributes:
      transforms: Transforms with their options bound, in their order.
      windows: When in a run each of them acts.
    """

    transforms: tuple[Transform, ...]
    windows: tuple[Window, ...]

    def active(self, progress: jax.Array) -> list[jax.Array]:
        """Returns whether each transform acts, bool [...].

        Args:
          progress: Fraction of the run that has passed, float32 [...] in [0, 1).
        """
        return [(progress >= w.start) & (progress < w.stop) for w in self.windows]

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        *,
        epoch: ArrayLike,
        index: jax.Array | None = None,
        progress: Any = None,
        active: Sequence[bool] | None = None,
        run_key: jax.Array | None = None,
    ) -> Batch:
        """Returns images and labels after the transforms.

        Each transform's key is `key` folded with its position. The result does not
        depend on how the batch is sharded. Which transforms act is known before the
        program is compiled: for a branch, accelerators gather the whole batch.

        Args:
          key: PRNG key.
          images: uint8 or float [B, H, W, C] in [0, 255]; mixup turns uint8 to float32.
          labels: float [B, K], one-hot or soft; mixing keeps the sum of each row.
          epoch: int32 scalar, or [B]: how often each image was seen before.
          index: int32 [B], each image's place in the data set; for `alternating_flip`.
          progress: Scalar, fraction of the run that has passed; for ramps.
          active: Whether each transform acts; None: all do.
          run_key: PRNG key that is the same in all steps; for `alternating_flip`.
        """
        context = {"epoch": epoch, "index": index, "run_key": run_key}
        # Do not change how the keys are made: a resumed run must draw the same.
        for position, transform in enumerate(self.transforms):
            step_key = jax.random.fold_in(key, position)
            apply = functools.partial(transform, step_key, **context)
            if active is not None and not active[position]:
                made, _ = jax.eval_shape(apply, images, labels)
                images = images.astype(made.dtype)  # as what follows always had them
                continue
            images = optimization_barrier(images, step_key)
            before, (images, labels) = (images, labels), apply(images, labels)
            window = self.windows[position]
            if window.ramp:
                window_key = jax.random.fold_in(key, len(self.windows) + position)
                after = images, labels
                images, labels = window.choose(window_key, progress, before, after)
        return images, labels


def make_pipeline(
    transforms: Sequence[Mapping[str, Any]],
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Pipeline:
    """Returns the function that applies transforms to a batch, in their order.

    Args:
      transforms: For each one a dict of its `name`, a key of `TRANSFORMS`, its options
        and, for any of them, those of a `Window`: `start`, `stop` and `ramp`.
      image_shape: (H, W, C) of the images, against which the options are checked.
    """
    made = [_make_transform(transform, image_shape) for transform in transforms]
    return Pipeline(tuple(t for t, _ in made), tuple(w for _, w in made))


def _make_transform(
    transform: Mapping[str, Any], image_shape: tuple[int, int, int]
) -> tuple[Transform, Window]:
    """Returns one transform with its options bound, and when it acts."""
    if not hasattr(transform, "keys"):
        raise UserError(
            f"augment has {transform!r}; it needs dicts with a name, on the command "
            'line as in --config.augment=\'({"name": "random_flip"},)\''
        )
    options = dict(transform)
    name = options.pop("name", None)
    checks.refuse_unknown("transform of augment", name, TRANSFORMS)
    function = TRANSFORMS[name]
    parameters = inspect.signature(function).parameters
    wanted = [keyword for keyword in CONTEXT if keyword in parameters]
    positional = ("key", "images", "labels", *CONTEXT)
    defaults = {k: p.default for k, p in parameters.items() if k not in positional}
    window_fields = {field.name: field.default for field in dataclasses.fields(Window)}

    def bound(key, images, labels, **context):
        given = {keyword: context[keyword] for keyword in wanted}
        if "labels" in parameters:
            return function(key, images, labels, **given, **options)
        return function(key, images, **given, **options), labels

    try:
        checks.check_options(options, defaults | window_fields)
        window = Window(**{k: options.pop(k) for k in window_fields if k in options})
        # The transform checks its values when it is traced: nothing is compiled here.
        jax.eval_shape(
            bound,
            jax.random.key(0),
            jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8),
            jax.ShapeDtypeStruct((2, 10), jnp.float32),
            epoch=jax.ShapeDtypeStruct((), jnp.int32),
            index=jax.ShapeDtypeStruct((2,), jnp.int32),
            run_key=jax.random.key(0),
        )
    except UserError as error:
        raise UserError(f"augment, {name}: {error}") from None
    return bound, window
