"""Configs as plain values, as files keep them, and what differs between two of them."""

import functools
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import config as default

# Keys that change where or how fast a run computes, not what: a run may go on with
# other values of these.
FREE_KEYS = (
    "data.dir",
    "data.placement",
    "data.source",
    "checkpoint.",
    "evaluate.batch_size",
    "train.cpu_devices",
    "train.max_seconds",
    "train.steps_per_dispatch",
    "train.watchdog_seconds",
)


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON reads it back."""
    return json.loads(config.to_json_best_effort())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a plain config by the dotted paths of its keys."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], free: tuple[str, ...] = FREE_KEYS
) -> dict[str, str]:
    """Returns what differs between two plain configs, in words, by key.

    A key that the old one lacks, because it is younger, had its default value.

    Args:
      old: The one before.
      new: The one now.
      free: Starts of the keys that may differ.
    """
    old, new = flat(old), flat(new)
    old = {**{key: value for key, value in _defaults().items() if key in new}, **old}
    return {
        key: f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(free)
    }


@functools.cache
def _defaults() -> dict[str, Any]:
    """Returns the values of the default configs, of runs and of studies."""
    made = (default.get_config(), default.get_study_config())
    return {key: value for each in made for key, value in flat(plain(each)).items()}
