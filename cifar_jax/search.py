"""Runs a study: python -m cifar_jax.search --config configs/search/FILE --workdir DIR.

All its designs are held to the budget, trained with several seeds each, and laid out in
a table with error bars. Typed again, an interrupted study goes on; typed on other
machines that share DIR, it is shared. Any key can be overridden:
--config.study.seeds=5, --config.base.train.epochs=10.
"""

import pathlib
import sys

from cifar_jax import _cli, _runtime


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_string("workdir", "folder of the study [runs/ and the config's name]")
    flags.add_integer(
        "workers",
        "processes that do runs side by side on this machine",
        1,
        lower_bound=1,
    )
    flags.add_bool(
        "plan", "print the designs, their size and their time, and train nothing"
    )
    flags.add_bool(
        "plan_measure", "--plan: time a few designs here; else sizes alone", True
    )
    flags.add_bool("retry_failed", "do failed runs once more")
    flags.add_integer("worker", "number of this worker; set by the command itself")


def main(flags: _cli.Flags) -> int:
    """Runs, joins or goes on with a study, and writes its tables."""
    # slow to import: not for --help
    from cifar_jax.studies import folder, study

    path, _, variant = flags.config_path.partition(":")
    name = "_".join(filter(None, (pathlib.Path(path).stem, variant)))
    workdir = pathlib.Path(flags.workdir or pathlib.Path("runs", name))
    made = study.make(flags.config)
    if flags.plan:
        from cifar_jax.studies import plan

        plan.show(made, measure=flags.plan_measure, workers=flags.workers)
        return 0
    if flags.worker is not None:
        return _work(made, workdir, flags.workers)
    return folder.run(
        made,
        flags.config,
        workdir,
        command=[sys.executable, "-m", "cifar_jax.search", *flags.argv],
        workers=flags.workers,
        retry_failed=flags.retry_failed,
    )


def _work(made, workdir: pathlib.Path, num_workers: int) -> int:
    """Does runs until none is left: the part of one process of several."""
    from cifar_jax.studies import cores, crew
    from cifar_jax.training import interrupt

    crew.end_with_parent()
    if not crew.gpus():
        cores.take(made.threads or cores.share(num_workers))
    _runtime.start(made.rules.base.train.cpu_devices)

    from cifar_jax.studies import winner, worker
    from cifar_jax.studies.journal import Journal

    journal = Journal(made, workdir)
    try:
        worker.work(made, journal)
        winner.score(made, journal)
    except interrupt.Stopped as stopped:
        print(stopped)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
