"""One step of training and one batch of evaluation: the compiled part.

Both are pure functions. Where the images come from, and how many steps a call of the
devices takes, is `feed`'s business.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.typing import ArrayLike

from cifar_jax.training import distributed
from cifar_jax.training.methods import pruning, sam, tta
from cifar_jax.training.methods.distillation import Distillation
from cifar_jax.training.state import Metrics, TrainState, split_key, update_averages


class Batch(NamedTuple):
    """The rows of one step."""

    images: jax.Array  # uint8 [B, H, W, C]
    labels: jax.Array  # int32 [B]
    index: jax.Array  # int32 [B], place of each image in the data set


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What stays the same from step to step."""

    num_classes: int  # number of classes
    batch_size: int  # rows in a step, over all devices: images times repeats
    steps_per_epoch: int  # steps in an epoch
    total_steps: int  # steps in the run
    augment: Any  # augmentation, as `data.augment.Pipeline` documents it
    mean: Any  # mean of each channel, with pixels in [0, 1]
    std: Any  # standard deviation of each channel, with pixels in [0, 1]
    label_smoothing: float  # share of each label that is spread over all classes
    ema_decay: float  # decay of the moving averages, per step
    split: NamedSharding  # sharding of a batch
    accumulate: int = 1  # parts of a batch that are computed one after the other
    sam_rho: float = 0.0  # radius of sharpness-aware minimisation; 0: off
    sam_adaptive: bool = False  # whether to use ASAM
    repeats: int = 1  # rows of a batch that show one image, each augmented on its own
    pruning_plan: pruning.Plan | None = None  # sparsity schedule, or None
    distillation: Distillation | None = None  # loss of the teacher's logits, or None
    frozen: bool = False  # whether only the classifier is trained
    # whether the optimizer's moments follow the gradients of what is frozen
    frozen_moments: bool = False

    @property
    def images_per_step(self) -> int:
        """Images in a step, each counted once."""
        return self.batch_size // self.repeats


def normalize(
    images: jax.Array | np.ndarray, mean: ArrayLike, std: ArrayLike
) -> jax.Array:
    """Returns float32 images [B, H, W, C], less the mean and divided by the std.

    Args:
      images: uint8 or float, in 0..255.
      mean: float [C], with pixels in [0, 1].
      std: float [C], with pixels in [0, 1].
    """
    shape = (1, 1, 1, -1)
    images = images.astype(jnp.float32) / 255
    centred = images - jnp.reshape(mean, shape)
    return cast(jax.Array, centred / jnp.reshape(std, shape))


def train(
    state: TrainState,
    metrics: Metrics,
    batch: Batch,
    key: jax.Array,
    teacher: Any = None,
    *,
    options: StepOptions,
) -> tuple[TrainState, Metrics]:
    """Trains on one batch: augments, normalises, differentiates, updates.

    Randomness is a pure function of the run's `key`, that of its seed, and the state's
    step. `metrics` are the means over the epoch so far; `teacher` holds the variables
    of the network to distil from, if there is one. Returns state and metrics after it.
    """
    step_key = jax.random.fold_in(split_key(key)[1], state.step)
    augment_key, dropout_key = jax.random.split(step_key)
    inputs = _inputs(augment_key, batch, state.step, teacher, options, key)

    def loss_fn(params, batch_stats, images, targets, teacher_logits, key):
        if options.pruning_plan:
            params = pruning.with_zeros_as(0.0, params)
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        smoothed = optax.smooth_labels(targets, options.label_smoothing)
        losses = optax.softmax_cross_entropy(logits, smoothed)
        if options.distillation:
            losses = options.distillation.mix(losses, logits, teacher_logits)
        correct = jnp.float32(logits.argmax(-1) == targets.argmax(-1))
        batch_metrics = Metrics.single_from_model_output(loss=losses, correct=correct)
        return losses.mean(), (updates["batch_stats"], batch_metrics)

    grad_fn = jax.grad(loss_fn, has_aux=True)
    if options.accumulate > 1:
        grad_fn = _accumulated(grad_fn, options)
    rest = (state.batch_stats, *inputs, dropout_key)
    grads, (batch_stats, batch_metrics) = grad_fn(state.params, *rest)
    if options.sam_rho:
        moved = sam.ascend(state.params, grads, options.sam_rho, options.sam_adaptive)
        grads, _ = grad_fn(moved, *rest)  # batch statistics stay the first ones
    return _updated(state, grads, batch_stats, options), metrics.merge(batch_metrics)


