"""Runs a study: python -m cifar_jax.search --config configs/search/FILE --workdir DIR.

All its designs are held to the budget, trained with several seeds each, and laid out in
a table with error bars. Typed again, an interrupted study goes on; typed on other
machines that share DIR, it is shared. Any key can be overridden:
--config.study.seeds=5, --config.base.train.epochs=10.
"""

import pathlib
import sys

from absl import flags

from cifar_jax import _cli, _runtime

_CONFIG = _cli.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the study [runs/ and the config's name]"
)
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "processes that do runs side by side on this machine", lower_bound=1
)
_PLAN = flags.DEFINE_bool(
    "plan", False, "print the designs, their size and their time, and train nothing"
)
_MEASURE = flags.DEFINE_bool(
    "plan_measure", True, "--plan: time a few designs here; else sizes alone"
)
_RETRY = flags.DEFINE_bool("retry_failed", False, "do failed runs once more")
_WORKER = flags.DEFINE_integer(
    "worker", None, "number of this worker; set by the command itself"
)


def main() -> int:
    """Runs, joins or goes on with a study, and writes its tables."""
    # slow to import: not for --help
    from cifar_jax.studies import folder, study

    path, _, variant = flags.FLAGS["config"].config_filename.partition(":")
    name = "_".join(filter(None, (pathlib.Path(path).stem, variant)))
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs", name))
    made = study.make(_CONFIG.value)
    if _PLAN.value:
        from cifar_jax.studies import plan

        plan.show(made, measure=_MEASURE.value, workers=_WORKERS.value)
        return 0
    if _WORKER.value is not None:
        return _work(made, workdir)
    return folder.run(
        made,
        _CONFIG.value,
        workdir,
        command=[sys.executable, "-m", "cifar_jax.search", *sys.argv[1:]],
        workers=_WORKERS.value,
        retry_failed=_RETRY.value,
    )


def _work(made, workdir: pathlib.Path) -> int:
    """Does runs until none is left: the part of one process of several."""
    from cifar_jax.studies import cores, crew
    from cifar_jax.training import interrupt

    crew.end_with_parent()
    if not crew.gpus():
        cores.take(made.threads or cores.share(_WORKERS.value))
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
    _cli.run(main, __doc__)
