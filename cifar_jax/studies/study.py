"""A study as its config asks for it. The only part of studies that reads the config.

Nothing here needs JAX.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.studies import designs, samplers
from cifar_jax.studies.designs import Candidate, Rules

KINDS = ("list", "grid", "one_at_a_time", "sample")
# What can be asked for, and whether more of it is better.
OBJECTIVES = {
    "accuracy": True,
    "loss": False,
    "parameters": False,
    "macs": False,
    "latency": False,
    "seconds": False,
}
# Seeds of a sampled design's sampler and of a run are unsigned 32-bit numbers.
_MOST = 2**32


@dataclasses.dataclass(frozen=True)
class Study:
    """A study before its first run.

    Attributes:
      rules: What all designs obey.
      kind: Of `KINDS`.
      space: As `cifar_jax.config` has it.
      candidates: Designs that are known beforehand: none if they are sampled.
      seeds: Runs of each design.
      objectives: Of `OBJECTIVES`; the first one ranks the designs.
      latency: Whether to measure each design's.
      sampler: Of `samplers.SAMPLERS`.
      sampler_seed: For it.
      trials: Designs that are sampled.
      finalists: How many of them get all seeds.
      pruner: Of `samplers.PRUNERS`.
      min_epochs: None ends before.
      reduction: Of so many runs one goes on, each time.
      reported: By the name of a design, the accuracy that its report has.
      threads: CPU threads of a run, or 0.
    """

    rules: Rules
    kind: str
    space: tuple[dict[str, Any], ...]
    candidates: tuple[Candidate, ...]
    seeds: int
    objectives: tuple[str, ...]
    latency: bool
    sampler: str
    sampler_seed: int
    trials: int
    finalists: int
    pruner: str
    min_epochs: int
    reduction: int
    reported: dict[str, float]
    threads: int

    @property
    def samples(self) -> bool:
        """Whether designs are proposed while the study runs."""
        return self.kind == "sample"

    @property
    def staged(self) -> bool:
        """Whether a design has more seeds only after the first one has done well."""
        return self.samples or self.pruner != "none"

    @property
    def runs(self) -> int:
        """How many runs the whole study has, at most."""
        if self.samples:
            return self.trials + min(self.finalists, self.trials) * (self.seeds - 1)
        return self.seeds * sum(not each.refusal for each in self.candidates)

    @functools.cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What the sampler draws from, by factor."""
        return {axis["factor"]: samplers.distribution(axis) for axis in self.space}

    def config(self, candidate: Candidate, seed: int) -> ConfigDict:
        """Returns the config of a run.

        Args:
          candidate: The design.
          seed: Number of the run, from 0.
        """
        config = candidate.config.copy_and_resolve_references()
        config.seed = (candidate.config.seed + seed) % _MOST
        return config


def make(config: ConfigDict) -> Study:
    """Checks the config of a study, lays its designs out, and holds them to the budget.

    Args:
      config: As `cifar_jax.config.get_study_config` has it.

    Raises:
      UserError: names the key, its value and the remedy.
    """
    base, study = config.base.copy_and_resolve_references(), config.study
    _check(base, study)
    base.evaluate.test = False
    data = base.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    rules = Rules(
        base=base,
        image_shape=source.image_shape,
        num_classes=source.num_classes,
        widest=study.width == "widest",
        multiple=study.width_multiple,
    )
    space = tuple(dict(item) for item in study.space)
    known = study.kind != "sample"
    made = Study(
        rules=rules,
        candidates=tuple(designs.fixed(study.kind, space, rules)) if known else (),
        objectives=tuple(study.objectives),
        space=space,
        reported=dict(study.reported),
        **{key: study[key] for key in _PLAIN},
    )
    if not known:
        for factor, distribution in made.distributions.items():  # to know the factors
            designs.candidate(rules, {factor: samplers.least(distribution)})
    elif not made.runs:
        first = made.candidates[0]
        raise UserError(
            f"no design of the study can run: {first.name}: {first.refusal}"
        )
    return made


_PLAIN = (
    *("kind", "seeds", "latency", "sampler", "sampler_seed", "trials", "finalists"),
    *("pruner", "min_epochs", "reduction", "threads"),
)


def _check(base: ConfigDict, study: ConfigDict) -> None:
    for key, choices in (
        *(
            ("kind", KINDS),
            ("sampler", samplers.SAMPLERS),
            ("pruner", samplers.PRUNERS),
        ),
        ("width", ("keep", "widest")),
    ):
        if study[key] not in choices:
            raise UserError(f"study.{key} is {study[key]!r}; use {', '.join(choices)}")
    for key in ("width_multiple", "seeds", "trials", "min_epochs"):
        if study[key] < 1:
            raise UserError(f"study.{key} is {study[key]}; use at least 1")
    for key, least in (("finalists", 0), ("threads", 0), ("reduction", 2)):
        if study[key] < least:
            raise UserError(f"study.{key} is {study[key]}; use at least {least}")
    unknown = [name for name in study.objectives if name not in OBJECTIVES]
    if unknown or not study.objectives:
        raise UserError(
            f"study.objectives is {tuple(study.objectives)}; use some of "
            f"{', '.join(OBJECTIVES)}"
        )
    if study.pruner != "none" and len(study.objectives) > 1:
        raise UserError(
            f"study.pruner is {study.pruner!r}, but study.objectives has "
            f"{len(study.objectives)}; give a single one, or use pruner='none'"
        )
    _check_validation(base, study)
    _check_space(study)


def _check_validation(base: ConfigDict, study: ConfigDict) -> None:
    """A study selects on validation images, never on the test set."""
    if base.evaluate.select_on != "val" or not base.data.validation:
        raise UserError(
            f"a study chooses on validation images, but base.data.validation is "
            f"{base.data.validation} and base.evaluate.select_on "
            f"{base.evaluate.select_on!r}; hold some out (0.1), with select_on='val'"
        )
    if base.train.max_seconds:
        raise UserError(
            f"base.train.max_seconds is {base.train.max_seconds:g}, but the runs of a "
            "study have all their epochs; use 0, and end the study itself"
        )
    if study.pruner != "none" and base.evaluate.every_epochs != 1:
        raise UserError(
            f"study.pruner needs base.evaluate.every_epochs=1, not "
            f"{base.evaluate.every_epochs}"
        )


def _check_space(study: ConfigDict) -> None:
    if not study.space:
        raise UserError("study.space is empty; list designs, or factors and values")
    for item in study.space:
        needed = {"name", "change"} if study.kind == "list" else {"factor"}
        if not isinstance(item, Mapping) or not needed <= set(item):
            raise UserError(
                f"study.space holds {item!r}; for study.kind={study.kind!r} each needs "
                f"{' and '.join(sorted(needed))}"
            )
        if study.kind == "list":
            continue
        if not item.get("values") and not (
            study.kind == "sample" and {"low", "high"} <= set(item)
        ):
            bounds = ", or low and high" if study.kind == "sample" else ""
            raise UserError(
                f"factor {item['factor']} of study.space has no values; give "
                f"values=(...){bounds}"
            )
