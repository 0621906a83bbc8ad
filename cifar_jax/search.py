"""Runs a study: python -m cifar_jax.search --config configs/search/FILE --workdir DIR.

All its designs are held to the budget, trained with several seeds each, and laid out in
a table with error bars. Type the command again to resume. Any key can be overridden:
--config.study.seeds=5, --config.base.train.epochs=10.
"""

import os
import re
from typing import TYPE_CHECKING

from cifar_jax import _cli, _runtime

if TYPE_CHECKING:
    from cifar_jax.studies.designs import Candidate
    from cifar_jax.studies.study import Study

NUM_EXAMPLES = 12  # of a space that is sampled


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("workdir", "folder of the study [runs/ and the config's name]")
    flags.add_string(
        "executor", "where runs are done: local, or Ray: ray, ray=ADDRESS", "local"
    )
    flags.add_integer(
        "workers",
        "runs side by side; 0: one for each GPU or TPU chip, else one; on Ray, all",
        0,
        lower_bound=0,
    )
    flags.add_bool(
        "plan", "print the designs, their size and their time, and train nothing"
    )
    flags.add_bool(
        "plan_measure", "--plan: time one design here; else sizes alone", default=True
    )
    flags.add_bool("retry_failed", "do failed runs once more")
    flags.add_string("part", "K/N: do only the K-th of N parts, and write no table")
    flags.add_bool("merge", "write the table of what parts have done; train nothing")


def main(flags: _cli.Flags) -> None:
    """Runs or resumes a study, and writes its tables."""
    workdir = flags.workdir or f"runs/{flags.config_name}"
    print(f"{flags.config_path}: a study, into {workdir}", flush=True)
    # slow to import: not for --help
    from cifar_jax.studies import driver, study

    if flags.plan:
        workers = max(1, flags.workers)
        made = study.make(flags.config)
        show_plan(made, measure=flags.plan_measure, workers=workers)
        return
    part = None
    if flags.merge and (flags.part or flags.retry_failed):
        raise _cli.UsageError("--merge takes neither --part nor --retry_failed")
    if flags.part:
        match = re.fullmatch(r"(\d+)/(\d+)", flags.part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise _cli.UsageError(f"--part is {flags.part}; use K/N, from 1/N to N/N")
        part = int(match[1]), int(match[2])
    driver.run_study(
        flags.config,
        workdir,
        executor=flags.executor,
        workers=flags.workers,
        retry_failed=flags.retry_failed,
        part=part,
        merge=flags.merge,
    )


def show_plan(study: "Study", *, measure: bool, workers: int) -> None:
    """Prints the designs of a study with their size, and the time that runs would take.

    Args:
      study: Study that is planned.
      measure: Whether to measure the time of one run here; that of the others follows
        from their multiply-adds.
      workers: Number of runs that are done side by side.
    """
    from cifar_jax.models import count, resnet
    from cifar_jax.studies import table
    from cifar_jax.training import dry_run
    from cifar_jax.training.progress import clock_time

    threads = study.options.threads or max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("NPROC", str(threads))  # as a worker has it
    _runtime.start(study.rules.base.train.cpu_devices)
    shape, classes = study.rules.image_shape, study.rules.num_classes
    candidates = study.candidates or examples(study)
    rows = {c.name: table.Row(c) for c in candidates if not c.skip_reason}
    macs, work = {}, {}  # of an image, of a run
    for name, row in rows.items():
        config = row.candidate.config
        model = resnet.create(num_classes=classes, image_shape=shape, **config.model)
        macs[name] = count.macs(model, shape)
        work[name] = macs[name] * config.train.epochs * config.train.repeats
    columns = table.columns(study, list(rows.values()), study.factors)
    columns["MACs"] = lambda row: f"{macs[row.candidate.name]:,}"
    num_designs = study.options.trials if study.is_sampled else len(rows)
    note = f"{num_designs} designs, {study.num_runs} runs"
    if measure and rows:
        middle = sorted(rows, key=work.__getitem__)[len(rows) // 2]
        print(f"measuring a run of {middle}", flush=True)
        factor = dry_run.seconds(rows[middle].candidate.config) / work[middle]
        times = {name: clock_time(number * factor) for name, number in work.items()}
        columns["time of a run"] = lambda row: times[row.candidate.name]
        mean = sum(work.values()) / len(rows) * factor
        total = clock_time(study.num_runs * mean / workers)
        note += f": about {total} here with --workers={workers}. That of {middle} is "
        note += f"measured ({threads} CPU threads); MACs and epochs tell the others"
    print(table.grid(columns, rows.values()))
    for candidate in candidates:
        if candidate.skip_reason:
            print(f"never started: {candidate.name}: {candidate.skip_reason}")
    print(note)


def examples(study: "Study") -> "list[Candidate]":
    """Returns some designs of a space that is sampled; the same ones each time."""
    import optuna

    from cifar_jax.studies import designs

    sampler = optuna.samplers.RandomSampler(seed=study.options.sampler_seed)
    draw = optuna.create_study(sampler=sampler)
    return [
        designs.candidate(study.rules, draw.ask(study.distributions).params, f"e{n}")
        for n in range(NUM_EXAMPLES)
    ]


if __name__ == "__main__":
    _cli.run()
