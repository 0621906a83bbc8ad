"""Runs a study: python -m cifar_jax.search --config configs/search/FILE --workdir DIR.

All its designs are held to the budget, trained with several seeds each, and laid out in
a table with error bars. Type the command again to resume. Any key can be overridden:
--config.study.seeds=5, --config.base.train.epochs=10.
"""

import pathlib
import re

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("workdir", "folder of the study [runs/ and the config's name]")
    flags.add_string(
        "executor", "where runs are done: local, or Ray: ray, ray=ADDRESS", "local"
    )
    flags.add_integer(
        "workers",
        "runs done side by side; 0: one for each GPU or TPU chip, else one; on Ray all "
        "that fit",
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


def main(flags: _cli.Flags) -> int:
    """Runs or resumes a study, and writes its tables."""
    path, _, variant = flags.config_path.partition(":")
    name = "_".join(filter(None, (pathlib.Path(path).stem, variant)))
    workdir = flags.workdir or pathlib.Path("runs", name)
    print(f"{flags.config_path}: a study, into {workdir}", flush=True)
    # slow to import: not for --help
    from cifar_jax.studies import driver, plan, study

    if flags.plan:
        workers = max(1, flags.workers)
        plan.show(study.make(flags.config), measure=flags.plan_measure, workers=workers)
        return 0
    part = None
    if flags.part:
        match = re.fullmatch(r"(\d+)/(\d+)", flags.part)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise _cli.UsageError(f"--part is {flags.part}; use K/N, from 1/N to N/N")
        part = int(match[1]), int(match[2])
    try:
        driver.run_study(
            flags.config,
            workdir,
            executor=flags.executor,
            workers=flags.workers,
            retry_failed=flags.retry_failed,
            part=part,
            merge=flags.merge,
        )
    except driver.Stopped as stopped:
        print(stopped)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
