"""The compiled part of training: one step, several steps, and one batch of evaluation.

Where the images lie on the devices, as uint8, a step gathers its batch by the epoch's
order, augments, normalises, and updates the state, all in one call.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from cifar_jax.data import batches
from cifar_jax.training.methods import pruning, sam, tta
from cifar_jax.training.methods.distillation import Distillation
from cifar_jax.training.state import Metrics, TrainState, update_averages

Augment = Callable[..., tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What stays the same in every step of a run.

    Attributes:
      num_classes: Number of classes.
      batch_size: Rows in a step, over all devices: images times views.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps of the run.
      augment: `(key, images, labels, *, epoch, index, progress) -> (images, labels)`,
        on images [B, H, W, C] in 0..255 and soft labels [B, K].
      mean: Per channel, with pixels in [0, 1].
      std: Likewise.
      label_smoothing: Share of each label that is spread over all classes.
      ema_decay: Of the averages, per step.
      split: Sharding of a batch.
      accumulate: Parts of a batch that are computed one after the other.
      sam_rho: Radius of sharpness-aware minimisation; 0: off.
      sam_adaptive: Whether that is ASAM.
      sam_start: First step that has it: it is the engine that calls other steps before.
      views: Rows of a batch that show one image, each augmented on its own.
      pruning_plan: When weights die, or None.
      distillation: What the teacher teaches, or None.
    """

    num_classes: int
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    augment: Augment
    mean: Any
    std: Any
    label_smoothing: float
    ema_decay: float
    split: NamedSharding
    accumulate: int = 1
    sam_rho: float = 0.0
    sam_adaptive: bool = False
    sam_start: int = 0
    views: int = 1
    pruning_plan: pruning.Plan | None = None
    distillation: Distillation | None = None

    @property
    def images_per_step(self) -> int:
        """Images in a step, each counted once."""
        return self.batch_size // self.views


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Returns float32 images [B, H, W, C] with the mean taken off, over the std.

    Args:
      images: uint8 or float, in 0..255.
      mean: float [C], with pixels in [0, 1].
      std: float [C], likewise.
    """
    shape = (1, 1, 1, -1)
    images = images.astype(jnp.float32) / 255
    return (images - jnp.reshape(mean, shape)) / jnp.reshape(std, shape)


def train_step(
    state: TrainState,
    metrics: Metrics,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    key: jax.Array,
    options: StepOptions,
    teacher: Any = None,
) -> tuple[TrainState, Metrics]:
    """Trains on the next batch of the epoch, out of images on the devices.

    Args:
      state: Its step tells the position in the epoch.
      metrics: Of the epoch so far.
      images: uint8 [N, H, W, C], all of them.
      labels: int32 [N].
      order: int32 [N], the epoch's order.
      key: Of the run.
      options: See there.
      teacher: Variables of the teacher, if there is one.

    Returns:
      The new state, and the metrics with this batch.
    """
    position = state.step % options.steps_per_epoch
    num_images = options.images_per_step
    index = jax.lax.dynamic_slice_in_dim(order, position * num_images, num_images)
    index = batches.repeat(index, options.views)
    index = jax.lax.with_sharding_constraint(index, options.split)
    with jax.named_scope("gather"):  # such names are what a profile is read by
        batch = images[index], labels[index], index
    return train_on_batch(state, metrics, *batch, key, options, teacher)


def train_on_batch(
    state: TrainState,
    metrics: Metrics,
    images: jax.Array,
    labels: jax.Array,
    index: jax.Array,
    key: jax.Array,
    options: StepOptions,
    teacher: Any = None,
) -> tuple[TrainState, Metrics]:
    """Trains on a batch that is given.

    Randomness is a pure function of the key and the step, so a resumed run repeats it.

    Args:
      state: Its step tells the epoch.
      metrics: Of the epoch so far.
      images: uint8 [B, H, W, C].
      labels: int32 [B].
      index: int32 [B], each image's place in the data set.
      key: Of the run.
      options: See there.
      teacher: Variables of the teacher, if there is one.

    Returns:
      The new state, and the metrics with this batch.
    """
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    epoch = state.step // options.steps_per_epoch
    if options.views > 1:  # each view is another time that the image is seen
        epoch = epoch * options.views + np.arange(len(index)) // options.images_per_step
    targets = jax.nn.one_hot(labels, options.num_classes)
    with jax.named_scope("augment"):
        batch, targets = options.augment(
            augment_key,
            images,
            targets,
            epoch=epoch,
            index=index,
            progress=state.step / options.total_steps,
        )
    taught = None
    if options.distillation:  # the teacher normalises as it is used to
        with jax.named_scope("teacher"):
            taught = options.distillation.teach(teacher, batch)
    with jax.named_scope("augment"):
        batch = normalize(batch, options.mean, options.std)
    gradient = functools.partial(
        _gradient,
        state,
        images=batch,
        targets=(targets, taught),
        key=dropout_key,
        options=options,
    )
    grads, batch_stats, seen = gradient(state.params)
    if options.sam_rho:
        worst = sam.ascend(
            state.params, grads, rho=options.sam_rho, adaptive=options.sam_adaptive
        )
        grads, *_ = gradient(worst)  # the statistics stay those of the weights
    with jax.named_scope("optimizer"):
        after = state.apply_gradients(grads=grads, batch_stats=batch_stats)
        after = update_averages(after, options.ema_decay)
        if options.pruning_plan:
            after = pruning.prune(state.params, after, options.pruning_plan)
    with jax.named_scope("metrics"):
        return after, metrics.merge(seen)


def _gradient(
    state: TrainState,
    params: Any,
    *,
    images: jax.Array,
    targets: tuple[jax.Array, jax.Array | None],
    key: jax.Array,
    options: StepOptions,
) -> tuple[Any, Any, Metrics]:
    """Returns the loss's gradient, the new batch statistics, and the metrics."""
    gradient = jax.grad(_loss, has_aux=True)
    if options.accumulate == 1:
        grads, (stats, seen) = gradient(
            params, state.batch_stats, state.apply_fn, images, targets, key, options
        )
        return grads, stats, seen

    def add(carry, part):
        grads, stats, seen = carry
        more, (stats, new) = gradient(params, stats, state.apply_fn, *part, options)
        return (optax.tree.add(grads, more), stats, seen.merge(new)), None

    # Image i is in part i % parts: each device's images stay on it.
    def split(array):
        return array.reshape(-1, options.accumulate, *array.shape[1:]).swapaxes(0, 1)

    parts = (
        split(images),
        jax.tree.map(split, targets),
        jax.random.split(key, options.accumulate),
    )
    # XLA:CPU is slow at convolutions within a loop.
    unroll = options.accumulate if jax.default_backend() == "cpu" else 1
    start = optax.tree.zeros_like(params), state.batch_stats, Metrics.empty()
    (grads, stats, seen), _ = jax.lax.scan(add, start, parts, unroll=unroll)
    return optax.tree.scale(1 / options.accumulate, grads), stats, seen


