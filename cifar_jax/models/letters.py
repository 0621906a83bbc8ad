"""Letters of report 004, and two of ours: short names for keys of `config.model`."""

import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError

LETTERS = ("N", "B", "C", "F", "K", "P", "growth")
PATTERN = re.compile(rf"{'|'.join(LETTERS)}|B[1-9]")  # B3: the third stage's blocks


def value(model: ConfigDict, letter: str) -> Any:
    """Returns the value of a letter, or None of a stage that the network lacks."""
    sizes = tuple(model.stage_sizes)
    return {
        "N": len(sizes),
        "B": sizes[0] if len(set(sizes)) == 1 else sizes,
        "C": model.widths[0],
        "F": model.kernel_sizes[0],
        "K": model.shortcut_kernel_sizes[0],
        "P": model.pool,
        **{f"B{stage}": size for stage, size in enumerate(sizes, 1)},
    }.get(letter)


def keys(model: ConfigDict, letters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what letters set in `config.model`, by the keys of the config."""
    for name, value in letters.items():
        types = int | float if name == "growth" else int
        is_number = isinstance(value, types) and not isinstance(value, bool)
        least = 0 if name == "P" else 1
        if not (is_number and least <= value < math.inf):
            raise UserError(
                f"factor {name} cannot be {value!r}; it is a whole number of at least "
                "1, or P=0 for the whole map (growth: any number of at least 1)"
            )
    found: dict[str, Any] = {}
    sizes = list(model.stage_sizes)
    if "N" in letters:  # a new stage has as many blocks as the last one
        sizes = [*sizes, *(letters["N"] * sizes[-1:])][: letters["N"]]
    # With N sampled, letters of further stages are idle.
    sizes = [
        letters.get(f"B{stage}", letters.get("B", size))
        for stage, size in enumerate(sizes, 1)
    ]
    if tuple(sizes) != tuple(model.stage_sizes):
        found["model.stage_sizes"] = tuple(sizes)
    if {"N", "C", "growth"} & set(letters):
        first, growth = letters.get("C", model.widths[0]), letters.get("growth", 2)
        widths = (round(first * growth**stage) for stage in range(len(sizes)))
        found["model.widths"] = tuple(widths)
    for name, key in (("F", "kernel_sizes"), ("K", "shortcut_kernel_sizes")):
        if name in letters:
            found[f"model.{key}"] = (letters[name],)
    if "P" in letters:
        found["model.pool"] = letters["P"] or None
    return found
