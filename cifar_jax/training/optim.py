"""Learning-rate schedules and optimisers, as Optax chains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cifar_jax import UserError


def _constant(peak, warmup_steps, total_steps, initial, final) -> optax.Schedule:
    """Warm-up, then the peak."""
    del total_steps, final
    if not warmup_steps:  # of which Optax would make the first rate, for ever
        return optax.schedules.constant_schedule(peak)
    return optax.schedules.linear_schedule(initial, peak, warmup_steps)


def _warmup_cosine(peak, warmup_steps, total_steps, initial, final) -> optax.Schedule:
    """Linear warm-up, then half a cosine (Loshchilov & Hutter, 2017, 1608.03983)."""
    return optax.schedules.warmup_cosine_decay_schedule(
        initial, peak, warmup_steps, total_steps, end_value=final
    )


def _one_cycle(peak, warmup_steps, total_steps, initial, final) -> optax.Schedule:
    """Linear up, linear down: a triangle (Smith & Topin, 2018, arXiv:1708.07120)."""
    return optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(initial, peak, warmup_steps),
            optax.schedules.linear_schedule(peak, final, total_steps - warmup_steps),
        ],
        [warmup_steps],
    )


SCHEDULES = {
    "constant": _constant,
    "one_cycle": _one_cycle,
    "warmup_cosine": _warmup_cosine,
}


def make_schedule(
    name: str,
    peak: float,
    *,
    warmup_steps: int,
    total_steps: int,
    initial_factor: float,
    final_factor: float,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      name: A key of `SCHEDULES`.
      peak: Largest learning rate.
      warmup_steps: Steps from the first learning rate to the peak.
      total_steps: Steps of the run; the last learning rate is reached after them.
      initial_factor: First learning rate, as a share of the peak.
      final_factor: Last learning rate, as a share of the peak.

    Raises:
      UserError: If the name is unknown, the peak is not positive, or the warm-up is
        longer than the run.
    """
    if name not in SCHEDULES:
        raise UserError(f"schedule.name is {name!r}; use {', '.join(SCHEDULES)}")
    if not peak > 0:
        raise UserError(f"optim.learning_rate is {peak}; use a positive one")
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"the warm-up takes {warmup_steps:,} steps of a run of {total_steps:,}; "
            "use a smaller schedule.warmup_fraction or more train.epochs"
        )
    return SCHEDULES[name](
        peak, warmup_steps, total_steps, peak * initial_factor, peak * final_factor
    )


def _sgd(schedule, *, momentum, nesterov, weight_decay, **_):
    return [
        optax.add_decayed_weights(weight_decay, _is_kernel),
        optax.sgd(schedule, momentum, nesterov),
    ]


def _adam(schedule, *, b1, b2, weight_decay, **_):
    return [
        optax.add_decayed_weights(weight_decay, _is_kernel),
        optax.adam(schedule, b1, b2),
    ]


def _adamw(schedule, *, b1, b2, weight_decay, **_):
    return [
        optax.adamw(schedule, b1, b2, weight_decay=weight_decay, mask=_is_kernel),
    ]


def _muon(schedule, *, muon_scale, muon_beta, muon_steps, muon_weight_decay, **options):
    """Muon (Jordan et al., 2024) for the blocks' convolutions, SGD for the rest.

    The first and the last layer are no maps between features, so they stay with SGD.
    """

    def label(path, leaf):
        in_block = path[0].key.startswith("stage")
        return "muon" if in_block and jnp.ndim(leaf) == 4 else "sgd"

    muon = optax.contrib.muon(
        lambda step: muon_scale * schedule(step),
        ns_steps=muon_steps,
        beta=muon_beta,
        weight_decay=muon_weight_decay,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(
            lambda _: _KERNEL_AS_MATRIX, params
        ),
    )
    return [
        optax.partition(
            {"muon": muon, "sgd": optax.chain(*_sgd(schedule, **options))},
            lambda params: jax.tree_util.tree_map_with_path(label, params),
        )
    ]


# Inputs of a convolution are patches: height, width and channels, together.
_KERNEL_AS_MATRIX = optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))

OPTIMIZERS: dict[str, Callable[..., list[optax.GradientTransformation]]] = {
    "adam": _adam,
    "adamw": _adamw,
    "muon": _muon,
    "sgd": _sgd,
}


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    gradient_clip: float,
    frozen: tuple[str, ...] = (),
    **options: Any,
) -> optax.GradientTransformation:
    """Returns the optimiser as an Optax chain.

    Weight decay touches kernels only, never BatchNorm or biases. SGD and Adam add it to
    the gradient (L2); AdamW decays the weights apart from the gradient's scaling
    (Loshchilov & Hutter, 2019, arXiv:1711.05101).

    Args:
      name: A key of `OPTIMIZERS`.
      schedule: Learning rate by step.
      gradient_clip: Largest global norm of the gradient; 0: no clipping.
      frozen: Paths of parameters that stay as they are, such as `stem_conv/kernel`.
      **options: Of the optimisers: the other keys of `config.optim`.

    Raises:
      UserError: If the name is unknown.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optim.name is {name!r}; use {', '.join(OPTIMIZERS)}")
    clip = [optax.clip_by_global_norm(gradient_clip)] if gradient_clip else []
    chain = optax.chain(*clip, *OPTIMIZERS[name](schedule, **options))
    if not frozen:
        return chain

    def label(path, _):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return "frozen" if name in frozen else "trained"

    return optax.partition(
        {"frozen": optax.set_to_zero(), "trained": chain},
        lambda params: jax.tree_util.tree_map_with_path(label, params),
    )


def _is_kernel(params: Any) -> Any:
    """True for kernels of convolutions and linear layers: what has an input axis."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
