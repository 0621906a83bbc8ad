"""What training changes: weights, batch statistics, optimizer state, averages."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax.training import train_state

from cifar_jax.models.design import ImageShape


def split_key(key: jax.Array) -> jax.Array:
    """Returns keys for the weights, the steps and the order of the images.

    Do not change their number: older runs have split the key of their seed like this.
    """
    return jax.random.split(key, 3)


class TrainState(train_state.TrainState):
    """Flax's train state with what this project adds."""

    batch_stats: Any = None  # BatchNorm's running statistics
    averages: Any = None  # exponential moving average of `variables`, or None

    @property
    def variables(self) -> dict[str, Any]:
        """Weights and batch statistics as training sees them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """Variables to evaluate and to keep: the averages where there are any."""
        return self.variables if self.averages is None else self.averages


@flax.struct.dataclass
class Metrics(metrics.Collection):
    """Means over the examples seen since the collection was empty."""

    loss: metrics.Average.from_output("loss")  # pyrefly: ignore
    accuracy: metrics.Average.from_output("correct")  # pyrefly: ignore


def means(collection: Metrics) -> dict[str, float]:
    """Returns `loss` and `accuracy`, fetched from the devices."""
    values = jax.device_get(collection).compute()
    return {name: float(value) for name, value in values.items()}


def create_state(
    key: jax.Array,
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    image_shape: ImageShape,
    average: bool,
    stem_kernel: np.ndarray | None = None,
) -> TrainState:
    """Returns the state before the first step; a pure function of the key.

    Args:
      key: Random key for the weights.
      model: Network, a Flax module.
      optimizer: Optax chain.
      image_shape: Height, width and channels.
      average: Whether to keep averages of the variables.
      stem_kernel: float32 [k, k, C, width] to start the stem with, or None.
    """
    variables = model.init(key, jnp.zeros((1, *image_shape)), train=False)
    params = variables["params"]
    if stem_kernel is not None:
        params["stem_conv"]["kernel"] = jnp.asarray(stem_kernel)
    state = TrainState.create(
        apply_fn=model.apply,
        params=params,
        tx=optimizer,
        batch_stats=variables.get("batch_stats", {}),
    )
    return state.replace(averages=state.variables if average else None)


def update_averages(state: TrainState, decay: Any) -> TrainState:
    """Returns the state with updated moving averages; the decay is warmed up.

    The decay rises as (1 + t) / (10 + t) until it reaches the given one, so that the
    first weights are soon forgotten.
    """
    if state.averages is None:
        return state
    step = jnp.float32(state.step)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    averages = optax.incremental_update(state.variables, state.averages, 1 - decay)
    return state.replace(averages=averages)
