"""Other runs that a run learns from: the one whose weights it starts with, its teacher.

Like `setup`, it reads the config.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.models import count
from cifar_jax.training import sharding, trained
from cifar_jax.training.checkpoint import digest
from cifar_jax.training.methods import pruning
from cifar_jax.training.methods.distillation import Distillation
from cifar_jax.training.optim import path_name
from cifar_jax.training.setup import Setup, Teacher
from cifar_jax.training.state import TrainState
from cifar_jax.training.tracking import RunDirectory


def with_teacher(config: ConfigDict, setup: Setup) -> Setup:
    """Returns the setup with the teacher that the config asks for, if any.

    Raises:
      UserError: If there is no such network, or it knows other classes or images.
    """
    workdir, weight, temperature = (
        config.distill[key] for key in ("teacher", "weight", "temperature")
    )
    if workdir is None:
        return setup
    if not 0 < weight <= 1:
        raise UserError(f"distill.weight is {weight}; use more than 0, at most 1")
    if not temperature > 0:
        raise UserError(f"distill.temperature is {temperature}; use more than 0")
    where = sharding.replicated(setup.mesh)
    network = _load("distill.teacher", workdir, where)
    for name in ("label_names", "image_shape"):
        theirs, ours = getattr(network, name), getattr(setup.source, name)
        if theirs != ours:
            raise UserError(
                f"distill.teacher is {workdir}, whose {name} are {_short(theirs)}, not "
                f"the data's {_short(ours)}; use a network trained on such data"
            )

    def teach(variables: Any, images: jax.Array) -> jax.Array:
        return dataclasses.replace(network, variables=variables).logits(images)

    options = dataclasses.replace(
        setup.options, distillation=Distillation(teach, weight, temperature)
    )
    facts = _facts(workdir, network) | _cost(workdir, network)
    teacher = Teacher(variables=network.variables, facts=facts)
    return dataclasses.replace(setup, options=options, teacher=teacher)


def check_teacher(setup: Setup, facts: dict[str, Any] | None) -> None:
    """Refuses to go on with another teacher than the run began with.

    Args:
      setup: With the teacher.
      facts: Of the teacher, as they were saved.

    Raises:
      UserError: If its weights are others now.
    """
    now = setup.teacher and setup.teacher.facts
    if now and facts and now["digest"] != facts["digest"]:
        raise UserError(
            f"distill.teacher is {now['workdir']}, whose weights have changed since "
            f"the run began (epoch {facts['epoch']} then, {now['epoch']} now); restore "
            "them from a copy, or start in another --workdir"
        )


def start(
    config: ConfigDict, setup: Setup, state: TrainState
) -> tuple[TrainState, dict[str, Any] | None]:
    """Returns the first state with the weights that the config asks for.

    Args:
      config: As `cifar_jax.config` has it.
      setup: Of the run.
      state: Before the first step.

    Returns:
      The state, and where its weights come from; None: they are random.

    Raises:
      UserError: If there is no such network, or it has other shapes.
    """
    workdir = config.init.workdir
    if workdir is None:
        if setup.options.pruning_plan:
            state = state.replace(params=pruning.enliven(state.params))
        return state, None
    network = _load("init.workdir", workdir, sharding.replicated(setup.mesh))
    _check_shapes(workdir, network.variables["params"], state.params)
    state = state.replace(**network.variables)
    if state.averages is not None:  # copies: the step takes both
        state = state.replace(averages=jax.tree.map(jnp.copy, network.variables))
    return state, _facts(workdir, network)


def _load(key: str, workdir: str, where: NamedSharding) -> trained.Trained:
    try:
        return trained.load(workdir, where)
    except UserError as error:
        raise UserError(f"{key} is {workdir}: {error}") from error


def _check_shapes(workdir: str, found: Any, expected: Any) -> None:
    shapes, wanted = (
        {
            path_name(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (found, expected)
    )
    for path in sorted({*shapes, *wanted}):
        has, needs = shapes.get(path, "missing"), wanted.get(path, "not there")
        if has != needs:
            raise UserError(
                f"init.workdir is {workdir}, in which {path} is {has} and in this "
                f"config {needs}; use the same config.model, and as many classes"
            )


def _facts(workdir: str, network: trained.Trained) -> dict[str, Any]:
    return {
        "workdir": workdir,
        "epoch": network.epoch,
        "digest": digest(jax.device_get(network.variables), {}),
    }


def _cost(workdir: str, network: trained.Trained) -> dict[str, Any]:
    """Returns what a teacher has cost: an imported one has no times."""
    result = RunDirectory(workdir).result()
    return {
        "num_parameters": count.num_parameters(network.model, network.image_shape),
        "flops_per_image": 2 * count.macs(network.model, network.image_shape),
        "seconds": result and result["seconds"],
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
