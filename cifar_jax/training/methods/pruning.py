"""Magnitude pruning: the smallest weights become zero, little by little, for good.

Only the kernels of the blocks are pruned. The stem and the classifier hold few weights,
and every image depends on each of them; BatchNorm's numbers and biases are fewer still.

A weight that is zero is a dead one, so the weights are their own mask: there is nothing
else to save, and what is saved, evaluated and exported has exact zeros.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import UserError
from cifar_jax.training import durations
from cifar_jax.training.optim import path_name
from cifar_jax.training.state import TrainState

TINY = 1e-30  # far below what any other weight would notice, and not zero
NUM_ROUNDS = 50  # in which the weights die: sorting them in every step would be slow
_PRUNED = re.compile(r"stage.*/kernel")


@dataclasses.dataclass(frozen=True)
class Plan:
    """When how many weights die.

    Attributes:
      sparsity: Share of the kernels' weights that is zero in the end.
      start: Steps after which the first weights die.
      stop: Steps after which the last ones have died.
    """

    sparsity: float
    start: int
    stop: int

    def share(self, step: Any) -> jax.Array:
        """Returns the share that is to be zero after so many steps.

        Many weights die while many are superfluous, and few in the end (Zhu & Gupta,
        2017, arXiv:1710.01878, equation 1).
        """
        left = jnp.clip((self.stop - step) / (self.stop - self.start), 0, 1)
        return self.sparsity * (1 - left**3)

    def is_due(self, step: Any) -> jax.Array:
        """Tells whether weights die after this step."""
        every = max(1, (self.stop - self.start) // NUM_ROUNDS)
        during = (step >= self.start) & (step <= self.stop)
        return during & (((step - self.start) % every == 0) | (step == self.stop))


def make_plan(
    sparsity: float, start: str, stop: str, *, steps_per_epoch: int, total_steps: int
) -> Plan | None:
    """Returns the plan of a run, or None where nothing is pruned.

    Args:
      sparsity: Share of the kernels' weights; 0: none.
      start: Duration, as `durations.to_steps` has it.
      stop: Likewise.
      steps_per_epoch: Steps in an epoch.
      total_steps: Steps in the run.

    Raises:
      UserError: If the weights would not be pruned before the run ends.
    """
    if not sparsity:
        return None
    length = dict(steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    first = durations.to_steps("prune.start", start, **length)
    last = durations.to_steps("prune.stop", stop, **length)
    if not first < last <= total_steps:
        raise UserError(
            f"prune.start is {start!r} and prune.stop {stop!r}, steps {first:,} and "
            f"{last:,} of {total_steps:,}; stop later than the start, within the run"
        )
    return Plan(sparsity, first, last)


def enliven(params: Any) -> Any:
    """Returns the weights of a fresh network, of which none is dead yet.

    Kernels may start with zeros (`model.dirac_init`), which are to learn.
    """
    return _map(lambda w: jnp.where(w == 0, TINY, w), params)


def keep_dead(params: Any) -> Any:
    """Returns the same weights, of which the dead ones have no gradient."""
    return _map(lambda w: jnp.where(w == 0, 0.0, w), params)


def prune(before: Any, state: TrainState, plan: Plan) -> TrainState:
    """Returns a state in which the dead weights are dead, and more where it is due.

    Whatever an optimiser does with the weights that died earlier, they stay zero. The
    averages of dead weights are zero, too: what they averaged over is gone.

    Args:
      before: Weights before the step.
      state: After it.
      plan: See there.
    """
    params = _map(lambda old, w: jnp.where(old == 0, 0.0, w), before, state.params)
    largest = jax.lax.cond(
        plan.is_due(state.step),
        lambda: _largest_to_die(params, plan.share(state.step)),
        lambda: jnp.float32(-1),  # none
    )
    params = _map(lambda w: jnp.where(jnp.abs(w) <= largest, 0.0, w), params)
    if state.averages is None:
        return state.replace(params=params)
    averages = _map(
        lambda w, average: jnp.where(w == 0, 0.0, average),
        params,
        state.averages["params"],
    )
    return state.replace(params=params, averages={**state.averages, "params": averages})


def _largest_to_die(params: Any, share: jax.Array) -> jax.Array:
    """Returns the size of the largest weight of a share of all, from the smallest on.

    All kernels are compared with each other: half the weights of a network that was
    trained with Muon, taken out at once, cost 0.6 points of validation so, and 3.1 if
    each kernel loses its half.
    """
    sizes = jnp.concatenate([jnp.abs(kernel).ravel() for kernel in _kernels(params)])
    count = jnp.round(share * sizes.size).astype(jnp.int32)
    return jnp.where(count > 0, jnp.sort(sizes)[jnp.maximum(count - 1, 0)], -1.0)


def sparsity(params: Any) -> dict[str, float]:
    """Counts the weights that are not zero.

    Returns:
      `num_nonzero`, of all parameters, and `sparsity`, the share of zeros in the
      kernels that pruning may touch.
    """
    params = jax.device_get(params)
    kernels = _kernels(params)
    alive = sum(np.count_nonzero(kernel) for kernel in kernels)
    return {
        "num_nonzero": int(sum(map(np.count_nonzero, jax.tree.leaves(params)))),
        "sparsity": float(1 - alive / sum(kernel.size for kernel in kernels)),
    }


def _kernels(params: Any) -> list[Any]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if _is_pruned(path)]


def _map(change: Callable, params: Any, *rest: Any) -> Any:
    """Changes the kernels that are pruned; of several trees the last one's."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: change(*leaves) if _is_pruned(path) else leaves[-1],
        params,
        *rest,
    )


def _is_pruned(path: Any) -> bool:
    return _PRUNED.fullmatch(path_name(path)) is not None
