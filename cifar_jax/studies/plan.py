"""What a study costs, before it is started."""

import random
from collections.abc import Sequence

import rich.table

from cifar_jax.studies import designs, live, table
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.study import Study
from cifar_jax.training.progress import clock_time

_EXAMPLES = 12  # of a space that is sampled


def show(study: Study, *, measure: bool, workers: int) -> None:
    """Prints the designs of a study with their size, and the time that runs would take.

    Args:
      study: As `study.make` has made it.
      measure: Whether to time a few of them here.
      workers: That share the machine.
    """
    console = live.make_console()
    candidates = list(study.candidates) or examples(study)
    sound = [each for each in candidates if not each.refusal]
    seconds, measured, note = {}, set(), ""
    del measure, workers  # times come back with the driver
    console.print(_table(study, candidates, seconds, measured))
    for each in candidates:
        if each.refusal:
            console.print(f"never started: {each.name}: {each.refusal}", markup=False)
    count = study.trials if study.samples else len(sound)
    console.print(f"{count} designs, {study.runs} runs{note}", soft_wrap=True)


def examples(study: Study) -> list[Candidate]:
    """Returns some designs of a space that is sampled; the same ones each time."""
    draw, found = random.Random(study.sampler_seed), []
    for number in range(_EXAMPLES):
        factors = {}
        for axis in study.space:
            if "values" in axis:
                factors[axis["factor"]] = draw.choice(axis["values"])
            elif isinstance(axis["low"], int) and isinstance(axis["high"], int):
                factors[axis["factor"]] = draw.randint(axis["low"], axis["high"])
            else:
                low, high = axis["low"], axis["high"]
                share = draw.random()
                log = axis.get("log", False)
                value = (
                    low * (high / low) ** share if log else low + share * (high - low)
                )
                factors[axis["factor"]] = value
        found.append(designs.candidate(study.rules, factors, f"example{number}"))
    return found


def _table(study: Study, candidates, seconds, measured) -> rich.table.Table:
    names = [] if study.kind == "list" else _factors(candidates)
    shown = rich.table.Table()
    shown.add_column("design")
    for name in (*map(table.short, names), "widths", "parameters", "MACs"):
        shown.add_column(name, justify="right")
    if seconds:
        shown.add_column("time of a run", justify="right")
    for each in candidates:
        if each.refusal:
            continue
        cells = [each.name]
        cells += [table.text(each.factors.get(name, "")) for name in names]
        cells += [table.text(each.widths), f"{each.num_parameters:,}"]
        cells += [f"{each.cost.macs:,}"]
        if seconds:
            mark = "*" if each.name in measured else " "
            cells.append(f"{clock_time(seconds[each.name])}{mark}")
        shown.add_row(*cells)
    return shown


def _factors(candidates: Sequence[Candidate]) -> list[str]:
    return list(dict.fromkeys(name for each in candidates for name in each.factors))
