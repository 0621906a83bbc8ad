"""The designs of a study: what sets each apart, and whether it keeps to the budget.

Nothing here needs JAX: thousands of designs are laid out in a second.
"""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cifar_jax import UserError, _packaged
from cifar_jax.config import config_to_dict, flatten
from cifar_jax.models import count, design, letters

Factors = Mapping[str, Any]  # values of letters and of config keys, by their name


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A design: `config` is that of its runs, except for the seed.

    `factors` are the letters and config keys that set it apart; no run is started of
    one with a `skip_reason`.
    """

    name: str
    factors: dict[str, Any]
    config: ConfigDict
    widths: tuple[int, ...] = ()
    num_parameters: int = 0
    skip_reason: str | None = None

    @functools.cached_property
    def identity(self) -> str:
        """A text that designs share if their runs would be the same."""
        # Short forms of a network, such as one width for all stages, are written out.
        model = dataclasses.asdict(design.resolve(self.config.model.to_dict()))
        plain = self.config.to_dict() | {"model": model}
        return json.dumps(plain, sort_keys=True, default=str)

    def value(self, factor: str) -> Any:
        """Returns the value of a factor, whether or not the design sets it."""
        if factor in self.factors:
            return self.factors[factor]
        if letters.PATTERN.fullmatch(factor):
            return letters.value(self.config.model, factor)
        keys = factor.split(".")
        return functools.reduce(lambda part, key: part[key], keys, self.config)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What all designs of a study obey: their factors change `base`.

    With `widest`, each takes the largest widths below `base.budget.limit` that are
    multiples of `multiple`.
    """

    base: ConfigDict
    image_shape: tuple[int, int, int]
    num_classes: int
    widest: bool = False
    multiple: int = 1


def candidate(rules: Rules, factors: Factors, name: str = "") -> Candidate:
    """Returns the design with these factors; over the budget it has a `skip_reason`."""
    config = with_factors(rules.base, factors)
    limit, shape = config.budget.limit, (rules.image_shape, rules.num_classes)
    widths, number, reason = (), 0, None
    try:
        network = design.resolve(config.model.to_dict())
        design.check(network, rules.image_shape)
        if rules.widest and limit is not None:
            network = count.largest_width_under_budget(
                network, *shape, limit, rules.multiple
            )
            if network is None:
                raise UserError(f"no width has fewer than {limit:,} parameters")
            config.model.widths = network.widths
            if config.model.stem_width:
                config.model.stem_width = network.stem_width
        widths, number = network.widths, count.closed_form(network, *shape)
        if limit is not None and number >= limit:
            reason = f"{number:,} parameters; the limit is {limit:,}"
    except UserError as error:
        reason = str(error)
    if not name:  # one that can be a folder's: N3-B2, learning_rate0.01-adam
        parts = []
        for key, value in factors.items():
            values = value if isinstance(value, list | tuple) else [value]
            texts = (f"{v:g}" if isinstance(v, float) else str(v) for v in values)
            key = "" if isinstance(value, str) else key.rsplit(".", 1)[-1]
            parts.append(key + "x".join(texts))
        name = folder_of("-".join(parts)) or "base"
    return Candidate(name, dict(factors), config, widths, number, reason)


# A process has runs of several designs; their test images are scored at the end.
FIXED_KEYS = ("train.cpu_devices", "train.max_seconds", "data.validation")
FIXED_KEYS += ("data.name", "data.image_size", "evaluate.select_on", "evaluate.test")


def with_factors(base: ConfigDict, factors: Factors) -> ConfigDict:
    """Returns a copy of a config in which letters and dotted keys are set."""
    config = base.copy_and_resolve_references()
    named = {name: v for name, v in factors.items() if letters.PATTERN.fullmatch(name)}
    keys = flatten({key: v for key, v in factors.items() if key not in named})
    for key, value in (letters.keys(config.model, named) | keys).items():
        if key in FIXED_KEYS:
            raise UserError(f"{key} is the same for all designs; set base.{key}")
        try:
            config.update_from_flattened_dict({key: value})
        except KeyError as error:
            remedy = f"use {', '.join(letters.LETTERS)}, or a key of the config"
            if close := _packaged.nearest_key(key, config):
                remedy = f"did you mean {close}?"
            message = f"unknown factor {key!r} in study.space; {remedy}"
            raise UserError(message) from error
        except TypeError as error:
            usual = flatten(config_to_dict(base)).get(key)
            raise UserError(
                f"{key} cannot be {value!r}: it is like {usual!r}; change study.space"
            ) from error
    return config


def folder_of(name: str) -> str:
    """Returns the name of a design's folder."""
    return re.sub(r"[^\w.=+-]+", "_", name)


def fixed(kind: str, space: Sequence[Mapping], rules: Rules) -> tuple[Candidate, ...]:
    """Returns the designs of a space that are known beforehand, in its order."""
    layout: list[tuple[str, dict]] = []  # names ("": it follows from the factors)
    if kind == "list":
        layout = [(item["name"], dict(item["change"])) for item in space]
    elif kind == "grid":
        names = [axis["factor"] for axis in space]
        rows = itertools.product(*(axis["values"] for axis in space))
        layout = [("", dict(zip(names, row, strict=True))) for row in rows]
    elif kind == "one_at_a_time":
        layout = [("base", {})]
        layout += [("", {a["factor"]: value}) for a in space for value in a["values"]]
    by_folder: dict[str, Candidate] = {}
    seen: set[str] = set()
    for name, factors in layout:
        new = candidate(rules, factors, name)
        # One at a time: skip the value that a factor has in the base anyway.
        if kind == "one_at_a_time" and not new.skip_reason:
            if new.identity in seen:
                continue
            seen.add(new.identity)
        if not re.fullmatch(r"\w[^|/\\\n\r\t]*", new.name):
            raise UserError(
                f"a design of study.space is called {new.name!r}; a name is a line, "
                "starts with a letter or digit, and has no '|' or slash"
            )
        if folder_of(new.name) in by_folder:
            raise UserError(
                f"two designs of study.space are called {new.name}, as folders go; "
                "give each a name of its own"
            )
        by_folder[folder_of(new.name)] = new
    return tuple(by_folder.values())
