"""What runs on the devices: the arrays there, and the compiled calls on them."""

import functools
from typing import Any

import jax
import numpy as np

from cifar_jax.data import batches
from cifar_jax.data.sources import Examples
from cifar_jax.training import sharding, steps
from cifar_jax.training.interrupt import StopRequest
from cifar_jax.training.setup import Setup
from cifar_jax.training.state import Metrics, TrainState, create_state


class Interrupted(Exception):
    """An evaluation has given way to a request to stop; training's state is whole."""


class Engine:
    """The devices of a run.

    Args:
      setup: What the run needs.
      seed: For the weights, the order of the images, augmentation and dropout.
    """

    def __init__(self, setup: Setup, seed: int):
        self._setup = setup
        self.replicated = sharding.replicated(setup.mesh)
        keys = jax.random.split(jax.random.key(seed), 3)
        self._init_key, *others = keys
        self._train_key, self._order_key = jax.device_put(others, self.replicated)
        self._evaluate_step = jax.jit(
            functools.partial(
                steps.evaluate_step,
                apply_fn=setup.model.apply,
                options=setup.options,
            ),
            out_shardings=self.replicated,
        )

    def first_state(self) -> TrainState:
        """Returns the state before the first step."""
        return create_state(
            self._init_key,
            self._setup.model,
            self._setup.optimizer,
            image_shape=self._setup.source.image_shape,
            average=self._setup.options.ema_decay > 0,
            sharding=self.replicated,
            stem_kernel=self._setup.stem_kernel,
        )

    def empty_metrics(self) -> Metrics:
        """Returns metrics of no examples."""
        return jax.device_put(Metrics.empty(), self.replicated)

    def compile(self, state: TrainState) -> None:
        """Puts the training images on the devices and compiles the training call."""
        train, options = self._setup.train, self._setup.options
        self._order = jax.jit(
            functools.partial(batches.epoch_order, num_examples=len(train)),
            out_shardings=self.replicated,
        )
        self._data = jax.device_put((train.images, train.labels), self.replicated)
        call = jax.jit(
            steps.make_train_call(options, self._setup.steps_per_dispatch),
            out_shardings=(self.replicated, self.replicated),
            donate_argnums=0,
        )
        data = (*self._data, self.order(0), self._train_key, np.int32(1))
        self._call = call.lower(state, self.empty_metrics(), *data).compile()

    def order(self, epoch: int) -> jax.Array:
        """Returns the order of the training images in an epoch."""
        return self._order(self._order_key, epoch)

    def train(
        self, state: TrainState, metrics: Metrics, order: jax.Array, num_steps: int
    ) -> tuple[TrainState, Metrics]:
        """Trains on the next batches, without waiting for them; takes the state."""
        data = (*self._data, order, self._train_key, np.int32(num_steps))
        return self._call(state, metrics, *data)

    def evaluate(
        self,
        examples: Examples,
        variables: dict[str, Any],
        *,
        batch_size: int,
        stop: StopRequest,
    ) -> dict[str, float]:
        """Returns the means over all the examples, each counted once.

        Args:
          examples: Labelled images.
          variables: Weights and batch statistics.
          batch_size: Rounded up to what all devices share evenly.
          stop: Polled for each batch.

        Raises:
          Interrupted: If a stop was asked for meanwhile.
        """
        metrics, num_devices = self.empty_metrics(), self._setup.mesh.size
        batch_size = -(-min(batch_size, len(examples)) // num_devices) * num_devices
        for index, mask in batches.every_example(len(examples), batch_size):
            if stop:
                raise Interrupted
            batch = (examples.images[index], examples.labels[index], mask)
            batch = jax.device_put(batch, self._setup.options.split)
            metrics = self._evaluate_step(metrics, variables, *batch)
        return means(metrics)


def means(metrics: Metrics) -> dict[str, float]:
    """Returns `loss` and `accuracy`, fetched from the devices."""
    return {k: float(v) for k, v in jax.device_get(metrics).compute().items()}
