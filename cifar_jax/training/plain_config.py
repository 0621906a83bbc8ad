"""Moved to `cifar_jax.config`; these names go when nothing imports them any more."""

from cifar_jax.config import RESUMABLE_KEYS as FREE_KEYS
from cifar_jax.config import config_diff as changes
from cifar_jax.config import config_to_dict as plain
from cifar_jax.config import flatten as flat

__all__ = ["FREE_KEYS", "changes", "flat", "plain"]
