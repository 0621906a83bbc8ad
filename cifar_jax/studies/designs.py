"""The designs of a study, counted and held to the budget before anything starts.

Nothing here needs JAX: thousands of designs are laid out in a second.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.models import count, design
from cifar_jax.models.cost import Cost, cost_of
from cifar_jax.studies import factors as named


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A design of a study.

    Attributes:
      name: Of its folder and its row.
      factors: What sets it apart, by factor.
      config: Of its runs, but for the seed.
      widths: Channels of the stages.
      num_parameters: Trainable ones.
      cost: Of one image.
      refusal: Why no run of it is started, or None.
    """

    name: str
    factors: dict[str, Any]
    config: ConfigDict
    widths: tuple[int, ...] = ()
    num_parameters: int = 0
    cost: Cost = Cost(0, 0, 0)
    refusal: str | None = None


@dataclasses.dataclass(frozen=True)
class Rules:
    """What all designs of a study obey.

    Attributes:
      base: Config that they change.
      image_shape: Height, width and channels.
      num_classes: Of the data set.
      widest: Whether each takes the largest width below `base.budget.limit`.
      multiple: Of it are the widths then.
    """

    base: ConfigDict
    image_shape: tuple[int, int, int]
    num_classes: int
    widest: bool = False
    multiple: int = 1


def candidate(rules: Rules, factors: Mapping[str, Any], name: str = "") -> Candidate:
    """Returns the design with these factors; over the budget it has a refusal.

    Args:
      rules: Of the study.
      factors: As `factors.changed` takes them.
      name: Its name; else one is made of the factors.

    Raises:
      UserError: If a factor is none.
    """
    config = named.changed(rules.base, factors)
    found = Candidate(name or name_of(factors), dict(factors), config)
    limit = config.budget.limit
    try:
        resolved = design.resolve(config.model.to_dict())
        design.check(resolved, rules.image_shape, rules.num_classes)
        if rules.widest and limit is not None:
            fitting = count.largest_width_under_budget(
                resolved, rules.image_shape, rules.num_classes, limit, rules.multiple
            )
            if fitting is None:
                raise UserError(f"no width has fewer than {limit:,} parameters")
            resolved, config.model.widths = fitting, fitting.widths
    except UserError as error:
        return dataclasses.replace(found, refusal=str(error))
    number = count.closed_form(resolved, rules.image_shape, rules.num_classes)
    over = limit is not None and number >= limit
    return dataclasses.replace(
        found,
        widths=resolved.widths,
        num_parameters=number,
        cost=cost_of(resolved, rules.image_shape, rules.num_classes),
        refusal=f"{number:,} parameters; the limit is {limit:,}" if over else None,
    )


def name_of(factors: Mapping[str, Any]) -> str:
    """Returns a name that can be that of a folder: N3-B2, learning_rate0.01-adam."""
    parts = (
        value if isinstance(value, str) else f"{key.rsplit('.', 1)[-1]}{_text(value)}"
        for key, value in factors.items()
    )
    return folder_of("-".join(parts)) or "base"


def folder_of(name: str) -> str:
    """Returns a design's name as that of its folder."""
    return re.sub(r"[^\w.=+-]+", "_", name)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(_text(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def fixed(kind: str, space: Sequence[Mapping], rules: Rules) -> list[Candidate]:
    """Returns the designs of a space that is known beforehand, in its order.

    Args:
      kind: "list", "grid" or "one_at_a_time".
      space: As `cifar_jax.config` has it.
      rules: Of the study.

    Raises:
      UserError: If two of them have one name.
    """
    found: dict[str, Candidate] = {}
    for name, factors in _LAYOUTS[kind](space, rules.base):
        each = candidate(rules, factors, name)
        if kind == "one_at_a_time" and same(each, found.values()):
            continue  # where the value of a factor is that of the base
        if not re.fullmatch(r"\w[^|/\\\n\r\t]*", each.name):
            raise UserError(
                f"a design of study.space is called {each.name!r}; a name is a line, "
                "starts with a letter or digit, and has no '|' or slash"
            )
        if folder_of(each.name) in found:
            raise UserError(
                f"two designs of study.space are called {each.name}, as folders go; "
                "give each a name of its own"
            )
        found[folder_of(each.name)] = each
    return list(found.values())


def same(each: Candidate, others: Iterable[Candidate]) -> bool:
    """Tells whether one of the other designs would have the same runs."""
    known = [_identity(other.config) for other in others if not other.refusal]
    return not each.refusal and _identity(each.config) in known


def _identity(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as plain data, without short forms of its network."""
    model = dataclasses.asdict(design.resolve(config.model.to_dict()))
    return config.to_dict() | {"model": model}


def _list(space, base) -> Iterator[tuple[str, dict]]:
    del base
    for item in space:
        yield item["name"], dict(item["change"])


def _grid(space, base) -> Iterator[tuple[str, dict]]:
    del base
    names = [axis["factor"] for axis in space]
    for values in itertools.product(*(axis["values"] for axis in space)):
        yield "", dict(zip(names, values, strict=True))


def _one_at_a_time(space, base) -> Iterator[tuple[str, dict]]:
    del base
    yield "base", {}
    for axis in space:
        for value in axis["values"]:
            yield "", {axis["factor"]: value}


_LAYOUTS = {"list": _list, "grid": _grid, "one_at_a_time": _one_at_a_time}
