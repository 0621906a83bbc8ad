"""Ways in JAX to train and run one network, each in a process of its own.

A contender has `train(num_steps)` and `infer(num_batches)`, which return when the
device is done, and tells what makes the comparison fair: see `Contender`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from cifar_jax import _runtime
from cifar_jax.data.sources import Examples
from cifar_jax.evaluation import efficiency, gpu, peaks
from cifar_jax.evaluation.task import CROP_PADDING, Task
from cifar_jax.models.design import pooled_size
from cifar_jax.training import results, setup, sharding
from cifar_jax.training.engine import Engine, Feed, means
from cifar_jax.training.interrupt import StopRequest
from cifar_jax.training.state import create_state
from cifar_jax.training.steps import normalize


class Contender(Protocol):
    """What `cifar_jax.evaluation.workers` runs."""

    def facts(self) -> dict[str, Any]:
        """Returns `num_parameters`, `batch_size`, `dtype`, `device`, `versions`."""

    def train(self, num_steps: int) -> None:
        """Trains on the next batches and waits for them."""

    def infer(self, num_batches: int) -> None:
        """Labels batches of images and waits for them."""

    def logits(self, variables: dict, images: np.ndarray) -> np.ndarray:
        """Returns logits [B, K] in eval mode.

        Args:
          variables: Arrays by path, of weights and batch statistics together.
          images: float32 [B, H, W, C], normalised.
        """

    def peak_flops(self) -> float:
        """Returns the FLOP/s of a large matrix product in the compute dtype."""

    def peak_memory(self) -> int:
        """Returns the most bytes held so far: on the device, or by the process."""


class _Jax:
    """What the two contenders in JAX share."""

    def __init__(self, config: ConfigDict, devices=None):
        jax.config.update("jax_enable_compilation_cache", False)  # compile time counts
        self._setup = setup.make(config, devices, lambda line: None)
        self._optimizer = config.optim.to_dict()

    @property
    def _batch_size(self) -> int:
        return self._setup.options.batch_size

    def facts(self) -> dict[str, Any]:
        count = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
        facts = results.environment(self._setup.mesh)
        facts["versions"] |= gpu.libraries()
        return {
            "num_parameters": count,
            "batch_size": self._batch_size,
            "dtype": jnp.dtype(self._setup.model.dtype).name,
            **facts,
        }

    def task(self) -> Task:
        """Returns what a contender without JAX needs to know."""
        model, options = self._setup.model, self._setup.options
        height, width = pooled_size(model.design, self._setup.source.image_shape)
        return Task(
            design=model.design,
            image_shape=tuple(self._setup.source.image_shape),
            num_classes=options.num_classes,
            num_images=len(self._setup.train),
            batch_size=options.batch_size,
            head_map=(model.design.widths[-1], height, width),
            mean=tuple(map(float, options.mean)),
            std=tuple(map(float, options.std)),
            label_smoothing=options.label_smoothing,
            optimizer=self._optimizer,
            flops_per_image=self._setup.flops_per_image,
            shapes={
                path: tuple(leaf.shape) for path, leaf in self._flat_variables().items()
            },
        )

    def _flat_variables(self) -> dict:
        params, statistics = self._state.params, self._state.batch_stats
        flat = traverse_util.flatten_dict(params)
        return flat | traverse_util.flatten_dict(statistics)

    def logits(self, variables: dict, images: np.ndarray) -> np.ndarray:
        tree = {
            "params": {k: v for k, v in variables.items() if k[-1] not in _STATISTICS},
            "batch_stats": {k: v for k, v in variables.items() if k[-1] in _STATISTICS},
        }
        tree = {k: traverse_util.unflatten_dict(v) for k, v in tree.items()}
        apply = jax.jit(functools.partial(self._setup.model.apply, train=False))
        return np.asarray(apply(tree, images))

    def peak_flops(self) -> float:
        return peaks.flops(self._setup.model.dtype)

    def peak_memory(self) -> int:
        return efficiency.peak_memory(self._setup.mesh.devices.flat)


_STATISTICS = ("mean", "var")


class Ours(_Jax):
    """This project: what `cifar_jax.main` runs between two epochs' ends.

    Args:
      config: As `cifar_jax.config` has it.
      change: Makes another network of the config's.
    """

    def __init__(self, config: ConfigDict, change: Callable = lambda model: model):
        _runtime.start(config.train.cpu_devices)
        super().__init__(config)
        model = change(self._setup.model)
        self._setup = dataclasses.replace(self._setup, model=model)
        self._engine = Engine(self._setup, config.seed)
        self._state = self._engine.first_state()
        self._metrics = self._engine.empty_metrics()
        self._steps_per_epoch = self._setup.options.steps_per_epoch
        self._step = 0

    def train(self, num_steps: int) -> None:
        """Trains as the loop does."""
        if self._step == 0:
            self._engine.compile(self._state)
        end = self._step + num_steps
        while self._step < end:
            epoch, position = divmod(self._step, self._steps_per_epoch)
            if position == 0:
                self._metrics = self._engine.empty_metrics()
            with self._engine.epoch(epoch, position) as feed:
                self._train_within(feed, min(end, (epoch + 1) * self._steps_per_epoch))
        jax.block_until_ready(self._metrics)

    def _train_within(self, feed: Feed, end: int) -> None:
        """Trains to a step of the same epoch."""
        while self._step < end:
            count = self._engine.num_steps(self._step, end)
            before, starts = self._metrics, self._step % self._steps_per_epoch == 0
            self._state, self._metrics = self._engine.train(
                self._state, before, feed, step=self._step, num_steps=count
            )
            if not starts:
                means(before)  # the loop watches the call before this one
            self._step += count

    def infer(self, num_batches: int) -> None:
        """Evaluates, as in validation: after the first time, images on the devices."""
        self._engine.evaluate(
            self._examples(num_batches * self._batch_size),
            self._state.variables,
            batch_size=self._batch_size,
            stop=StopRequest(),
        )

    @functools.cache  # noqa: B019  (a process has one of these)
    def _examples(self, num_images: int) -> Examples:
        train = self._setup.train
        return train[np.arange(num_images) % len(train)]


class PlainFlax(_Jax):
    """What is commonly written: NumPy makes the batches, and each step is a dispatch.

    On one device, with the same network, loss and optimiser as ours.
    """

    def __init__(self, config: ConfigDict):
        super().__init__(config, jax.devices()[:1])
        model = self._setup.model.clone(convolve=None)  # Flax's own
        self._setup = dataclasses.replace(self._setup, model=model)
        self._random = np.random.default_rng(config.seed)
        self._state = create_state(
            jax.random.key(config.seed),
            self._setup.model,
            self._setup.optimizer,
            image_shape=self._setup.source.image_shape,
            average=False,
            sharding=sharding.replicated(self._setup.mesh),
            stem_kernel=self._setup.stem_kernel,
        )
        self._train_step = jax.jit(self._make_step(), donate_argnums=0)
        self._predict = jax.jit(self._make_predict())

    def _make_step(self):
        options = self._setup.options

        def train_step(state, images, labels):
            images = normalize(images, options.mean, options.std)
            targets = jax.nn.one_hot(labels, options.num_classes)
            targets = optax.smooth_labels(targets, options.label_smoothing)

            def loss_fn(params):
                logits, updates = state.apply_fn(
                    {"params": params, "batch_stats": state.batch_stats},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                )
                loss = optax.softmax_cross_entropy(logits, targets).mean()
                return loss, updates["batch_stats"]

            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, batch_stats), grads = gradient(state.params)
            return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss

        return train_step

    def _make_predict(self):
        model, options = self._setup.model, self._setup.options

        def predict(variables, images):
            images = normalize(images, options.mean, options.std)
            return model.apply(variables, images, train=False).argmax(-1)

        return predict

    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns a batch, cropped and flipped by NumPy."""
        images, labels = self._setup.train.images, self._setup.train.labels
        index = self._random.integers(0, len(images), self._batch_size)
        return crop_and_flip(self._random, images[index]), labels[index]

    def train(self, num_steps: int) -> None:
        """Trains on random batches and waits for them."""
        for _ in range(num_steps):
            batch = jax.device_put(self._sample())
            self._state, loss = self._train_step(self._state, *batch)
        jax.block_until_ready(loss)

    def infer(self, num_batches: int) -> None:
        """Labels batches from the host and waits for them."""
        images, size = self._setup.train.images, self._batch_size
        for number in range(num_batches):
            index = np.arange(number * size, (number + 1) * size) % len(images)
            found = self._predict(self._state.variables, jax.device_put(images[index]))
        jax.block_until_ready(found)


def crop_and_flip(random: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Returns uint8 [B, H, W, C], padded with zeros, cropped at random and mirrored."""
    batch, height, width, _ = images.shape
    pad = (CROP_PADDING, CROP_PADDING)
    padded = np.pad(images, ((0, 0), pad, pad, (0, 0)))
    top, left = random.integers(0, 2 * CROP_PADDING + 1, (2, batch, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    mirrored = random.random((batch, 1)) < 0.5
    columns = np.where(mirrored, columns[:, ::-1], columns)
    number = np.arange(batch)[:, None, None]
    return padded[number, rows[:, :, None], columns[:, None, :]]
