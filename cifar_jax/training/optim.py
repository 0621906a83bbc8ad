"""Optimizers, as Optax chains."""

import collections
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from cifar_jax import UserError

# From gradients to directions: Optax's function, its argument that a momentum schedule
# may move, the option with that argument's constant value, and an option, and argument
# of the same name, that never moves.
_DIRECTIONS = {
    "adam": (optax.scale_by_adam, "b1", "b1", "b2"),
    # The sign of a moving average (Chen et al., 2023, arXiv:2302.06675).
    "lion": (optax.scale_by_lion, "b1", "b1", "b2"),
    "sgd": (optax.trace, "decay", "momentum", "nesterov"),
}
# Their weight decay is decoupled (Loshchilov & Hutter, 2019, arXiv:1711.05101); that of
# the others is added to the gradient.
_DECOUPLED = ("adamw", "lion", "sgdw")

# Parameters that weight decay touches: those with an input axis, or all, as in PyTorch.
WEIGHT_DECAY_MASKS = {
    "all": lambda params: jax.tree.map(lambda _: True, params),
    "kernels": lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params),
}


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
      name: Value of `config.optim.name`.
      schedule: Learning rate by step.
      momentum_schedule: Momentum, or Adam's and Lion's b1, by step; None: that of the
        options.
      gradient_clip: Largest global norm of the gradient; 0: no clipping.
      lr_multipliers: Pairs of a pattern of paths such as `stem_conv/kernel`, and a
        factor of the learning rate of matching parameters; the first match counts.
      frozen: Paths of parameters that stay as they are.
      **options: Options of the optimizers: the other keys of `config.optim`, of which
        some are for others to read.
    """
    if name == "muon" and momentum_schedule is not None:
        raise UserError(
            "schedule.momentum_range is not for muon; use None, or another optim.name"
        )
    chain = []
    if gradient_clip:
        chain.append(optax.clip_by_global_norm(gradient_clip))
    if name == "muon":
        chain.append(_muon(schedule, options))
    else:
        chain += _chain(name, schedule, momentum_schedule, options)
    if lr_multipliers:
        chain.append(_scale_by_path(lr_multipliers))
    if name == "muon" and options["muon_renormalize"]:
        chain.append(optax.stateless(_renormalize))
    if not frozen:
        return optax.chain(*chain)
    return optax.partition(
        {"frozen": optax.set_to_zero(), "trained": optax.chain(*chain)},
        _labels(lambda path, _: "frozen" if path in frozen else "trained"),
    )


def check_multipliers(lr_multipliers: Sequence, params: Any) -> None:
    """Refuses a pattern that is broken or matches no parameter.

    Args:
      lr_multipliers: Patterns and factors, as `make_optimizer` takes them.
      params: Tree of all parameters, or of their shapes.
    """
    paths = jax.tree.leaves(_labels(lambda path, _: path)(params))
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
    factory, argument, option, other = _DIRECTIONS[name.removesuffix("w")]
    fixed = {other: options[other]}
    if momentum is None:
        direction = factory(**{argument: options[option]}, **fixed)
    else:  # the schedule's value becomes a part of the optimizer's state
        injected = optax.inject_hyperparams(factory, static_args=(other,))
        direction = injected(**{argument: momentum}, **fixed)
    decay = optax.add_decayed_weights(
        options["weight_decay"], WEIGHT_DECAY_MASKS[options["weight_decay_mask"]]
    )
    parts = [direction, decay] if name in _DECOUPLED else [decay, direction]
    return [*parts, optax.scale_by_learning_rate(schedule)]


def _muon(
    schedule: optax.Schedule, options: dict[str, Any]
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the blocks' convolutions, another for the rest.

    Muon is not applied to the stem and the classifier. The state is laid out as that of
    `optax.contrib.muon`, with its empty part for Adam.
    """

    def rate(step):
        return options["muon_scale"] * schedule(step)

    parts = [
        _scale_by_muon(options),
        optax.identity(),  # for Optax's scale by shape
        optax.add_decayed_weights(options["muon_weight_decay"]),
        optax.scale_by_learning_rate(rate),
    ]
    muon = optax.partition(
        {"muon": optax.chain(*parts), "adam": optax.adamw(rate)},
        lambda params: jax.tree.map(lambda _: "muon", params),
    )
    rest = optax.chain(*_chain(options["muon_fallback"], schedule, None, options))
    return optax.partition({"muon": muon, "rest": rest}, _labels(_muon_or_rest))


