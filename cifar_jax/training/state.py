"""What training changes: weights, batch statistics, optimiser state, averages."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from flax.training import train_state
from jax.sharding import Sharding


class TrainState(train_state.TrainState):
    """Flax's train state with what this project adds.

    Attributes:
      batch_stats: BatchNorm's running statistics.
      averages: Exponential moving average of `variables`, or None.
    """

    batch_stats: Any = None
    averages: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """Weights and batch statistics as training sees them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def best_variables(self) -> dict[str, Any]:
        """What is evaluated and shipped: the averages where there are any."""
        return self.variables if self.averages is None else self.averages


@flax.struct.dataclass
class Metrics(metrics.Collection):
    """Means over the examples seen since the collection was empty."""

    loss: metrics.Average.from_output("loss")
    accuracy: metrics.Average.from_output("correct")


def create_state(key: jax.Array, *args: Any, **options: Any) -> TrainState:
    """Returns the state before the first step, made on its devices.

    Args:
      key: For the weights.
      *args: Of `state_maker`.
      **options: Likewise.
    """
    return state_maker(*args, **options)(key)


def state_maker(
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    image_shape: tuple[int, int, int],
    average: bool,
    sharding: Sharding,
    stem_kernel: np.ndarray | None = None,
) -> Callable[[jax.Array], TrainState]:
    """Returns the compiled function from a key to the state before the first step.

    Args:
      model: The network, a Flax module.
      optimizer: Optax chain.
      image_shape: Height, width and channels.
      average: Whether to keep averages of the variables.
      sharding: Where the state lies.
      stem_kernel: float32 [k, k, C, width] to start the stem with, or None.
    """

    def create(key):
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

    # Optimising so many random numbers takes LLVM most of the time of a short run.
    on_cpu = next(iter(sharding.device_set)).platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else {}
    jitted = jax.jit(create, out_shardings=sharding, compiler_options=options)

    def make(key):
        if isinstance(key, jax.core.Tracer):  # only the shapes are asked for
            return create(key)
        return jitted(key)

    return make


def update_averages(state: TrainState, decay: float) -> TrainState:
    """Moves the averages towards the variables, faster while the run is young.

    The decay rises as (1 + t) / (10 + t) until it reaches the given one, so that the
    first weights are soon forgotten.
    """
    if state.averages is None:
        return state
    decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    averages = jax.tree.map(
        lambda average, value: decay * average + (1 - decay) * value,
        state.averages,
        state.variables,
    )
    return state.replace(averages=averages)
