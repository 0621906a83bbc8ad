"""Calls of the devices that train several runs by a step, or by several steps."""

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax.training import alike, sharding
from cifar_jax.training.calls import Compile, Train
from cifar_jax.training.engine import Engine, training_call
from cifar_jax.training.setup import Setup
from cifar_jax.training.state import Metrics, TrainState

# What the training call is fed with, by the images' placement: is it the same for all
# runs? (images, labels, order, key, number of steps; or images, labels, index, key.)
_SHARED = {"device": (True, True, False, False, True), "host": (False,) * 4}
# A call for each run; the steps of all runs on a mesh in one program; or one step of
# their arrays stacked.
FORMS = ("each", "unrolled", "vmap")
_FORM_OF = {"cpu": "each"}  # by the devices' platform; of all others: vmap
Answers = tuple[Sequence[TrainState], Sequence[Metrics]]


class Joined:
    """The training calls of runs that differ in their seeds and in some numbers.

    Args:
      setups: Of the runs, by their numbers: the same, but for their meshes.
      engines: Likewise.
      config: Of one of them.
      values: float32 [runs] of each number that differs, by its key.
      form: One of `FORMS`; None: the one for these devices.
    """

    def __init__(
        self,
        setups: Mapping[int, Setup],
        engines: Mapping[int, Engine],
        config: ConfigDict,
        values: Mapping[str, np.ndarray],
        form: str | None = None,
    ):
        self._setups, self._engines = setups, engines
        self._config, self._values = config, values
        some = next(iter(setups.values()))
        platform = some.mesh.devices.flat[0].platform
        self._form = form or _FORM_OF.get(platform, "vmap")
        self._shared = _SHARED[some.placement]
        self._programs = {}  # by mesh and number of runs

    def has(self, numbers: Iterable[int]) -> bool:
        """Tells whether all is compiled that these runs need."""
        return all(
            self._key(group) in self._programs for group in self._groups(numbers)
        )

    def compile(self, requests: Mapping[int, Compile | Train]) -> None:
        """Compiles what the runs that ask need."""
        for group in self._groups(requests):
            if self._key(group) not in self._programs:
                states = {number: requests[number].state for number in group}
                self._programs[self._key(group)] = self._compiled(states)

    def train(
        self, requests: Mapping[int, Train]
    ) -> dict[int, tuple[TrainState, Metrics]]:
        """Answers requests at the same step, for which all is compiled.

        It waits for the calls before these, on behalf of all.
        """
        answers = {}
        for group in self._groups(requests):
            asked = {number: requests[number] for number in group}
            states, metrics = self._programs[self._key(group)](*self._arguments(asked))
            answers |= zip(group, zip(states, metrics, strict=True), strict=True)
        for number, request in requests.items():
            jax.block_until_ready(answers[number] if request.ends else request.metrics)
        return answers

    def _groups(self, numbers: Iterable[int]) -> list[list[int]]:
        """Returns the runs that share a call."""
        if self._form == "each":
            return [[number] for number in numbers]
        groups = {}
        for number in numbers:
            groups.setdefault(self._setups[number].mesh, []).append(number)
        return list(groups.values())

    def _key(self, group: Sequence[int]) -> tuple[Mesh, int]:
        return self._setups[group[0]].mesh, len(group)

    def _compiled(self, states: Mapping[int, TrainState]) -> Callable:
        with contextlib.ExitStack() as stack:
            first = {
                number: Train(
                    state,
                    self._engines[number].empty_metrics(),
                    stack.enter_context(self._engines[number].epoch(0, 0)),
                    num_steps=1,
                    step=0,
                    ends=False,
                )
                for number, state in states.items()
            }
            arguments = self._arguments(first)
        setup, num_runs = self._setups[next(iter(states))], len(states)
        join = _vmapped if self._form == "vmap" and num_runs > 1 else _unrolled
        call = jax.jit(
            join(functools.partial(self._step, setup), num_runs, self._shared),
            out_shardings=sharding.replicated(setup.mesh),
            donate_argnums=0,
        )
        return call.lower(*arguments).compile()

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
        self,
        setup: Setup,
        state: TrainState,
        metrics: Metrics,
        fed: Sequence[jax.Array],
        values: Mapping[str, jax.Array],
    ) -> tuple[TrainState, Metrics]:
        """Does what the training call of one run does, with its numbers traced."""
        varied = alike.vary(setup, self._config, values)
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


_pairs = functools.partial(zip, strict=True)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, num_runs: int) -> list[Any]:
    return [
        jax.tree.map(operator.itemgetter(number), tree) for number in range(num_runs)
    ]
