"""How images reach the training step, and the calls of the devices that it makes.

With `data.placement` "device" all images lie there, as uint8: a call takes several
steps, each of which gathers its batch by the epoch's order. With "host" a thread
gathers the batches ahead of the devices, in the same order, so the losses are the same.
"""

import collections
import concurrent.futures
import contextlib
import functools
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.sources import Examples
from cifar_jax.training import distributed, steps
from cifar_jax.training.setup import Call, Setup
from cifar_jax.training.state import Metrics, TrainState
from cifar_jax.training.steps import Batch, StepOptions

# Batches that are made while the devices work on one: enough to hide a slow gather.
BATCHES_AHEAD = 2

T = TypeVar("T")


def train_stored(
    state: TrainState,
    metrics: Metrics,
    stored: Batch,
    key: jax.Array,
    teacher: Any = None,
    *,
    options: StepOptions,
    num_steps: int,
) -> tuple[TrainState, Metrics]:
    """Takes the next `num_steps` steps of the epoch, each of them `steps.train`.

    `stored` holds all training images; its index is the order of the epoch, as
    `batches.epoch_order` returns it. The number of steps is compiled in: for a loop
    until data say so, a GPU's host waits.
    """

    def gather_and_step(_, carry):
        state, metrics = carry
        position = state.step % options.steps_per_epoch
        num_images = options.images_per_step
        index = jax.lax.dynamic_slice_in_dim(
            stored.index, position * num_images, num_images
        )
        # Copies of an image are far apart, since mixing mixes neighbours.
        index = jnp.tile(index, options.repeats)
        index = jax.lax.with_sharding_constraint(index, options.split)
        with jax.named_scope("gather"):
            batch = Batch(stored.images[index], stored.labels[index], index)
        return steps.train(state, metrics, batch, key, teacher, options=options)

    if num_steps == 1:
        return gather_and_step(0, (state, metrics))
    return jax.lax.fori_loop(0, num_steps, gather_and_step, (state, metrics))


