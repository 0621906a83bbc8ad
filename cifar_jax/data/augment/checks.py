"""Checks of options, which answer with one line that a user can act on."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

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
    raise UserError(f"{value!r} is no {what}; {guess}known: {names}")


def check_options(options: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raises UserError on an unknown option, or a value that its hint does not allow.

    Args:
        options: values by option.
        hints: type hint of each option that there is.
    """
    for option, value in options.items():
        refuse_unknown("option", option, hints)
        hint = hints[option]
        require(_fits(value, hint), f"{option} is {value!r}", _describe(hint))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value of a config is of a type hint; lists pass for tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        args = args[:1] * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(args) and all(map(_fits, value, args))
    return type(value) is hint or (hint is float and type(value) is int)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join(map(_describe, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin is tuple:
        return "a tuple of numbers" if args[-1] is Ellipsis else f"{len(args)} numbers"
    return {bool: "true or false", int: "a whole number", float: "a number"}[hint]
