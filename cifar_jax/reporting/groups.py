"""Runs that differ only in their seed are one group, with a mean and a spread."""

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from cifar_jax.config import RESUMABLE_KEYS, flatten
from cifar_jax.reporting.run import Run

MISSING = object()  # the value of a setting that a config does not have


@dataclasses.dataclass(frozen=True)
class Sample:
    """Values of several seeds.

    Attributes:
      mean: Of the values.
      std: Their standard deviation (of a sample: divided by n - 1); None where n is 1.
      n: How many there are.
    """

    mean: float
    std: float | None
    n: int


def sample(values: Sequence[float | None]) -> Sample | None:
    """Returns the mean and spread of the values that there are; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Sample(statistics.fmean(known), spread, len(known))


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config, whatever their seed.

    Attributes:
      name: That no other group of the report has.
      number: Of its colour.
      runs: All of them.
    """

    name: str
    number: int
    runs: Sequence[Run]

    @property
    def repeats(self) -> dict[str, Run]:
        """Runs of a seed that another one stands for, by name, with that other one."""
        chosen = {run.seed: run for run in self.samples}
        others = (run for run in self.runs if chosen[run.seed] is not run)
        return {run.name: chosen[run.seed] for run in others}

    @property
    def seeds(self) -> set[int]:
        """All seeds, of runs that have ended or not."""
        return {run.seed for run in self.runs}

    @property
    def finished(self) -> list[Run]:
        """Runs that have ended, one for each seed: the sample."""
        return [run for run in self.samples if run.result]

    def sample(self, value: Callable[[Run], float | None]) -> Sample | None:
        """Returns mean and spread of a value over the seeds that have ended."""
        return sample([value(run) for run in self.finished])

    @property
    def chose_on_test(self) -> bool:
        """Tells whether epochs were chosen on test images."""
        return self.runs[0].chose_on_test

    @property
    def latency(self) -> float | None:
        """The median of what was measured, in milliseconds, or None."""
        known = [run.latency for run in self.runs if run.latency is not None]
        return statistics.median(known) if known else None

    @property
    def samples(self) -> list[Run]:
        """The first run of each seed, rather one that has ended."""
        chosen = {}
        for run in sorted(self.runs, key=lambda run: run.result is None):
            chosen.setdefault(run.seed, run)
        return list(chosen.values())


def group(runs: Sequence[Run]) -> list[Group]:
    """Returns the groups, in the order of their first runs."""
    members = {}
    for run in runs:
        members.setdefault(_key(run), []).append(run)
    names = _names([[run.name for run in group] for group in members.values()])
    return [
        Group(name, number, group)
        for number, (name, group) in enumerate(
            zip(names, members.values(), strict=True)
        )
    ]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Returns the settings that differ between groups, with each group's value.

    That is `MISSING` where the group's version of the package had no such setting.
    """
    every = [_what_counts(group.runs[0]) for group in groups]
    keys = dict.fromkeys(key for each in every for key in each)
    values = {key: [each.get(key, MISSING) for each in every] for key in keys}
    return {key: each for key, each in values.items() if _differ(each)}


def _differ(values: Sequence[Any]) -> bool:
    known = (value for value in values if value is not MISSING)
    return len({json.dumps(value, sort_keys=True) for value in known}) > 1


def _what_counts(run: Run) -> dict[str, Any]:
    """Returns the settings that change what is computed, but for the seed."""
    return {
        key: value
        for key, value in flatten(run.config).items()
        if key != "seed" and not key.startswith(RESUMABLE_KEYS)
    }


def _key(run: Run) -> str:
    """Returns what runs of one group have in common."""
    return json.dumps(_what_counts(run), sort_keys=True)


def _names(members: Sequence[Sequence[str]]) -> list[str]:
    """Returns what the names of each group's runs have in common, or the first ones."""
    names = [runs[0] if len(runs) == 1 else _common(runs) for runs in members]
    return [
        name if name and names.count(name) == 1 else _listed(runs)
        for name, runs in zip(names, members, strict=True)
    ]


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 2} more" if len(names) > 3 else ""
    return ", ".join(names[:2] if rest else names) + rest


def _common(names: Sequence[str]) -> str:
    """Returns how all names begin, up to the number or letter of their seeds."""
    common = os.path.commonprefix(names)
    if any(name[len(common) :][:1].isdigit() for name in names):
        common = common.rstrip("0123456789")
    return re.sub(r"([\W_]+s|[\W_]*seed)?[\W_]*$", "", common)