def lower(setup: Setup, call: Call) -> jax.stages.Lowered:
    """Returns a call of the devices, with the arguments of `steps.train`, to compile.

    Args:
      setup: The run.
      call: Which part of the run it belongs to, and how many steps it takes.
    """
    options, stored = setup.segments[call.segment], setup.placement == "device"
    run: Any = functools.partial(steps.train, options=options)
    if stored:
        run = functools.partial(train_stored, options=options, num_steps=call.num_steps)
    functools.update_wrapper(run, run.func)  # its name is what a profile shows
    images, labels = setup.train.images, setup.train.labels
    data: Any = (images, labels, labels)  # the index is like the labels
    if not stored:
        shapes = [(options.batch_size, *array.shape[1:]) for array in data]
        data = map(_abstract, data, shapes, 3 * [options.split])
    replicated = distributed.replicated(setup.mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (
        jax.eval_shape(setup.create_state, key),
        jax.eval_shape(Metrics.empty),
        Batch(*data),
        key,
        setup.teacher.variables if setup.teacher else None,
    )
    arguments = jax.tree.map(lambda a: _abstract(a, a.shape, replicated), arguments)
    return jax.jit(
        run,
        out_shardings=replicated,
        donate_argnums=0,
        compiler_options=setup.compiler_options,
    ).lower(*arguments)


def _abstract(array: Any, shape: tuple[int, ...], sharding: Any) -> Any:
    """Returns what is known of an array; the sharding is for one without its own."""
    sharding = getattr(array, "sharding", None) or sharding
    return jax.ShapeDtypeStruct(shape, array.dtype, sharding=sharding)


def evaluation_call(setup: Setup) -> jax.stages.Wrapped:
    """Returns the jitted `steps.evaluate`, with `augmentation` as a static argument."""
    return jax.jit(
        functools.partial(
            steps.evaluate, apply_fn=setup.model.apply, options=setup.options
        ),
        out_shardings=distributed.replicated(setup.mesh),
        static_argnames="augmentation",
        compiler_options=setup.compiler_options,
    )


class Feed:
    """The images of a run, in the order in which they are trained and evaluated on.

    Args:
      setup: The run.
      order_key: Random key of the epochs' orders.
    """

    def __init__(self, setup: Setup, order_key: jax.Array):
        self._setup = setup
        self._split = setup.options.split
        self._replicated = distributed.replicated(setup.mesh)
        self._order_key = order_key
        self._order = jax.jit(
            functools.partial(batches.epoch_order, num_examples=len(setup.train)),
            out_shardings=self._replicated,
        )
        self._take = jax.jit(
            lambda arrays, index: jax.tree.map(lambda array: array[index], arrays),
            out_shardings=self._split,
        )
        self._stored = {}  # by id: examples, and their arrays on the devices

    @contextlib.contextmanager
    def epoch(
        self, epoch: int, position: int = 0
    ) -> Iterator[Iterator[tuple[Call, Batch]]]:
        """Yields the calls of an epoch, each with its data.

        Args:
          epoch: Number of the epoch, from 0; with the key it fixes the order.
          position: Steps of the epoch that are done.
        """
        order, options = self._order(self._order_key, epoch), self._setup.options
        start = epoch * options.steps_per_epoch
        calls = self._setup.calls(start + position, start + options.steps_per_epoch)
        if self._setup.placement == "device":
            stored = Batch(*self._on_devices(self._setup.train), order)
            yield ((call, stored) for call in calls)
            return
        used = np.asarray(order)[: options.steps_per_epoch * options.images_per_step]
        rows = used.reshape(options.steps_per_epoch, -1)[position:]
        rows = np.tile(rows, options.repeats)
        sent = (self._rows(self._setup.train, batch) for batch in rows)
        with contextlib.closing(prefetch(sent, BATCHES_AHEAD)) as ahead:
            yield zip(calls, ahead, strict=True)

    def every_example(
        self, examples: Examples, batch_size: int
    ) -> Iterator[tuple[Batch, jax.Array]]:
        """Yields batches and masks bool [B] that count each example exactly once.

        Args:
          examples: Labelled images.
          batch_size: Rows of a batch, rounded up to what all devices share evenly.
        """
        num_devices = self._setup.mesh.size
        batch_size = -(-min(batch_size, len(examples)) // num_devices) * num_devices
        for rows, mask in batches.every_example(len(examples), batch_size):
            mask = distributed.put(mask, self._split)
            yield self._rows(examples, rows), mask

    def _rows(self, examples: Examples, rows: np.ndarray) -> Batch:
        """Returns rows int32 [B] of the examples on the devices, split over them."""
        index = distributed.put(rows, self._split)
        if self._setup.placement == "device":
            images, labels = self._take(self._on_devices(examples), index)
        else:
            arrays = (examples.images, examples.labels)
            images, labels = distributed.put(arrays, self._split, rows)
        return Batch(images, labels, index)

    def _on_devices(self, examples: Examples) -> tuple[jax.Array, jax.Array]:
        """Returns all images and labels on the devices, sent there once."""
        if id(examples) not in self._stored:
            arrays = (examples.images, examples.labels)
            arrays = distributed.put(arrays, self._replicated)
            self._stored[id(examples)] = examples, arrays
        return self._stored[id(examples)][1]


def prefetch(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yields the items of an iterator, which a thread asks for ahead of time.

    An exception of the iterator is raised where its item would have come. Close the
    generator (`contextlib.closing`) to end the thread before the items do.

    Args:
      items: Iterator that the thread alone uses from now on.
      depth: Largest number of items that are ready or in the making, at least 1.
    """
    end: Any = object()
    with concurrent.futures.ThreadPoolExecutor(1, "prefetch") as pool:
        pending = collections.deque(pool.submit(next, items, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
