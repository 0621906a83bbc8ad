"""A study as its config asks for it. The only module here that reads `config.study`.

Nothing here needs JAX.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution, CategoricalDistribution

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.studies import designs
from cifar_jax.studies.designs import Candidate, Rules

# Whether more of it is better.
OBJECTIVES = {
    "accuracy": True,
    "loss": False,
    "parameters": False,
    "macs": False,
    "latency": False,
    "seconds": False,
}
_CHOICES = {
    "kind": ("list", "grid", "one_at_a_time", "sample"),
    "sampler": ("tpe", "nsga2", "random"),
    "pruner": ("none", "halving", "hyperband"),
    "width": ("keep", "widest"),
}
_LEAST = {
    **dict.fromkeys(("width_multiple", "seeds", "trials", "min_epochs"), 1),
    **dict.fromkeys(("finalists", "threads", "accelerators", "max_seconds"), 0),
    "reduction_factor": 2,
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A study before its first run.

    Attributes:
      rules: What all designs obey.
      candidates: Designs that are known beforehand; () if they are sampled.
      distributions: What a sampler draws from, by factor.
      seeds: Like all further ones, a key of `config.study`; see `cifar_jax.config`.
    """

    rules: Rules
    candidates: tuple[Candidate, ...]
    distributions: dict[str, BaseDistribution]
    kind: str
    seeds: int
    objectives: tuple[str, ...]
    latency: bool
    sampler: str
    sampler_seed: int
    trials: int
    finalists: int
    pruner: str
    min_epochs: int
    reduction_factor: int
    reported: dict[str, float]
    threads: int
    accelerators: float
    max_seconds: float

    @property
    def is_sampled(self) -> bool:
        """Whether designs are proposed while the study runs."""
        return self.kind == "sample"

    @property
    def is_staged(self) -> bool:
        """Whether a design has more seeds only after the first one has done well."""
        return self.is_sampled or self.pruner != "none"

    @property
    def num_runs(self) -> int:
        """Largest number of runs that the whole study can have."""
        if self.is_sampled:
            return self.trials + min(self.finalists, self.trials) * (self.seeds - 1)
        return self.seeds * sum(not design.skip_reason for design in self.candidates)

    def config(self, candidate: Candidate, seed: int) -> ConfigDict:
        """Returns the config of a run of a design, whose runs are numbered from 0."""
        config = candidate.config.copy_and_resolve_references()
        config.seed = (candidate.config.seed + seed) % 2**32
        return config

    def make_sampler(self, num_trials: int) -> optuna.samplers.BaseSampler:
        """Returns a sampler for one draw, with a seed of its own for each.

        So a resumed study draws what an uninterrupted one would have drawn.
        """
        seed = (self.sampler_seed * 1_000_003 + num_trials) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.sampler == "tpe":
                # Running trials count as bad ones, so that workers spread out.
                return optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, constant_liar=True
                )
            if self.sampler == "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed)
            return optuna.samplers.RandomSampler(seed=seed)

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Returns the pruner that ends runs early."""
        least, factor = self.min_epochs, self.reduction_factor
        if self.pruner == "hyperband":
            epochs = self.rules.base.train.epochs
            return optuna.pruners.HyperbandPruner(least, epochs, factor)
        if self.pruner == "halving":
            return optuna.pruners.SuccessiveHalvingPruner(least, factor)
        return optuna.pruners.NopPruner()


def make(config: ConfigDict) -> Study:
    """Checks a study's config, lays its designs out, and holds them to the budget."""
    base, options = config.base.copy_and_resolve_references(), config.study
    _check(base, options)
    base.evaluate.test = False  # only the winner is scored, at the end
    data, space = base.data, tuple(dict(item) for item in options.space)
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    rules = Rules(
        base=base,
        image_shape=source.image_shape,
        num_classes=source.num_classes,
        widest=options.width == "widest",
        multiple=options.width_multiple,
    )
    is_sampled = options.kind == "sample"
    candidates = [] if is_sampled else designs.fixed(options.kind, space, rules)
    distributions = {a["factor"]: _distribution(a) for a in space if is_sampled}
    fields = {field.name for field in dataclasses.fields(Study)}
    values = {key: value for key, value in options.items() if key in fields}
    values["reported"] = dict(options.reported)
    values["objectives"] = tuple(options.objectives)
    study = Study(
        rules=rules, candidates=tuple(candidates), distributions=distributions, **values
    )
    if is_sampled:
        # Drawing nothing yet, this finds unknown factors and values of a wrong type.
        for factor, distribution in distributions.items():
            low = getattr(distribution, "low", 0)  # 0: index of the first of `choices`
            first = distribution.to_external_repr(low)
            designs.candidate(rules, {factor: first})
    elif not study.num_runs:
        reason = f"{candidates[0].name}: {candidates[0].skip_reason}"
        raise UserError(f"no design of the study can run: {reason}")
    return study


