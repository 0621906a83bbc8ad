"""A study as its config asks for it, checked and laid out. Nothing here needs JAX."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from optuna import distributions
from optuna.distributions import BaseDistribution

from cifar_jax import UserError
from cifar_jax.config import check, check_values, flatten
from cifar_jax.data import sources
from cifar_jax.studies import designs
from cifar_jax.studies.designs import Candidate, Rules

_COSTS = ("loss", "parameters", "macs", "latency", "seconds")
OBJECTIVES = {"accuracy": True, **dict.fromkeys(_COSTS, False)}  # is more better?


@dataclasses.dataclass(frozen=True)
class Study:
    """A study before its first run.

    Attributes:
      options: `config.study`, checked; `cifar_jax.config` has a comment on every key.
      rules: What all designs obey.
      candidates: Designs that are known beforehand; () if they are sampled.
      distributions: What a sampler draws from, by factor.
      factors: Title of each factor of the space, by its name; a list has none.
      is_sampled: Whether designs are proposed while the study runs.
      is_staged: Whether a design has more seeds only once the first has done well.
    """

    options: ConfigDict
    rules: Rules
    candidates: tuple[Candidate, ...]
    distributions: dict[str, BaseDistribution]
    factors: dict[str, str]
    is_sampled: bool
    is_staged: bool

    @property
    def num_runs(self) -> int:
        """Largest number of runs that the whole study can have."""
        options = self.options
        if self.is_sampled:
            finalists = min(options.finalists, options.trials)
            return options.trials + finalists * (options.seeds - 1)
        return options.seeds * sum(not each.skip_reason for each in self.candidates)


def make(config: ConfigDict) -> Study:
    """Checks a study's config, lays its designs out, and holds them to the budget."""
    if "study" not in config:
        raise UserError(
            "this is the config of a run, not of a study; use cifar_jax.main"
        )
    base, options = config.base.copy_and_resolve_references(), config.study
    _check(base, options)
    base.evaluate.test = False  # only the winner is scored, at the end
    data, space = base.data, [dict(item) for item in options.space]
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    is_widest, multiple = options.width == "widest", options.width_multiple
    shape, num_classes = source.image_shape, source.num_classes
    rules = Rules(base, shape, num_classes, is_widest, multiple)
    is_sampled = options.kind == "sample"
    sampled = space if is_sampled else []
    names = [axis["factor"] for axis in space if options.kind != "list"]
    study = Study(
        options=options,
        rules=rules,
        candidates=designs.fixed(options.kind, space, rules),
        distributions={a["factor"]: _distribution(a, base) for a in sampled},
        factors={n: n.removesuffix(".name").rsplit(".", 1)[-1] for n in names},
        is_sampled=is_sampled,
        is_staged=is_sampled or options.pruner != "none",
    )
    for factor, distribution in study.distributions.items():
        # Drawing nothing yet, this finds unknown factors and values of a wrong type.
        low = getattr(distribution, "low", 0)  # 0: index of the first of `choices`
        designs.candidate(rules, {factor: distribution.to_external_repr(low)})
    if not study.num_runs:
        reasons = (f"{each.name}: {each.skip_reason}" for each in study.candidates)
        raise UserError(f"no design of the study can run: {next(reasons)}")
    return study


def _distribution(axis: Mapping[str, Any], base: ConfigDict) -> BaseDistribution:
    """Returns what a factor is drawn from: `values`, or from `low` to `high`."""
    if "values" in axis:
        for value in axis["values"]:
            if not isinstance(value, bool | int | float | str | None):
                raise UserError(
                    f"a sampled factor has the value {value!r}; use numbers, words or "
                    "None, and a letter (N, B, C, F, K, P) for what is a tuple"
                )
        return distributions.CategoricalDistribution(tuple(axis["values"]))
    low, high, log = axis["low"], axis["high"], axis.get("log", False)
    are_numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if not (are_numbers and low < high < math.inf and low > (0 if log else -math.inf)):
        raise UserError(
            f"factor {axis['factor']} of study.space goes from {low} to {high}; use "
            "low below high, and above 0 with log=True"
        )
    is_float = isinstance(flatten(base.to_dict()).get(axis["factor"], 0), float)
    if isinstance(low, int) and isinstance(high, int) and not is_float:
        return distributions.IntDistribution(low, high, log=log)
    return distributions.FloatDistribution(low, high, log=log)


def _is_whole(item: Any, needed: set[str]) -> bool:
    """Returns whether an item of `study.space` has what it needs."""
    if not isinstance(item, Mapping) or not needed <= set(item):
        return False
    name, change = item.get("factor", item.get("name")), item.get("change", {})
    return isinstance(name, str | None) and isinstance(change, Mapping)


def _check(base: ConfigDict, options: ConfigDict) -> None:
    """Refuses wrong values of `config.study`, and of what it needs in `config.base`."""
    kind, pruner, objectives = options.kind, options.pruner, tuple(options.objectives)
    validation, select_on = base.data.validation, base.evaluate.select_on
    every = base.evaluate.every_epochs
    check(base)
    check_values({f"study.{key}": value for key, value in options.items()})
    # whether each is kept, by what is said if it is not
    rules: dict[str, Any] = {
        f"study.objectives is {objectives}; use some of {', '.join(OBJECTIVES)}": (
            objectives and set(objectives) <= set(OBJECTIVES)
        ),
        f"study.pruner is {pruner!r}, but study.objectives is {objectives}; give a "
        "single one, accuracy or loss, or use pruner='none'": (
            pruner == "none" or objectives in (("accuracy",), ("loss",))
        ),
        # A study selects on validation images, never on the test set.
        f"a study chooses on validation images, but base.data.validation is "
        f"{validation} and base.evaluate.select_on {select_on!r}; hold some out (0.1), "
        "with select_on='val'": select_on == "val" and validation,
        f"base.train.max_seconds is {base.train.max_seconds:g}, but the runs of a "
        "study have all their epochs; use study.max_seconds for the study itself": (
            not base.train.max_seconds
        ),
        f"study.pruner needs base.evaluate.every_epochs=1, not {every}": (
            pruner == "none" or every == 1
        ),
        f"study.reported is {options.reported}; use pairs like ('N3-B2', 0.91)": all(
            isinstance(pair, tuple | list) and isinstance(pair[-1], int | float)
            for pair in options.reported
        ),
        "study.space is empty; list designs, or factors and values": options.space,
    }
    needed = {"name", "change"} if kind == "list" else {"factor"}
    bounds = ", or low and high" if kind == "sample" else ""
    for item in options.space:
        is_whole = _is_whole(item, needed)
        message = f"study.space holds {item!r}; for study.kind={kind!r} each needs "
        message += " and ".join(sorted(needed))
        rules[f"{message}: a text as name or factor, a dict as change"] = is_whole
        if is_whole and kind != "list":
            message = f"factor {item['factor']} of study.space has no values; give "
            has_bounds = bounds and {"low", "high"} <= set(item)
            values = item.get("values")
            has_values = isinstance(values, tuple | list) and values
            rules[f"{message}values=(...){bounds}"] = has_values or has_bounds
    for message, is_kept in rules.items():
        if not is_kept:
            raise UserError(message)
