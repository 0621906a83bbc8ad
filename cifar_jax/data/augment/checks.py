"""Checks of options, which answer with one line that a user can act on."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from cifar_jax import UserError


def require(condition: bool, value: str, remedy: str) -> None:
    """Raises UserError "<value>; it needs <remedy>" unless `condition`."""
    if not condition:
        raise UserError(f"{value}; it needs {remedy}")


def probability(p: float) -> float:
    """Returns `p` as a float; raises UserError unless it is in [0, 1]."""
    require(0 <= p <= 1, f"p is {p}", "a probability in [0, 1]")
    return float(p)


def require_range(name: str, bounds: tuple[float, float], *, least: float) -> None:
    """Raises UserError unless `bounds` are (low, high), in order, from `least` on."""
    low, high = bounds
    remedy = f"(low, high) with {least} <= low <= high"
    require(least <= low <= high, f"{name} is {bounds}", remedy)


def refuse_unknown(what: str, value: Any, known: Iterable[str]) -> None:
    """Raises UserError with the closest known name, unless `value` is known."""
    known = sorted(known)
    if value in known:
        return
    close = difflib.get_close_matches(str(value), known, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    names = ", ".join(known) or "none"
    raise UserError(f"{value!r} is not a known {what}; {guess}known: {names}")


def check_options(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises UserError on an unknown option, or a value unlike its default.

    Whole numbers pass for fractions, and lists for tuples: both come from JSON.

    Args:
      options: Values by option.
      defaults: Default value of each option that there is.
    """
    number = (int, float)  # compared with `type`, since True is not a number here
    for option, value in options.items():
        refuse_unknown("option", option, defaults)
        default = defaults[option]
        values = value if isinstance(value, tuple | list) else None
        numbers = values is not None and all(type(entry) in number for entry in values)
        if isinstance(default, tuple):
            fits = numbers and len(value) == len(default)
            remedy = f"{len(default)} numbers"
        elif option in ("fill", "value"):  # a colour; `warp.fill_color` counts channels
            fits, remedy = numbers or type(value) in number, "a number or several"
        elif isinstance(default, float):
            fits, remedy = type(value) in number, "a number"
        else:
            names = {int: "a whole number", str: "a name"}
            fits, remedy = type(value) is type(default), names[type(default)]
        require(fits, f"{option} is {value!r}", remedy)