def _distribution(axis: Mapping[str, Any]) -> BaseDistribution:
    """Returns what a factor is drawn from: `values`, or from `low` to `high`."""
    if "values" in axis:
        for value in axis["values"]:
            if not isinstance(value, bool | int | float | str | None):
                raise UserError(
                    f"a sampled factor has the value {value!r}; use numbers, words or "
                    "None, and a letter (N, B, C, F, K, P) for what is a tuple"
                )
        return CategoricalDistribution(tuple(axis["values"]))
    low, high, log = axis["low"], axis["high"], axis.get("log", False)
    if not low < high or (log and low <= 0) or not math.isfinite(high - low):
        raise UserError(
            f"factor {axis['factor']} of study.space goes from {low} to {high}; use "
            "low below high, and above 0 with log=True"
        )
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=log)
    return optuna.distributions.FloatDistribution(low, high, log=log)


def _check(base: ConfigDict, options: ConfigDict) -> None:
    """Refuses wrong values of `config.study`, and of what it needs in `config.base`."""
    for key, choices in _CHOICES.items():
        if options[key] not in choices:
            values = ", ".join(choices)
            raise UserError(f"study.{key} is {options[key]!r}; use {values}")
    for key, least in _LEAST.items():
        if options[key] < least:
            raise UserError(f"study.{key} is {options[key]}; use at least {least}")
    objectives, pruner = tuple(options.objectives), options.pruner
    validation, select_on = base.data.validation, base.evaluate.select_on
    rules = {
        f"study.objectives is {objectives}; use some of {', '.join(OBJECTIVES)}": (
            objectives and set(objectives) <= set(OBJECTIVES)
        ),
        f"study.pruner is {pruner!r}, but study.objectives has {len(objectives)}; give "
        "a single one, or use pruner='none'": pruner == "none" or len(objectives) == 1,
        # A study selects on validation images, never on the test set.
        f"a study chooses on validation images, but base.data.validation is "
        f"{validation} and base.evaluate.select_on {select_on!r}; hold some out (0.1), "
        "with select_on='val'": select_on == "val" and validation,
        f"base.train.max_seconds is {base.train.max_seconds:g}, but the runs of a "
        "study have all their epochs; use study.max_seconds for the study itself": (
            not base.train.max_seconds
        ),
        f"study.pruner needs base.evaluate.every_epochs=1, not "
        f"{base.evaluate.every_epochs}": (
            pruner == "none" or base.evaluate.every_epochs == 1
        ),
        "study.space is empty; list designs, or factors and values": options.space,
    }
    for message, is_kept in rules.items():
        if not is_kept:
            raise UserError(message)
    _check_space(options)


def _check_space(options: ConfigDict) -> None:
    is_sampled = options.kind == "sample"
    needed = {"name", "change"} if options.kind == "list" else {"factor"}
    for item in options.space:
        if not isinstance(item, Mapping) or not needed <= set(item):
            raise UserError(
                f"study.space holds {item!r}; for study.kind={options.kind!r} each "
                f"needs {' and '.join(sorted(needed))}"
            )
        has_values = item.get("values") or (is_sampled and {"low", "high"} <= set(item))
        if options.kind != "list" and not has_values:
            bounds = ", or low and high" if is_sampled else ""
            raise UserError(
                f"factor {item['factor']} of study.space has no values; give "
                f"values=(...){bounds}"
            )
