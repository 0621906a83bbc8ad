"""The training step on a network without convolutions, which are slow in CPU loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from cifar_jax.data import batches
from cifar_jax.training import distributed, feed, state, steps
from cifar_jax.training.state import Metrics, create_state

SHAPE = (4, 4, 3)
NUM_CLASSES = 10
MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.3])
KEY = jax.random.key(5)

means = state.means


class Net(nn.Module):
    """Two layers with BatchNorm between them."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(24)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(NUM_CLASSES)(nn.relu(x))


class Plain(nn.Module):
    """A network in which no image sees another."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.variable("batch_stats", "unused", lambda: jnp.zeros(()))
        return nn.Dense(NUM_CLASSES)(x.reshape(len(x), -1))


def keep(key, images, labels, **context):
    """An augmentation that changes nothing."""
    del key, context
    return images.astype(jnp.float32), labels


def examples(num_examples):
    random = np.random.default_rng(num_examples)
    images = random.integers(0, 256, (num_examples, *SHAPE), dtype=np.uint8)
    return images, random.integers(0, NUM_CLASSES, num_examples, dtype=np.int32)


class Run:
    """A state on some devices, and the calls that move it."""

    def __init__(
        self,
        num_examples=32,
        *,
        net=Net,
        num_devices=1,
        optimizer=None,
        average=False,
        **options,
    ):
        self.mesh = distributed.make_mesh(jax.devices()[:num_devices])
        self.replicated = distributed.replicated(self.mesh)
        defaults = dict(
            num_classes=NUM_CLASSES,
            batch_size=16,
            steps_per_epoch=num_examples // 16,
            total_steps=1000,
            augment=keep,
            mean=MEAN,
            std=STD,
            label_smoothing=0.0,
            ema_decay=0.0,
            split=distributed.split(self.mesh),
        )
        self.options = steps.StepOptions(**defaults | options)
        self._evaluations = {}
        self.data = jax.device_put(examples(num_examples), self.replicated)
        start = create_state(
            jax.random.key(0),
            net(),
            optimizer or optax.sgd(0.1, momentum=0.9),
            image_shape=SHAPE,
            average=average,
        )
        # Copies: the averages start as the same arrays as the weights.
        self.state = jax.tree.map(jnp.copy, jax.device_put(start, self.replicated))
        self.metrics = jax.device_put(Metrics.empty(), self.replicated)
        self.order = jax.device_put(
            batches.epoch_order(KEY, 0, num_examples), self.replicated
        )
        self.stored = steps.Batch(*self.data, self.order)

    def compile(self, num_steps=1):
        """Returns the call of the devices that takes so many steps."""
        call = functools.partial(
            feed.train_stored, options=self.options, num_steps=num_steps
        )
        return jax.jit(call, out_shardings=(self.replicated, self.replicated))

    def train(self, num_steps, call=None, in_one=1):
        call = call or self.compile(in_one)
        for _ in range(num_steps // in_one):
            self.state, self.metrics = call(self.state, self.metrics, self.stored, KEY)
        return self

    def evaluate(self, images, labels, batch_size, **options):
        call = self._evaluations.setdefault(
            str(options),
            jax.jit(
                functools.partial(
                    steps.evaluate,
                    apply_fn=self.state.apply_fn,
                    options=self.options,
                    **options,
                )
            ),
        )
        metrics = Metrics.empty()
        for index, mask in batches.every_example(len(labels), batch_size):
            batch = steps.Batch(images[index], labels[index], index)
            metrics = call(metrics, self.state.eval_variables, batch, mask)
        return means(metrics)


def check_close(one, other, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance),
        *(jax.device_get(tree) for tree in (one, other)),
    )


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
