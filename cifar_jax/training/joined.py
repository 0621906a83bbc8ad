"""One call of the devices that trains several runs by a step, or by several steps."""

import contextlib
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cifar_jax.training import sharding, variants
from cifar_jax.training.calls import Compile, Train
from cifar_jax.training.engine import Engine, training_call
from cifar_jax.training.setup import Setup
from cifar_jax.training.state import Metrics, TrainState

# What the training call is fed with, by the images' placement: is it the same for all
# runs? (images, labels, order, key, number of steps; or images, labels, index, key.)
_SHARED = {"device": (True, True, False, False, True), "host": (False,) * 4}
Answers = tuple[Sequence[TrainState], Sequence[Metrics]]


class Joined:
    """The training call of runs that differ in their seeds and in some numbers.

    Args:
      prepared: Of one of the runs.
      config: Of the same.
      engines: Of the runs, by their numbers.
      values: float32 [runs] of each number that differs, by its key.
      form: A key of `FORMS`; None: the one for these devices.
    """

    def __init__(
        self,
        prepared: Setup,
        config: ConfigDict,
        engines: Mapping[int, Engine],
        values: Mapping[str, np.ndarray],
        form: str | None = None,
    ):
        self._prepared, self._config = prepared, config
        self._engines, self._values = engines, values
        platform = prepared.mesh.devices.flat[0].platform
        self._form = form or _FORM_OF.get(platform, "vmap")
        self._shared = _SHARED[prepared.placement]
        self._programs = {}  # by the number of runs

    def has(self, num_runs: int) -> bool:
        """Tells whether the call is compiled for so many runs."""
        return num_runs in self._programs

    def compile(self, requests: Mapping[int, Compile | Train]) -> None:
        """Compiles the call for as many runs as there are requests."""
        with contextlib.ExitStack() as stack:
            first = {
                number: Train(
                    request.state,
                    self._engines[number].empty_metrics(),
                    stack.enter_context(self._engines[number].epoch(0, 0)),
                    num_steps=1,
                    step=0,
                    ends=False,
                )
                for number, request in requests.items()
            }
            arguments = self._arguments(first)
        num_runs = len(requests)
        join = FORMS[self._form if num_runs > 1 else "unrolled"]
        call = jax.jit(
            join(self._step, num_runs, self._shared),
            out_shardings=sharding.replicated(self._prepared.mesh),
            donate_argnums=0,
        )
        self._programs[num_runs] = call.lower(*arguments).compile()

    def train(
        self, requests: Mapping[int, Train]
    ) -> dict[int, tuple[TrainState, Metrics]]:
        """Answers requests at the same step, of as many runs as it is compiled for.

        It waits for the call before this one, on behalf of all.
        """
        arguments = self._arguments(requests)
        states, metrics = self._programs[len(requests)](*arguments)
        ends = any(request.ends for request in requests.values())
        jax.block_until_ready(metrics if ends else arguments[1])
        return dict(zip(requests, zip(states, metrics, strict=True), strict=True))

    def _arguments(self, requests: Mapping[int, Train]) -> tuple:
        rows = [request.feed(request.num_steps) for request in requests.values()]
        columns = tuple(
            column[0] if is_shared else column
            for column, is_shared in _pairs(zip(*rows, strict=True), self._shared)
        )
        return (
            tuple(request.state for request in requests.values()),
            tuple(request.metrics for request in requests.values()),
            columns,
            {key: values[[*requests]] for key, values in self._values.items()},
        )

    def _step(
        self, state: TrainState, metrics: Metrics, fed: Sequence, values: Mapping
    ):
        """Calls the training call of one run, whose numbers are traced."""
        varied = variants.vary(self._prepared, self._config, values)
        new, metrics = training_call(varied)(
            state.replace(tx=varied.optimizer), metrics, *fed
        )
        return new.replace(tx=state.tx), metrics


def _vmapped(step: Callable, num_runs: int, shared: Sequence[bool]) -> Callable:
    """One step of arrays that have an axis for the runs."""

    def call(states, metrics, columns, values) -> Answers:
        fed = [
            column if is_shared else _stack(column)
            for column, is_shared in _pairs(columns, shared)
        ]
        axes = [None if is_shared else 0 for is_shared in shared]
        answers = jax.vmap(step, in_axes=(0, 0, axes, 0))(
            _stack(states), _stack(metrics), fed, values
        )
        return tuple(_unstack(tree, num_runs) for tree in answers)

    return call


def _unrolled(step: Callable, num_runs: int, shared: Sequence[bool]) -> Callable:
    """The steps of all runs in one program, which may work on some at a time."""

    def call(states, metrics, columns, values) -> Answers:
        answers = [
            step(
                states[number],
                metrics[number],
                [
                    column if is_shared else column[number]
                    for column, is_shared in _pairs(columns, shared)
                ],
                {key: value[number] for key, value in values.items()},
            )
            for number in range(num_runs)
        ]
        return tuple(zip(*answers, strict=True))

    return call


FORMS = {"vmap": _vmapped, "unrolled": _unrolled}
_FORM_OF = {"cpu": "unrolled"}  # by the devices' platform; of all others: vmap


_pairs = functools.partial(zip, strict=True)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, num_runs: int) -> list[Any]:
    return [
        jax.tree.map(operator.itemgetter(number), tree) for number in range(num_runs)
    ]
