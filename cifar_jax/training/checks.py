"""The bounds of the numbers in a config."""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.training import sharding

# Least value, and the first that is too large.
BOUNDS = (
    ("train.epochs", 1, None),
    ("train.label_smoothing", 0, 1),
    ("train.ema_decay", 0, 1),
    ("train.accumulate", 1, None),
    ("train.repeats", 1, None),
    ("train.patience", 0, None),
    ("train.max_seconds", 0, None),
    ("train.cpu_devices", 0, None),
    ("train.steps_per_dispatch", 0, None),
    ("train.watchdog_seconds", 0, None),
    ("evaluate.batch_size", 1, None),
    ("evaluate.every_epochs", 1, None),
    ("checkpoint.every_epochs", 1, None),
    ("checkpoint.every_seconds", 0, None),
    ("checkpoint.keep", 1, None),
    ("optim.gradient_clip", 0, None),
    ("optim.weight_decay", 0, None),
    ("optim.sam_rho", 0, None),
    ("prune.sparsity", 0, 1),
)


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses numbers of a config that make no sense.

    Raises:
      UserError: names the key, its value and the limit.
    """
    for name, seed in (
        ("seed", config.seed),
        ("data.split_seed", config.data.split_seed),
    ):
        if not 0 <= seed < 2**32:
            raise UserError(f"{name} is {seed}; use 0 to {2**32 - 1}")
    sharding.check_batch_size("train.batch_size", config.train.batch_size, mesh)
    part = config.train.batch_size / max(config.train.accumulate, 1)
    if part != int(part) or int(part) % mesh.size:
        raise UserError(
            f"train.accumulate is {config.train.accumulate}, but {mesh.size} devices "
            f"cannot share {part:g} of {config.train.batch_size} images evenly; use a "
            "number of parts that divides train.batch_size"
        )
    if config.train.batch_size % max(config.train.repeats, 1):
        raise UserError(
            f"train.batch_size is {config.train.batch_size}, which is not a "
            f"multiple of train.repeats={config.train.repeats}, the repeats of each "
            "image; use one"
        )
    for path, least, below in BOUNDS:
        section, key = path.split(".")
        value = config[section][key]
        if value < least or (below is not None and value >= below):
            limit = f"at least {least}" + (f" and below {below}" if below else "")
            raise UserError(f"{path} is {value}; use {limit}")
