"""How images reach the training step, and the calls of the devices that it makes.

With `data.placement` "device" the training images lie there, as uint8: a call takes
several steps, each of which gathers its batch by the epoch's order. With "host" a
thread gathers the batches ahead of the devices, in the same order, so the losses are
the same.
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
        size = options.images_per_step
        index = jax.lax.dynamic_slice_in_dim(stored.index, position * size, size)
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
    options = setup.segments[call.segment]
    data: Any = setup.train
    replicated = sharding = distributed.replicated(setup.mesh)
    if setup.placement == "device":
        run: Any = functools.partial(
            train_stored, options=options, num_steps=call.num_steps
        )
    else:  # a batch, of whatever rows
        run = functools.partial(steps.train, options=options)
        data, sharding = data[np.zeros(options.batch_size, int)], options.split
    functools.update_wrapper(run, run.func)  # its name is what a profile shows
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(setup.create_state, key)
    metrics = jax.eval_shape(Metrics.empty)
    batch = Batch(data.images, data.labels, data.labels)  # the index is like the labels
    teacher = setup.teacher.variables if setup.teacher else None
    state, metrics, key, teacher = distributed.abstract(
        (state, metrics, key, teacher), replicated
    )
    return jax.jit(
        run,
        out_shardings=replicated,
        donate_argnums=0,
        compiler_options=setup.compiler_options,
    ).lower(state, metrics, distributed.abstract(batch, sharding), key, teacher)


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
            stored = Batch(*self._stored, order)
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
            yield self._rows(examples, rows), distributed.put(mask, self._split)

    def _rows(self, examples: Examples, rows: np.ndarray) -> Batch:
        """Returns rows int32 [B] of the examples on the devices, split over them."""
        arrays = (examples.images, examples.labels)
        images, labels = distributed.put(arrays, self._split, rows)
        return Batch(images, labels, distributed.put(rows, self._split))

    @functools.cached_property
    def _stored(self) -> tuple[jax.Array, jax.Array]:
        """All training images and labels, on the devices."""
        train = self._setup.train
        return distributed.put((train.images, train.labels), self._replicated)


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
