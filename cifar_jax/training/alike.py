"""Runs that differ in so little that one program can train them all."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.models import count
from cifar_jax.training import checks, setup, sharding
from cifar_jax.training.plain_config import flat, plain

# Numbers that a step only calculates with: a program can take them as arguments.
SCALARS = (
    "optim.learning_rate",
    "optim.momentum",
    "optim.weight_decay",
    "train.label_smoothing",
)
_NONE = MappingProxyType({})
# What a run has of its own beside its call, by the values that have none of it.
_ALONE = {
    "distill.teacher": (None,),
    "init.workdir": (None,),
    "optim.sam_start": ("0%",),
}


def differences(configs: Sequence[ConfigDict]) -> dict[str, list[Any]]:
    """Returns the values of each key in which configs differ, by its dotted path.

    Raises:
      UserError: If they differ in another key than `seed` and `SCALARS`.
    """
    rows = [flat(plain(config)) for config in configs]
    keys = sorted({key for row in rows for key in row})
    for key, values in _ALONE.items():
        if rows[0].get(key) not in values:
            raise UserError(
                f"{key} is {rows[0][key]}, but runs that train together have nothing "
                f"of the kind; set it to {values[0]}, or train them one after another"
            )
    found = {key: [row.get(key) for row in rows] for key in keys}
    found = {
        key: values
        for key, values in found.items()
        if any(value != values[0] for value in values)
    }
    for key, values in found.items():
        if key not in ("seed", *SCALARS):
            other = next(value for value in values if value != values[0])
            raise UserError(
                f"runs that train together differ in {key} ({values[0]} and {other}); "
                f"they may in seed, {', '.join(SCALARS)}: train the others apart"
            )
    return found


def scalars(configs: Sequence[ConfigDict]) -> dict[str, np.ndarray]:
    """Returns the values, float32 [runs], of those of `SCALARS` that differ."""
    return {
        key: np.float32(values)
        for key, values in differences(configs).items()
        if key in SCALARS
    }


def names(configs: Sequence[ConfigDict]) -> list[str]:
    """Returns what tells runs apart, such as "seed 3"."""
    differing = differences(configs)
    return [
        ", ".join(f"{key} {values[number]}" for key, values in differing.items())
        or f"run {number + 1}"
        for number in range(len(configs))
    ]


def vary(
    prepared: setup.Setup,
    config: ConfigDict,
    traced: Mapping[str, jax.Array] = _NONE,
) -> setup.Setup:
    """Returns the setup of a run that differs in its seed and in `SCALARS` alone.

    Args:
      prepared: Of the other run.
      config: Of this one.
      traced: What takes the place of some of `SCALARS`.

    Raises:
      UserError: names the key, its value, the limit and the remedy.
    """
    checks.check(config, prepared.mesh)
    traced = dict(traced)
    smoothing = traced.pop("train.label_smoothing", config.train.label_smoothing)
    schedule, optimizer = setup.make_optimizer(
        config,
        prepared.options.steps_per_epoch,
        frozen=setup.frozen(prepared.model),
        paths=count.parameter_paths(prepared.model, prepared.source.image_shape),
        traced={key.removeprefix("optim."): value for key, value in traced.items()},
    )
    return dataclasses.replace(
        prepared,
        schedule=schedule,
        optimizer=optimizer,
        options=dataclasses.replace(prepared.options, label_smoothing=smoothing),
    )


def place(prepared: setup.Setup, mesh: Mesh) -> setup.Setup:
    """Returns the setup of a run on other devices."""
    options = dataclasses.replace(prepared.options, split=sharding.split(mesh))
    return dataclasses.replace(prepared, mesh=mesh, options=options)
