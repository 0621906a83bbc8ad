"""What runs on the devices: the arrays there, and the compiled calls on them.

With `data.placement` "device" all images lie there; with "host" a thread gathers the
batches ahead of the devices, in the same order, so that the losses are the same.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.prefetch import prefetch
from cifar_jax.data.sources import Examples
from cifar_jax.training import sharding, steps
from cifar_jax.training.interrupt import StopRequest
from cifar_jax.training.profiling import Profiler
from cifar_jax.training.setup import Setup
from cifar_jax.training.state import Metrics, TrainState, state_maker

# Batches that are made while the devices work on one: enough to hide a slow gather.
BATCHES_AHEAD = 2

Feed = Callable[[int], tuple]  # number of steps -> what the call takes beside its state


class Interrupted(Exception):
    """An evaluation has given way to a request to stop; training's state is whole."""


class Engine:
    """The devices of a run.

    Args:
      setup: What the run needs.
      seed: For the weights, the order of the images, augmentation and dropout.
      profiler: Told of each training call, or None.
    """

    def __init__(self, setup: Setup, seed: int, profiler: Profiler | None = None):
        self._setup = setup
        self._profiler = profiler
        # An argument of the call: as a constant it would be compiled in.
        self._teacher = setup.teacher and setup.teacher.variables
        self.replicated = sharding.replicated(setup.mesh)
        self._set_keys(seed)
        self._create = state_maker(
            setup.model,
            setup.optimizer,
            image_shape=setup.source.image_shape,
            average=setup.options.ema_decay > 0,
            sharding=self.replicated,
            stem_kernel=setup.stem_kernel,
        )
        self._order = jax.jit(
            functools.partial(batches.epoch_order, num_examples=len(setup.train)),
            out_shardings=self.replicated,
        )
        self._take = jax.jit(
            lambda arrays, index: jax.tree.map(lambda array: array[index], arrays),
            out_shardings=setup.options.split,
        )
        self._held = {}  # examples by their id, and their arrays on the devices
        self._evaluate_step = jax.jit(
            functools.partial(
                steps.evaluate_step,
                apply_fn=setup.model.apply,
                options=setup.options,
            ),
            out_shardings=self.replicated,
            static_argnames="augmentation",
        )

    def with_seed(self, seed: int) -> Self:
        """Returns an engine for another seed, with the same arrays and programs."""
        other = copy.copy(self)
        other._set_keys(seed)
        return other

    def _set_keys(self, seed: int) -> None:
        self._init_key, self._train_key, self._order_key = jax.jit(
            lambda: tuple(jax.random.split(jax.random.key(seed), 3)),
            out_shardings=self.replicated,
        )()

    def first_state(self) -> TrainState:
        """Returns the state before the first step."""
        return self._create(self._init_key)

    def empty_metrics(self) -> Metrics:
        """Returns metrics of no examples."""
        return jax.jit(Metrics.empty, out_shardings=self.replicated)()

    def compile(self, state: TrainState) -> None:
        """Compiles the training calls, for what `epoch` feeds them with.

        Where sharpness-aware minimisation starts late, the steps before it have a call
        of their own: XLA:CPU runs convolutions in a branch a hundred times slower.
        """
        self._call = self._early_call = self._compile(state, self._setup)
        options = self._setup.options
        if options.sam_start:
            plain = dataclasses.replace(options, sam_rho=0.0)
            early = dataclasses.replace(self._setup, options=plain)
            self._early_call = self._compile(state, early)

    def _compile(self, state: TrainState, setup: Setup) -> Callable:
        call = jax.jit(
            training_call(setup),
            out_shardings=(self.replicated, self.replicated),
            donate_argnums=0,
        )
        with self.epoch(0, 0) as feed:
            arguments = (state, self.empty_metrics(), *feed(1))
        return call.lower(*arguments, teacher=self._teacher).compile()

    def num_steps(self, step: int, end: int) -> int:
        """Returns how many steps the next call may do, from a step to before `end`."""
        start = self._setup.options.sam_start
        end = min(end, start) if step < start else end
        return min(self._setup.steps_per_dispatch, end - step)

    def program(self, step: int) -> str:
        """Returns the compiled training call of a step, as XLA's text."""
        return self._call_at(step).as_text()

    def _call_at(self, step: int) -> Callable:
        is_early = step < self._setup.options.sam_start
        return self._early_call if is_early else self._call

    @contextlib.contextmanager
    def epoch(self, epoch: int, position: int) -> Iterator[Feed]:
        """Yields what feeds `train`, in an order that depends on seed and epoch alone.

        Args:
          epoch: Number of the epoch, from 0.
          position: Steps of the epoch that are done.
        """
        order = self._order(self._order_key, epoch)
        if self._setup.placement == "device":
            data = (*self._on_devices(self._setup.train), order, self._train_key)
            yield lambda num_steps: (*data, np.int32(num_steps))
            return
        rows = self._host_batches(np.asarray(order), position)
        with contextlib.closing(prefetch(rows, BATCHES_AHEAD)) as ahead:
            yield lambda num_steps: (*next(ahead), self._train_key)

    def train(
        self,
        state: TrainState,
        metrics: Metrics,
        feed: Feed,
        *,
        step: int,
        num_steps: int,
    ) -> tuple[TrainState, Metrics]:
        """Trains on the next batches, without waiting for them; takes the state.

        Args:
          state: After `step` steps.
          metrics: Of the epoch so far.
          feed: Of the epoch.
          step: The state's, which need not be asked of the devices.
          num_steps: No more than `num_steps` allows.
        """
        if self._profiler:
            self._profiler.before_call(metrics)
        call = self._call_at(step)
        return call(state, metrics, *feed(num_steps), teacher=self._teacher)

    def evaluate(
        self,
        examples: Examples,
        variables: dict[str, Any],
        *,
        batch_size: int,
        stop: StopRequest,
        augmentation: str = "none",
    ) -> dict[str, float]:
        """Returns the means over all the examples, each counted once.

        Args:
          examples: Labelled images.
          variables: Weights and batch statistics.
          batch_size: Rounded up to what all devices share evenly.
          stop: Polled for each batch.
          augmentation: Of `tta.TTA`, at test time.

        Raises:
          Interrupted: If a stop was asked for meanwhile.
        """
        metrics, num_devices = self.empty_metrics(), self._setup.mesh.size
        batch_size = -(-min(batch_size, len(examples)) // num_devices) * num_devices
        split = self._setup.options.split
        for index, mask in batches.every_example(len(examples), batch_size):
            if stop:
                raise Interrupted
            batch = self._rows(examples, index)
            mask = sharding.put(mask, split)
            metrics = self._evaluate_step(
                metrics, variables, *batch, mask, augmentation=augmentation
            )
        return means(metrics)

    def _host_batches(self, order: np.ndarray, position: int) -> Iterator[tuple]:
        train, options = self._setup.train, self._setup.options
        for step in range(position, options.steps_per_epoch):
            num_images = options.images_per_step
            index = order[step * num_images :][:num_images]
            index = batches.repeat(index, options.views)
            data = (train.images, train.labels)
            yield (
                *sharding.put_rows(data, index, options.split),
                sharding.put(index, options.split),
            )

    def _rows(self, examples: Examples, index: np.ndarray) -> tuple:
        """Returns some images and labels, split over the devices."""
        split = self._setup.options.split
        if self._setup.placement == "device":
            index = sharding.put(index, split)
            return self._take(self._on_devices(examples), index)
        return sharding.put_rows((examples.images, examples.labels), index, split)

    def _on_devices(self, examples: Examples) -> tuple[jax.Array, jax.Array]:
        if id(examples) not in self._held:
            arrays = sharding.put((examples.images, examples.labels), self.replicated)
            self._held[id(examples)] = examples, arrays
        return self._held[id(examples)][1]


def training_call(setup: Setup) -> Callable:
    """Returns what is compiled: `(state, metrics, *fed) -> (state, metrics)`."""
    if setup.placement == "device":
        return steps.make_train_call(setup.options, setup.steps_per_dispatch)
    return functools.partial(steps.train_on_batch, options=setup.options)


def means(metrics: Metrics) -> dict[str, float]:
    """Returns `loss` and `accuracy`, fetched from the devices."""
    return {k: float(v) for k, v in jax.device_get(metrics).compute().items()}
