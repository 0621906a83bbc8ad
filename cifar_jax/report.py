"""Reports on runs: python -m cifar_jax.report RUN [RUN ...].

RUN is a run directory, which may still be trained in, a result.json, exported weights,
or a name such as cifar10_cpu. Writes report.html, which needs no other file, and its
charts as plots/*.png.
"""

import datetime
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cifar_jax import _cli, _packaged, _runtime
from cifar_jax._files import OutputFolder

if TYPE_CHECKING:
    from cifar_jax.reporting.runs import Run


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.remedy = None
    flags.add_string(
        "output", "folder [the run directory; of several runs, runs/report]"
    )
    flags.add_bool("evaluate", "first evaluate the best weights of runs that lack it")


def main(flags: _cli.Flags) -> None:
    """Writes a report."""
    operands = flags.operands
    if not operands:
        raise _cli.UsageError("RUN is missing, such as runs/quickstart")
    if flags.output and flags.output.endswith(".html"):
        remedy = "a report is a folder of files; give one, such as runs/report"
        raise _cli.UsageError(f"--output is {flags.output}, but {remedy}")
    for operand in operands:
        _packaged.find_network(operand)
    more = f" and {len(operands) - 1} more" if len(operands) > 1 else ""
    print(f"reading {operands[0]}{more}", flush=True)
    # Slow to import, so not for --help.
    from cifar_jax.reporting import page
    from cifar_jax.reporting.runs import read_all

    runs = read_all(operands)
    # Otherwise the accelerator is busy with training, or not needed.
    _runtime.start(cpu_only=not (flags.evaluate and all(run.result for run in runs)))
    if flags.evaluate:
        evaluate_missing(runs)
        runs = read_all(operands)
    if flags.output:
        folder = pathlib.Path(flags.output)
    elif len(runs) == 1 and (runs[0].path / "config.json").exists():
        folder = runs[0].path
    else:
        folder = pathlib.Path("runs/report")
    files = page.make(runs, datetime.datetime.now()).write(folder)
    for line in page.summary(runs):
        print(line)
    print(f"{folder}: {', '.join(files)}")


def evaluate_missing(runs: Sequence["Run"]) -> None:
    """Scores the best weights of runs whose evaluation is missing or out of date.

    Args:
      runs: Runs, as `reporting.runs.read_all` returns them.
    """
    from cifar_jax.evaluation.evaluate import Request, evaluate

    for run in runs:
        if reason := run.reason_not_to_evaluate():
            print(f"{run.name} is not evaluated: {reason}")
            continue
        # Until the run has ended, its test images must not be looked at, and the
        # machine is too busy to measure latency.
        request = Request(run.path, validation=not run.may_test, latency=run.ended)
        evaluate(request, OutputFolder(run.path / "evaluation"))


if __name__ == "__main__":
    _cli.run()