def _muon_or_rest(path: str, leaf: Any) -> str:
    """Returns who updates a parameter."""
    is_muons = path.startswith("stage") and jnp.ndim(leaf) == 4
    return "muon" if is_muons else "rest"


def _scale_by_muon(options: dict[str, Any]) -> optax.GradientTransformation:
    """Returns `optax.contrib.scale_by_muon`, and its scale by shape, for convolutions.

    On accelerators its iterations, many small products one after another, multiply in
    bfloat16, and matrices with equal shorter sides go through them as one array.
    """
    sides = optax.contrib.MuonDimensionNumbers(1, 2)
    inner = optax.contrib.scale_by_muon(
        ns_steps=options["muon_steps"],
        beta=options["muon_beta"],
        preconditioning=options["muon_preconditioning"],
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: sides, tree),
    )

    def step(updates, state, params, on_cpu=False):
        stacked = state._replace(mu=_stacks(state.mu, on_cpu))
        with jax.default_matmul_precision("default" if on_cpu else "BF16_BF16_F32"):
            outputs = inner.update(_stacks(updates, on_cpu), stacked, params)
        directions, new = cast(tuple[Any, optax.contrib.MuonState], outputs)
        directions = jax.tree.map(
            lambda x: max(1, x.shape[-1] ** 2 / x.size) ** 0.5 * x,
            _kernels(directions, updates, on_cpu),
        )
        return directions, new._replace(mu=_kernels(new.mu, updates, on_cpu))

    def update(updates: Any, state: Any, params: Any = None):
        forms = dict(cpu=functools.partial(step, on_cpu=True), default=step)
        return jax.lax.platform_dependent(updates, state, params, **forms)

    return optax.GradientTransformation(inner.init, update)


def _stacks(kernels: Any, on_cpu: bool) -> dict[int, jax.Array]:
    """Returns [N, rows, columns] by rows."""
    groups = collections.defaultdict(list)
    for place, kernel in enumerate(jax.tree.leaves(kernels)):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        matrix = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
        groups[place if on_cpu else len(matrix)].append(matrix)
    stacks = {}
    for key, matrices in groups.items():
        longest = max(matrix.shape[1] for matrix in matrices)
        # Columns of zeros change none of the products.
        padded = [jnp.pad(x, ((0, 0), (0, longest - x.shape[1]))) for x in matrices]
        stacks[key] = jnp.stack(padded)
    return stacks


def _kernels(stacks: Any, like: Any, on_cpu: bool) -> Any:
    """Returns what was stacked, in the shapes of kernels `like` them."""
    rows = {key: iter(stacked) for key, stacked in stacks.items()}

    def take(place, kernel):
        fan_in, width = kernel.size // kernel.shape[-1], kernel.shape[-1]
        matrix = next(rows[place if on_cpu else min(fan_in, width)])
        matrix = matrix[:, : max(fan_in, width)]
        return (matrix.T if fan_in > width else matrix).reshape(kernel.shape)

    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten(take(*pair) for pair in enumerate(leaves))


def _renormalize(updates: Any, params: Any) -> Any:
    """Adds what gives Muon's kernels the norm sqrt(filters) before their update.

    As the Muon of airbench94 (Jordan, 2024, github.com/KellerJordan/cifar10-airbench):
    BatchNorm makes a kernel's scale irrelevant, and the rate then is relative to it.
    """

    def renormalize(path, update, param):
        if _muon_or_rest(path_name(path), param) == "rest":
            return update
        norm = jnp.maximum(jnp.linalg.norm(param.ravel()), 1e-8)
        return update + (param.shape[-1] ** 0.5 / norm - 1) * param

    return jax.tree_util.tree_map_with_path(renormalize, updates, params)


def _scale_by_path(multipliers: Sequence) -> optax.GradientTransformation:
    """Multiplies updates by the first factor whose pattern matches the path, or 1."""

    def scale(path, update):
        matches = (f for pattern, f in multipliers if re.fullmatch(pattern, path))
        return next(matches, 1.0) * update

    return optax.stateless(lambda updates, _: _labels(scale)(updates))


def _labels(label: Callable[[str, Any], Any]) -> Callable[[Any], Any]:
    """Returns a function of a tree that labels each leaf by its path."""
    return lambda tree: jax.tree_util.tree_map_with_path(
        lambda path, leaf: label(path_name(path), leaf), tree
    )


def path_name(path: Any) -> str:
    """Returns the name of a parameter, such as `stem_conv/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