def evaluate(
    metrics: Metrics,
    variables: dict[str, Any],
    batch: Batch,
    mask: jax.Array,
    *,
    apply_fn: Callable,
    options: StepOptions,
    augmentation: str = "none",
) -> Metrics:
    """Returns the metrics with one more batch.

    Args:
      metrics: Means over the batches before.
      variables: Weights and batch statistics.
      batch: Rows to score.
      mask: bool [B], False for rows that only fill up the batch.
      apply_fn: The network's `apply`.
      options: What stays the same from batch to batch.
      augmentation: Test-time augmentation, a key of `tta.TTA`.
    """
    logits = tta.logits(
        lambda images: apply_fn(
            variables, normalize(images, options.mean, options.std), train=False
        ),
        batch.images,
        augmentation,
    )[:, -1]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
    correct = jnp.float32(logits.argmax(-1) == batch.labels)
    new = Metrics.single_from_model_output(loss=losses, correct=correct, mask=mask)
    return metrics.merge(new)


def _inputs(
    key: jax.Array,
    batch: Batch,
    step: Any,
    teacher: Any,
    options: StepOptions,
    run_key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns normalised images, soft labels [B, K], and the teacher's logits or None.

    The named scopes are what a profile is read by.
    """
    epoch = step // options.steps_per_epoch
    if options.repeats > 1:  # each repeat is another time that the image is seen
        repeat = np.arange(len(batch.index)) // options.images_per_step
        epoch = epoch * options.repeats + repeat
    targets = jax.nn.one_hot(batch.labels, options.num_classes)
    with jax.named_scope("augment"):
        images, targets = options.augment(
            key,
            batch.images,
            targets,
            epoch=epoch,
            index=batch.index,
            progress=jnp.float32(step) / options.total_steps,
            run_key=run_key,
        )
    teacher_logits = None
    if options.distillation:  # the teacher normalises in its own way
        with jax.named_scope("teacher"):
            teacher_logits = options.distillation.teach(teacher, images)
    with jax.named_scope("augment"):
        images = normalize(images, options.mean, options.std)
    # Whatever a transform does, each device trains on its own part of the batch.
    images, targets = jax.lax.with_sharding_constraint((images, targets), options.split)
    return images, targets, teacher_logits


@jax.named_scope("optimizer")
def _updated(
    state: TrainState, grads: Any, batch_stats: Any, options: StepOptions
) -> TrainState:
    """Returns the state after the step: optimizer, then averages, then pruning."""
    if options.frozen and not options.frozen_moments:
        grads = {**optax.tree.zeros_like(grads), "head": grads["head"]}
    new_state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    if options.frozen:  # weight decay must not move the others either
        params = {**state.params, "head": new_state.params["head"]}
        new_state = new_state.replace(params=params)
    new_state = update_averages(new_state, options.ema_decay)
    if options.pruning_plan is None:
        return new_state
    params, averages = pruning.prune(
        state.params,
        new_state.params,
        new_state.averages,
        step=new_state.step,
        plan=options.pruning_plan,
    )
    return new_state.replace(params=params, averages=averages)


def _accumulated(grad_fn: Callable, options: StepOptions) -> Callable:
    """Returns `grad_fn` that takes the batch in parts, one after the other.

    BatchNorm's running statistics move with each part, as in so many small batches.
    """
    num_parts = options.accumulate

    def accumulated(params, batch_stats, images, targets, teacher_logits, key):
        def add(carry, part):
            grads, batch_stats, metrics = carry
            more, (batch_stats, new) = grad_fn(params, batch_stats, *part)
            return (optax.tree.add(grads, more), batch_stats, metrics.merge(new)), None

        # Image i is in part i % num_parts, so each device's images stay on it.
        rows = jax.tree.map(
            lambda array: array.reshape(-1, num_parts, *array.shape[1:]).swapaxes(0, 1),
            (images, targets, teacher_logits),
        )
        parts = (*rows, jax.random.split(key, num_parts))
        start = optax.tree.zeros_like(params), batch_stats, Metrics.empty()
        # XLA:CPU is slow at convolutions within a loop.
        (grads, batch_stats, metrics), _ = jax.lax.scan(
            add, start, parts, unroll=distributed.is_on_cpu(options.split)
        )
        return optax.tree.scale(1 / num_parts, grads), (batch_stats, metrics)

    return accumulated
