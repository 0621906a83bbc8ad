"""The chain of transforms that a config lists."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cifar_jax import UserError
from cifar_jax.data.augment import checks, color, erasing, geometry, mixing, policies
from cifar_jax.data.augment.barrier import materialize
from cifar_jax.data.augment.schedule import Window, within

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

# Arguments that the pipeline hands to the transforms that ask for them.
CONTEXT = ("epoch", "index")


def make_pipeline(
    transforms: Sequence[Mapping[str, Any]],
    *,
    image_shape: tuple[int, int, int] = (32, 32, 3),
) -> Pipeline:
    """Returns the function that applies transforms to a batch, in their order.

    The function is pure and can be jitted: `pipeline(key, images, labels, *, epoch,
    index=None, progress=None, split=None) -> (images, labels)`, where

    - images: uint8 or float [B, H, W, C] in [0, 255]; mixup turns uint8 to float32;
    - labels: float [B, K], one-hot or soft; mixing keeps the sum of each row;
    - epoch: int32 scalar, or [B]: how often each image was seen before;
    - index: int32 [B], each image's place in the data set; for `alternating_flip`;
    - progress: float32 scalar in [0, 1), the share of the run that has passed; for
      transforms with a `Window`;
    - split: sharding of the batch, which every transform keeps; None: XLA decides.

    Each transform's key is `key` folded with its position. The result does not depend
    on how the batch is sharded.

    Args:
        transforms: for each one `name`, a key of `TRANSFORMS`, its options and, of any
            of them, those of a `Window`: `start`, `stop` and `ramp`.
        image_shape: (H, W, C), against which the options are checked.

    Raises:
        UserError: an unknown name or option, or a value out of its bounds.
    """
    steps = tuple(_make_step(transform, image_shape) for transform in transforms)

    def pipeline(key, images, labels, *, epoch, index=None, progress=None, split=None):
        context = {"epoch": epoch, "index": index}
        for position, (step, window) in enumerate(steps):
            step_key = jax.random.fold_in(key, position)
            apply = functools.partial(step, step_key, **context)
            images = materialize(images, step_key)
            if window == Window():
                images, labels = apply(images, labels)
                continue
            if progress is None:
                raise ValueError(f"{window} needs the progress of the run")
            share_key = jax.random.fold_in(key, len(steps) + position)
            share = window.share(progress)
            images, labels = within(window, apply, share_key, share, images, labels)
            if split is not None:
                # Left to itself, XLA for GPUs and TPUs gathers what a `cond` returns,
                # and each device does all that follows for the whole batch.
                batch = images, labels
                images, labels = jax.lax.with_sharding_constraint(batch, split)
        return images, labels

    return pipeline


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
    parameters = inspect.signature(function).parameters.values()
    hints = typing.get_type_hints(function)
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    wanted = [keyword for keyword in keywords if keyword in CONTEXT]
    window_hints = typing.get_type_hints(Window)
    allowed = {k: hints[k] for k in keywords if k not in CONTEXT} | window_hints
    mixes_labels = "labels" in hints

    def step(key, images, labels, **context):
        given = {keyword: context[keyword] for keyword in wanted}
        if any(value is None for value in given.values()):
            raise ValueError(f"{name} needs the {' and '.join(wanted)} of the batch")
        if mixes_labels:
            return function(key, images, labels, **given, **options)
        return function(key, images, **given, **options), labels

    try:
        checks.check_options(options, allowed)
        window = Window(**{k: options.pop(k) for k in window_hints if k in options})
        _trace(step, image_shape)
    except UserError as error:
        raise UserError(f"augment, {name}: {error}") from None
    return step, window


def _trace(step: Pipeline, image_shape: tuple[int, int, int]) -> None:
    """Runs the checks of a transform on a small batch, without compiling anything."""
    jax.eval_shape(
        step,
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8),
        jax.ShapeDtypeStruct((2, 10), jnp.float32),
        epoch=jax.ShapeDtypeStruct((), jnp.int32),
        index=jax.ShapeDtypeStruct((2,), jnp.int32),
    )
