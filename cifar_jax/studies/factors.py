"""What sets one design of a study apart: keys of the config, and letters for them.

Nothing here needs JAX.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError

# Report 004's letters, and two of ours: what they set in `config.model`.
LETTERS = ("N", "B", "C", "F", "K", "P", "growth")
_BLOCKS_OF_ONE = re.compile(r"B([1-9])")


def changed(base: ConfigDict, factors: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with its factors set.

    Args:
      base: As `cifar_jax.config.get_config` has it.
      factors: Values of letters, and of keys such as "optim.learning_rate".

    Raises:
      UserError: names a factor that is none, or whose value has the wrong type.
    """
    config = base.copy_and_resolve_references()
    letters = {name: value for name, value in factors.items() if _is_letter(name)}
    set_keys(config, _model_keys(config.model, letters))
    set_keys(config, {k: v for k, v in factors.items() if k not in letters})
    return config


def set_keys(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets keys of a config by their dotted names.

    Raises:
      UserError: names a key that does not exist, or whose value has the wrong type.
    """
    for key, value in values.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section.get(name, ConfigDict()) if section else ConfigDict()
        known = isinstance(section, ConfigDict) and last in section
        if not known or isinstance(section[last], ConfigDict):
            raise UserError(f"{key} is no factor; {_remedy(config, key)}")
        try:
            section[last] = value
        except TypeError as error:
            raise UserError(
                f"{key} cannot be {value!r}: it is like {section[last]!r}; change the "
                "values of study.space"
            ) from error


def value_of(config: ConfigDict, name: str) -> Any:
    """Returns the value that a factor has in a config, or None where it has none."""
    if not _is_letter(name):
        found = config
        for part in name.split("."):
            found = found[part]
        return found
    model = config.model
    sizes, block = tuple(model.stage_sizes), _BLOCKS_OF_ONE.fullmatch(name)
    if block:
        stage = int(block[1]) - 1
        return sizes[stage] if stage < len(sizes) else None
    return {
        "N": len(sizes),
        "B": sizes[0] if len(set(sizes)) == 1 else sizes,
        "C": model.widths[0],
        "F": model.kernel_sizes[0],
        "K": model.shortcut_kernel_sizes[0],
        "P": model.pool,
    }.get(name)


def _is_letter(name: str) -> bool:
    return name in LETTERS or _BLOCKS_OF_ONE.fullmatch(name) is not None


def _model_keys(model: ConfigDict, letters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what letters set, by the keys of the config."""
    for name, value in letters.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = isinstance(value, int) or name == "growth"
        if not number or not whole or value < (name != "P"):
            raise UserError(
                f"factor {name} cannot be {value!r}; it is a whole number of at least "
                "1, or P=0 for the whole map (growth: any number of at least 1)"
            )
    keys = {}
    sizes = list(model.stage_sizes)
    if "N" in letters:
        sizes = [*sizes, *(letters["N"] * sizes[-1:])][: letters["N"]]
    if "B" in letters:
        sizes = [letters["B"]] * len(sizes)
    for name, value in letters.items():
        match = _BLOCKS_OF_ONE.fullmatch(name)
        if match and int(match[1]) <= len(sizes):  # with N sampled, some are idle
            sizes[int(match[1]) - 1] = value
    if tuple(sizes) != tuple(model.stage_sizes):
        keys["model.stage_sizes"] = tuple(sizes)
    if {"N", "C", "growth"} & set(letters):
        first, growth = letters.get("C", model.widths[0]), letters.get("growth", 2)
        widths = (round(first * growth**stage) for stage in range(len(sizes)))
        keys["model.widths"] = tuple(widths)
    if "F" in letters:
        keys["model.kernel_sizes"] = (letters["F"],)
    if "K" in letters:
        keys["model.shortcut_kernel_sizes"] = (letters["K"],)
    if "P" in letters:
        keys["model.pool"] = letters["P"] or None
    return keys


def _remedy(config: ConfigDict, key: str) -> str:
    keys = [*LETTERS, *_dotted(config)]
    close = difflib.get_close_matches(key, keys, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"use {', '.join(LETTERS)}, or a key of the config"


def _dotted(config: ConfigDict, prefix: str = ""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key
