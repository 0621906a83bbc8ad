"""Optimizers, as Optax chains."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cifar_jax import UserError


class _Direction(NamedTuple):
    """A transformation from gradients to directions.

    Attributes:
      factory: Optax's function that makes it.
      momentum: Name of the argument that a momentum schedule may move.
      option: Option with that argument's constant value.
      other: Option, and argument of the same name, that never moves.
      is_decoupled: Whether weight decay is decoupled (Loshchilov & Hutter, 2019,
        arXiv:1711.05101), or added to the gradient.
    """

    factory: Callable[..., optax.GradientTransformation]
    momentum: str
    option: str
    other: str
    is_decoupled: bool


_DIRECTIONS = {
    "adam": _Direction(optax.scale_by_adam, "b1", "b1", "b2", is_decoupled=False),
    "adamw": _Direction(optax.scale_by_adam, "b1", "b1", "b2", is_decoupled=True),
    # The sign of a moving average (Chen et al., 2023, arXiv:2302.06675).
    "lion": _Direction(optax.scale_by_lion, "b1", "b1", "b2", is_decoupled=True),
    "sgd": _Direction(optax.trace, "decay", "momentum", "nesterov", is_decoupled=False),
    "sgdw": _Direction(optax.trace, "decay", "momentum", "nesterov", is_decoupled=True),
}
OPTIMIZERS = (*_DIRECTIONS, "muon")

# Parameters that weight decay touches: those with an input axis, or all, as in PyTorch.
WEIGHT_DECAY_MASKS = {
    "all": lambda params: jax.tree.map(lambda _: True, params),
    "kernels": lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params),
}

# Inputs of a convolution are patches: height, width and channels, together.
_KERNEL_AS_MATRIX = optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    momentum_schedule: optax.Schedule | None = None,
    gradient_clip: float,
    lr_multipliers: Sequence[tuple[str, float]] = (),
    frozen: tuple[str, ...] = (),
    **options: Any,
) -> optax.GradientTransformation:
    """Returns the optimizer as an Optax chain.

    Args:
      name: One of `OPTIMIZERS`.
      schedule: Learning rate by step.
      momentum_schedule: Momentum, or Adam's and Lion's b1, by step; None: that of the
        options.
      gradient_clip: Largest global norm of the gradient; 0: no clipping.
      lr_multipliers: Pairs of a pattern of paths such as `stem_conv/kernel`, and a
        factor of the learning rate of matching parameters; the first match counts.
      frozen: Paths of parameters that stay as they are.
      **options: Options of the optimizers: the other keys of `config.optim`.
    """
    _check(name, momentum_schedule, options)
    chain = []
    if gradient_clip:
        chain.append(optax.clip_by_global_norm(gradient_clip))
    if name == "muon":
        chain.append(_muon(schedule, options))
    else:
        chain += _chain(name, schedule, momentum_schedule, options)
    if lr_multipliers:
        chain.append(_scale_by_path(lr_multipliers))
    if not frozen:
        return optax.chain(*chain)
    return optax.partition(
        {"frozen": optax.set_to_zero(), "trained": optax.chain(*chain)},
        _labels(lambda path, _: "frozen" if path in frozen else "trained"),
    )


def _check(name: str, momentum: optax.Schedule | None, options: dict[str, Any]) -> None:
    """Refuses names that are unknown, and a momentum schedule for Muon."""
    for key, value, choices in (
        ("name", name, OPTIMIZERS),
        ("muon_fallback", options["muon_fallback"], _DIRECTIONS),
        ("weight_decay_mask", options["weight_decay_mask"], WEIGHT_DECAY_MASKS),
    ):
        if value not in choices:
            raise UserError(f"optim.{key} is {value!r}; use {', '.join(choices)}")
    if name == "muon" and momentum is not None:
        raise UserError(
            "schedule.momentum_range does not move muon's momentum; use None, or "
            "another optim.name"
        )


def check_multipliers(lr_multipliers: Sequence, paths: Sequence[str]) -> None:
    """Refuses a pattern that is broken or matches no parameter.

    Args:
      lr_multipliers: Patterns and factors, as `make_optimizer` takes them.
      paths: Paths of all parameters.
    """
    for pattern, factor in lr_multipliers:
        try:
            matches = any(re.fullmatch(pattern, path) for path in paths)
        except re.error as error:
            raise UserError(
                f"optim.lr_multipliers has {pattern!r}, which is not a regular "
                f"expression ({error}); use one such as '.*/bias'"
            ) from error
        if not matches:
            raise UserError(
                f"optim.lr_multipliers has {pattern!r}, which matches no parameter; "
                f"their names are like {paths[0]} and {paths[-1]}"
            )
        if not factor >= 0:
            raise UserError(
                f"optim.lr_multipliers has {factor} for {pattern!r}; use 0 or more"
            )


def _chain(
    name: str,
    schedule: optax.Schedule,
    momentum: optax.Schedule | None,
    options: dict[str, Any],
) -> list[optax.GradientTransformation]:
    """Returns the parts of a chain: direction, weight decay, learning rate."""
    kind = _DIRECTIONS[name]
    factory, other = kind.factory, {kind.other: options[kind.other]}
    if momentum is None:
        direction = factory(**{kind.momentum: options[kind.option]}, **other)
    else:  # the schedule's value becomes a part of the optimizer's state
        injected = optax.inject_hyperparams(factory, static_args=(kind.other,))
        direction = injected(**{kind.momentum: momentum}, **other)
    decay = optax.add_decayed_weights(
        options["weight_decay"], WEIGHT_DECAY_MASKS[options["weight_decay_mask"]]
    )
    parts = [direction, decay] if kind.is_decoupled else [decay, direction]
    return [*parts, optax.scale_by_learning_rate(schedule)]


def _muon(
    schedule: optax.Schedule, options: dict[str, Any]
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the blocks' convolutions, another for the rest.

    Muon is not applied to the stem and the classifier.
    """
    muon = optax.contrib.muon(
        lambda step: options["muon_scale"] * schedule(step),
        ns_steps=options["muon_steps"],
        beta=options["muon_beta"],
        weight_decay=options["muon_weight_decay"],
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda _: _KERNEL_AS_MATRIX, params
        ),
    )
    rest = optax.chain(*_chain(options["muon_fallback"], schedule, None, options))
    labels = _labels(
        lambda path, leaf: (
            "muon" if path.startswith("stage") and jnp.ndim(leaf) == 4 else "rest"
        )
    )
    return optax.partition({"muon": muon, "rest": rest}, labels)


def _scale_by_path(multipliers: Sequence) -> optax.GradientTransformation:
    """Multiplies updates by the first factor whose pattern matches the path."""
    # The factor of the first pattern that matches, or 1.
    factors = _labels(
        lambda path, _: next(
            (factor for pattern, factor in multipliers if re.fullmatch(pattern, path)),
            1.0,
        )
    )
    return optax.stateless(
        lambda updates, _: jax.tree.map(jnp.multiply, updates, factors(updates))
    )


def _labels(label: Callable[[str, Any], Any]) -> Callable[[Any], Any]:
    """Returns a function of a tree that labels each leaf by its path."""
    return lambda tree: jax.tree_util.tree_map_with_path(
        lambda path, leaf: label(path_name(path), leaf), tree
    )


def path_name(path: Any) -> str:
    """Returns the name of a parameter, such as `stem_conv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