def _loss(params, batch_stats, apply_fn, images, targets, key, options):
    """Returns the mean loss, and the batch statistics and metrics beside it."""
    targets, taught = targets
    if options.pruning_plan:
        params = pruning.keep_dead(params)
    logits, updates = apply_fn(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    smoothed = optax.smooth_labels(targets, options.label_smoothing)
    losses = optax.softmax_cross_entropy(logits, smoothed)
    if options.distillation:
        losses = options.distillation.mix(losses, logits, taught)
    seen = Metrics.single_from_model_output(
        loss=losses, correct=logits.argmax(-1) == targets.argmax(-1)
    )
    return losses.mean(), (updates["batch_stats"], seen)


def make_train_call(options: StepOptions, steps_per_dispatch: int) -> Callable:
    """Returns one call of the devices: `num_steps` steps, at most the given number.

    The call is `(state, metrics, images, labels, order, key, num_steps, teacher=None)
    -> (state, metrics)`, as `train_step`, with `num_steps` a traced int32.
    """

    def one(state, metrics, *data, teacher=None):
        *data, _ = data
        return train_step(state, metrics, *data, options, teacher)

    def several(state, metrics, *data, teacher=None):
        *data, num_steps = data
        return jax.lax.fori_loop(
            0,
            num_steps,
            lambda _, carry: train_step(*carry, *data, options, teacher),
            (state, metrics),
        )

    return one if steps_per_dispatch == 1 else several


def evaluate_step(
    metrics: Metrics,
    variables: dict[str, Any],
    images: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    apply_fn: Callable,
    options: StepOptions,
    augmentation: str = "none",
) -> Metrics:
    """Returns the metrics with one more batch.

    Args:
      metrics: Of the batches before.
      variables: Weights and batch statistics.
      images: uint8 [B, H, W, C].
      labels: int32 [B].
      mask: bool [B], False for what only fills the batch up.
      apply_fn: Of the network.
      options: See there.
      augmentation: Of `tta.TTA`, at test time.
    """

    def network(images):
        images = normalize(images, options.mean, options.std)
        return apply_fn(variables, images, train=False)

    logits = tta.logits(network, images, augmentation)[:, -1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    seen = Metrics.single_from_model_output(
        loss=losses, correct=logits.argmax(-1) == labels, mask=mask
    )
    return metrics.merge(seen)
